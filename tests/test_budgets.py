"""What the agent may cost, as the packages bring it: the budgets whose figures do not depend on the machine."""

import hashlib
import io
import re
import tarfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import docker
import pytest
from fixtures_agent import Daemon, Machine, app
from moto.dynamodb.models import dynamodb_backends
from test_boot import free_port, table
from web import Answer, Web

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.imds import Instance
from adf_agent.sandbox.member import Hook

MB = 1_000_000
LARGE = 200 * MB  # bytes
RESIDENT = 60 * MB
PEAK = 100 * MB
GROWTH = 10 * MB  # of the peak, from a release of nothing to a large one
HOOKS = Hook("adf-launch", "launch"), Hook("adf-terminate", "terminate")

# A boot's calls: where it stands, its hook, what is attached; config's revision before and after its two partitions.
CALLS = Counter(
    {
        "autoscaling:DescribeAutoScalingInstances": 1,
        "autoscaling:DescribeLifecycleHooks": 1,
        "autoscaling:CompleteLifecycleAction": 1,
        "dynamodb:GetItem": 2,
        "dynamodb:Query": 2,
        "elasticloadbalancing:RegisterTargets": 1,
    }
)
RECORD = "dynamodb:PutItem"  # the fleet record's: the first and the last, and no more than one in 5 s between
RECORD_SECONDS = 5
POLLS = "autoscaling:RecordLifecycleActionHeartbeat", "elasticloadbalancing:DescribeTargetHealth"

# Three tokens (the boot's, that of who looks out for notices, the SDK's for its credentials), the identity, user-data,
# the tags' list, whether it is a spot instance, and the credentials by their role's name: two.
MOST_ASKED = 9
MOST_CONNECTIONS = 3  # one each
TARGET = "/latest/meta-data/autoscaling/target-lifecycle-state"
NOTICES = TARGET, "/latest/meta-data/spot/instance-action", "/latest/meta-data/events/recommendations/rebalance"
TURNS = 3  # looks at the group's target, 2 s apart, while which the loop turns twice as often


@dataclass(frozen=True)
class Figures:
    """What a boot has come to, and *later* some turns of the loop in service; sizes are bytes."""

    calls: Counter[str]
    asked: Counter[str]
    connections: int
    seconds: float
    later: tuple[Counter[str], Counter[str], int]  # calls, requests to IMDS and connections, all since
    resident: int
    peak: int
    written: int
    release: int


@dataclass(frozen=True)
class Agent:
    """The packages' agent, as systemd starts it."""

    command: Path
    environment: Mapping[str, str]
    engine: docker.DockerClient

    def served(self, blob: int, turns: int = 0) -> Figures:
        """Boots a release with a file of *blob* bytes, on a spot instance with all that an instance may have."""
        with ExitStack() as stack:
            # Not in memory, where nothing would be written.
            name = stack.enter_context(TemporaryDirectory(prefix="adf-", dir="/var/tmp"))
            cloud = stack.enter_context(Cloud(Instance(life_cycle="spot", tags={"Name": "web"})))
            web = stack.enter_context(Web())
            environment = {**cloud.environment(), **self.environment, "ADF_ROOT": name}
            machine = Machine(cloud, web, self.engine, Path(name), environment, command=(str(self.command),))
            stack.callback(machine.clean)
            archive = Path(name) / "v1.tar.gz"
            pack(archive, blob)
            table(machine, GREETING="hello", LEVEL="info")
            group = stack.enter_context(Group(cloud, "web", HOOKS))
            machine.user_data(**settings(machine, archive))
            group.launch()
            cloud.calls.clear()
            return measured(machine, group, turns, archive.stat().st_size)


def pack(path: Path, blob: int) -> None:
    """A release that serves, with *blob* bytes beside what is served; its gzip takes no time."""
    with tarfile.open(path, "w:gz", compresslevel=0) as tar, Path("/dev/zero").open("rb") as zeros:
        for name, content in app().items():
            data = str(content).encode()
            add(tar, name, len(data), io.BytesIO(data))
        add(tar, "blob", blob, zeros)


def add(tar: tarfile.TarFile, name: str, size: int, content: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    tar.addfile(member, content)


def settings(machine: Machine, archive: Path) -> dict[str, str]:
    """Those of an instance that downloads *archive*, reads config and registers with a target group."""
    [vpc, *_] = machine.cloud.client("ec2").describe_vpcs()["Vpcs"]
    request = {"Name": "web", "Protocol": "HTTP", "Port": 8000, "VpcId": vpc["VpcId"]}
    made: Any = machine.cloud.client("elbv2").create_target_group(**request)["TargetGroups"]
    headers = {"Content-Length": str(archive.stat().st_size)}
    machine.web.routes["/v1.tar.gz"] = lambda _: Answer(headers=headers, more=chunks(archive))
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "RELEASE_URL": f"{machine.web.url}/v1.tar.gz#sha256={digest}",
        "ADF_APP": "web",
        "ADF_PUBLISH": f"{free_port()}:8000",
        "ADF_HEALTH": "http://:8000/",
        "ADF_TARGET_GROUPS": made[0]["TargetGroupArn"],
    }


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def measured(machine: Machine, group: Group, turns: int, release: int) -> Figures:
    cloud, imds, started = machine.cloud, machine.cloud.imds, time.monotonic()
    agent = machine.daemon()
    agent.reach("in service", 90)
    group.wait_for("InService")
    agent.until(lambda: recorded(cloud) == "in service", "the fleet record's last word")
    seconds, connections = time.monotonic() - started, imds.connections
    calls, asked = cloud.calls.copy(), imds.requests.copy()
    agent.until(lambda: imds.requests[TARGET] >= asked[TARGET] + turns, "more looks at the target")
    later = cloud.calls - calls, imds.requests - asked, imds.connections - connections
    resident, peak = memory(agent, "VmRSS"), memory(agent, "VmHWM")
    return Figures(calls, asked, connections, seconds, later, resident, peak, written(agent), release)


def recorded(cloud: Cloud) -> str:
    """The phase in the fleet record; read from moto's state, which is no call."""
    place = cloud.imds.instance
    key = {"App": {"S": "web#fleet"}, "Name": {"S": place.instance_id}}
    found: Any = dynamodb_backends[place.account][place.region].get_item("adf-config", key)
    return str(found.attrs["Phase"].value) if found else ""


def memory(agent: Daemon, name: str) -> int:
    """Bytes of that *name* (proc(5))."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{agent.process.pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def written(agent: Daemon) -> int:
    """Bytes that the agent, and commands that it ran, had the kernel write to a disk: neither pipes nor sockets."""
    facts = dict(re.findall(r"(\w+): (\d+)", Path(f"/proc/{agent.process.pid}/io").read_text()))
    return int(facts["write_bytes"])


@pytest.fixture(scope="module")
def agent(unpacked: Path, unit: Mapping[str, list[str]], docker_client: docker.DockerClient, base_image: str) -> Agent:
    assert base_image
    heaps = dict(each.split("=", 1) for each in unit["Environment"] if each.startswith("MALLOC_"))
    return Agent(unpacked / "usr/bin/adf-agent", heaps, docker_client)


@pytest.fixture(scope="module")
def small(agent: Agent) -> Figures:
    return agent.served(0, TURNS)


@pytest.fixture(scope="module")
def large(agent: Agent) -> Figures:
    return agent.served(LARGE)


def test_in_service_it_stays_within_its_memory(small: Figures, large: Figures) -> None:
    """An agent that takes from the app what the smallest instance has to give."""
    assert max(small.resident, large.resident) <= RESIDENT


def test_memory_does_not_grow_with_the_release(small: Figures, large: Figures) -> None:
    """A release that has outgrown the instance's memory, and ends every boot of it."""
    assert large.peak <= PEAK
    assert large.peak - small.peak <= GROWTH, (small.peak, large.peak)


def test_a_boot_asks_aws_for_what_it_needs_once(small: Figures) -> None:
    """A fleet that boots at once and is throttled by its own questions."""
    counted = Counter({name: times for name, times in small.calls.items() if name not in POLLS})
    assert counted[RECORD] <= 2 + small.seconds / RECORD_SECONDS
    counted[RECORD] = min(2, counted[RECORD])  # a slow machine is no other agent
    assert counted <= CALLS + Counter({RECORD: 2}), counted - CALLS


def test_in_service_it_asks_aws_nothing(small: Figures) -> None:
    """An account whose every instance polls: the roll of another app is throttled."""
    calls, asked, _ = small.later
    assert asked[TARGET] >= TURNS
    assert calls == {}


def test_a_boot_asks_the_metadata_service_little(small: Figures) -> None:
    """More packets than the metadata service lets through, shared with the app's own SDK: it gets no credentials."""
    asked = Counter({path: times for path, times in small.asked.items() if path not in NOTICES})
    assert 0 < asked.total() <= MOST_ASKED, asked
    assert small.connections <= MOST_CONNECTIONS


def test_in_service_one_connection_is_kept_for_notices_alone(small: Figures) -> None:
    """A connection a question: 30,000 a day that each instance opens, and tracks."""
    _, asked, connections = small.later
    assert asked[TARGET] >= TURNS
    assert connections == 0
    assert set(asked) <= set(NOTICES)


def test_a_release_is_written_once(large: Figures) -> None:
    """A release that is copied or unpacked beside its download: twice the disk, and as long again on a small volume."""
    assert large.written >= large.release, "what is written to /var/tmp is not counted: is it in memory?"
    assert large.written <= 1.1 * large.release + MB
