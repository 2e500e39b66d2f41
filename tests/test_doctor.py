"""`adf-agent doctor`: the true cause, and what mends it, found from a real instance that something is wrong with."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from conftest import Unprivileged
from fixtures_agent import BASE, Machine, app
from fixtures_engine import OwnEngine
from test_bad_input import registry
from test_boot import free_port, table

from adf_agent import aws
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.doctor import agent, check, metadata, ports, ranking, unit
from adf_agent.doctor import engine as engine_checks
from adf_agent.doctor import machine as machine_checks
from adf_agent.doctor.check import Finding, Skipped
from adf_agent.errors import ConfigError
from adf_agent.notation import Port
from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.front import AwsFault
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.imds import SILENCE, Fault, Imds
from adf_agent.sandbox.member import Hook
from adf_agent.sandbox.pool import Pool

HOOKS = (Hook("adf-launch", "launch"), Hook("adf-terminate", "terminate"))
COMMAND = re.compile(
    r"(?:^|: )((?:sudo|adf-agent|adf-config|aws|docker|df|ps|ss|journalctl|initctl|systemctl|timedatectl) .*)$"
)
BARE = re.compile(r"(?<!sudo )(?<!/)(?:systemctl|initctl) (?:start|stop|restart|reload|enable|unmask)")
MOST_SECONDS = 8.0  # on a busy machine; on a quiet one less than 5
KEY = "RWQHA8ggSfBn0SEii3GLjfwE5rvnzW+8/CY27wxhyqkQ5XcMK2jZGdwo"  # somebody's
STOP = "[container]\nstop_timeout = 1\n"


@dataclass(frozen=True)
class Examined:
    code: int
    findings: list[dict[str, str]]
    seconds: float  # the doctor's own, from its process's start on

    def of(self, check: str, level: str = "") -> list[dict[str, str]]:
        return [each for each in self.findings if each["check"] == check and level in ("", each["level"])]

    def worst(self) -> list[dict[str, str]]:
        return [each for each in self.findings if each["level"] == "fail"]


def doctor(machine: Machine, **environment: str) -> Examined:
    """What `adf-agent doctor --json` finds on *machine*."""
    ran = machine.run("doctor", "--json", **environment)
    assert ran.out, ran.log
    found = json.loads(ran.out)
    for each in found["findings"]:
        check_fix(each["fix"])
    return Examined(ran.code, found["findings"], found["seconds"])


def check_fix(fix: str) -> None:
    """That a command at the end of *fix* can be typed as it stands."""
    if command := COMMAND.search(fix):
        assert "; " not in command[1], fix
        assert subprocess.run(["bash", "-n", "-c", command[1]], capture_output=True, check=False).returncode == 0, fix
    assert not BARE.search(fix), fix


@dataclass
class World:
    """An instance in a group, with a config table and a target group of its own."""

    machine: Machine
    group: Group
    own: Pool
    port: int


@pytest.fixture
def world(machine: Machine, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        port = free_port()
        balancer = stack.enter_context(Balancer(machine.cloud, tmp_path / "haproxy"))
        own = balancer.target_group("own", port)
        group = stack.enter_context(Group(machine.cloud, "web", HOOKS))
        table(machine, GREETING="hi")
        machine.user_data(
            RELEASE_URL=machine.release(app(adf_toml=STOP)),
            ADF_PUBLISH=f"{port}:8000",
            ADF_APP="web",
            ADF_TARGET_GROUPS=own.arn,
        )
        group.launch()
        yield World(machine, group, own, port)
        machine.cloud.faults = []
        machine.clean()


def test_an_instance_in_service_has_nothing_to_mend(world: World) -> None:
    """A doctor that calls a healthy instance ill is not believed on the night when one is."""
    world.machine.daemon().reach("in service")
    world.group.wait_for("InService")
    found = doctor(world.machine)
    assert found.worst() == []
    assert found.code == 0
    well = {each["check"] for each in found.findings if each["level"] == "ok"}
    assert well >= {
        *("agent", "clock", "disk", "memory", "docker", "docker's disk", "builder", "imds", "hop limit", "user-data"),
        *("tags", "settings", "credentials", "release", "config", "ports", "group", "hooks", "balancers"),
        *("permissions", "group's permissions"),
    }


def test_what_is_tried_leaves_nothing_changed(world: World) -> None:
    """A doctor that registers, completes or writes something while it looks."""
    machine, instance = world.machine, world.machine.cloud.imds.instance.instance_id
    dynamodb, elbv2 = machine.cloud.client("dynamodb"), machine.cloud.client("elbv2")

    def seen() -> tuple[Any, ...]:
        items = dynamodb.scan(TableName="adf-config", ConsistentRead=True)["Items"]
        targets = elbv2.describe_target_health(TargetGroupArn=world.own.arn)["TargetHealthDescriptions"]
        names = {(item["App"]["S"], item["Name"]["S"], "Release" in item or "Value" in item) for item in items}
        return names, [each["Target"]["Id"] for each in targets]

    machine.daemon()
    world.group.wait_for("InService")
    assert doctor(machine).code == 0
    assert seen() == ({("web", "GREETING", True), ("web#fleet", instance, True)}, [instance])
    calls = machine.cloud.calls
    assert calls["autoscaling:SetInstanceHealth"] == 0
    assert calls["elasticloadbalancing:RegisterTargets"] == 1, "the agent's own"


Prepare = Callable[[Machine], object]
Case = tuple[Prepare, str, str, str, str]  # what breaks it; check, level, words of the sentence and of the fix


def fault(action: str, code: str = "AccessDenied") -> Prepare:
    return lambda machine: machine.cloud.faults.append(AwsFault(action, code, message="as ordered"))


def launched(**settings: str) -> Prepare:
    return lambda machine: machine.user_data(**settings)


def unprofiled(machine: Machine) -> None:
    machine.cloud.imds.instance.role = None


def pinned(machine: Machine) -> None:
    machine.user_data(RELEASE_URL=f"{machine.release(app(), 'v2.tar.gz')}#sha256={'0' * 64}")


def guarded(**guards: str) -> Prepare:
    def prepare(machine: Machine) -> None:
        machine.agent_env(**guards)
        machine.user_data(RELEASE_URL=machine.release(app(), "v2.tar.gz"))

    return prepare


def unhooked(machine: Machine) -> None:
    machine.user_data(RELEASE_URL=machine.release(app()), ADF_LAUNCH_HOOK="gone")
    client = machine.cloud.client("autoscaling")
    client.delete_lifecycle_hook(AutoScalingGroupName="web", LifecycleHookName="adf-launch")


def answering(status: int) -> Prepare:
    return lambda machine: machine.cloud.imds.faults.append(Fault(status))


ALONE: dict[str, Case] = {
    "no RELEASE_URL": (launched(), "settings", "fail", "RELEASE_URL is set nowhere", "launch template's user-data"),
    "a typo": (launched(ADF_APPP="web"), "settings", "fail", "'ADF_APPP' from user-data", "Mend the user-data"),
    "wrong digest": (pinned, "release", "fail", f"RELEASE_URL pins {'0' * 64}", "mend #sha256="),
    "unsigned": (guarded(ADF_RELEASE_KEYS=KEY), "release", "fail", "is not signed", "adf-release create --sign"),
    "not from there": (
        guarded(ADF_RELEASE_SOURCES="s3://releases/web"),
        *("release", "fail", "is no source of releases to this AMI", "allows s3://releases/web"),
    ),
    "no file": (
        launched(RELEASE_URL="file:///none.tar"),
        "release",
        "fail",
        "/none.tar is no file",
        "Mend RELEASE_URL",
    ),
    "no object": (launched(RELEASE_URL="s3://none/v1.tar"), "release", "fail", "s3:GetObject on none/v1.tar", "none"),
    "no instance profile": (unprofiled, "credentials", "fail", "no instance profile", "associate-iam-instance-profile"),
    "table denied": (fault("dynamodb:Query"), "config", "fail", "dynamodb:Query on table adf-config", "Allow dynamodb"),
    "table throttled": (fault("dynamodb:*", "ThrottlingException"), "config", "warn", "Throttling", "It may pass"),
    "record denied": (fault("dynamodb:PutItem"), "permissions", "warn", "no fleet record is kept", "dynamodb:PutItem"),
    "tags denied": (
        fault("ec2:DescribeTags", "UnauthorizedOperation"),
        *("tags", "warn", "ec2:DescribeTags on * is denied", "--instance-metadata-tags enabled"),
    ),
    "IMDS off": (answering(403), "imds", "fail", "is switched off", "--http-endpoint enabled"),
    "IMDS throttles": (answering(503), "imds", "fail", "it answers 503", "HttpPutResponseHopLimit"),
}
GROUPED: dict[str, Case] = {
    "group denied": (
        fault("autoscaling:DescribeAutoScalingInstances"),
        *("group", "warn", "no hook is completed", "Allow autoscaling:DescribeAutoScalingInstances on *"),
    ),
    "hook denied": (
        fault("autoscaling:CompleteLifecycleAction"),
        *("group's permissions", "warn", "its hooks time out", "Allow autoscaling:CompleteLifecycleAction"),
    ),
    "leaving denied": (
        fault("elasticloadbalancing:DeregisterTargets"),
        *("permissions", "warn", "a drain goes on without", "Allow elasticloadbalancing:DeregisterTargets"),
    ),
    "health denied": (
        fault("elasticloadbalancing:DescribeTargetHealth"),
        *("balancers", "warn", "taken for healthy", "Allow elasticloadbalancing:DescribeTargetHealth"),
    ),
    "hook gone": (unhooked, "hooks", "fail", "web has no launch hook gone", "put-lifecycle-hook"),
    "no agent in a launch": (lambda _: None, "group", "fail", "no agent runs that would", "systemctl start adf-agent"),
}


@pytest.fixture
def lone(machine: Machine) -> Iterator[Machine]:
    """An instance in no group, with a config table and a release."""
    table(machine, GREETING="hi")
    machine.user_data(RELEASE_URL=machine.release(app(adf_toml=STOP)), ADF_APP="web")
    yield machine
    machine.cloud.faults = []


def check_found(machine: Machine, case: Case) -> None:
    """Breaks *machine* by *case*, and looks for the finding that says so."""
    prepare, check, level, sentence, fix = case
    prepare(machine)
    examined = doctor(machine)
    found = [each for each in examined.of(check, level) if sentence in each["sentence"]]
    assert found, examined.findings
    assert fix in found[0]["fix"]
    assert examined.code == bool(examined.worst())


@pytest.mark.parametrize("case", ALONE.values(), ids=ALONE)
def test_what_is_broken_is_named_with_what_mends_it(lone: Machine, case: Case) -> None:
    """An operator who reads twenty green lines while the instance is replaced again and again."""
    check_found(lone, case)


@pytest.mark.parametrize("case", GROUPED.values(), ids=GROUPED)
def test_what_is_broken_in_a_group_is_named_too(world: World, case: Case) -> None:
    """A launch that is abandoned again and again, as a hook is gone or a permission missing."""
    world.group.wait_for("Pending:Wait")
    check_found(world.machine, case)
    assert world.group.state == "Pending:Wait"
    assert (world.group.completed, world.group.heartbeats) == ([], {}), "nothing happened to it"


def test_a_target_that_is_unhealthy_says_why(world: World) -> None:
    """An app that its own probe calls well, and no request reaches."""
    machine = world.machine
    # Registered and never started: haproxy's own check finds nobody on the port.
    instance = machine.cloud.imds.instance.instance_id
    elbv2 = machine.cloud.client("elbv2")
    elbv2.register_targets(TargetGroupArn=world.own.arn, Targets=[{"Id": instance}])
    limit = time.monotonic() + 30
    while world.own.state != "unhealthy":
        assert time.monotonic() < limit, world.own.state
        threading.Event().wait(0.1)
    (found,) = doctor(machine).of("balancers", "fail")
    assert "target group own: unhealthy, Target.FailedHealthChecks" in found["sentence"]
    assert "ADF_PUBLISH" in found["fix"]


def test_a_port_of_somebody_elses_is_the_cause_of_a_failed_boot(lone: Machine) -> None:
    """“Port is already allocated”, and nobody knows by whom."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        booted = lone.boot(RELEASE_URL=lone.release(app()), ADF_PUBLISH=f"{port}:8000")
        assert booted.code == 15, booted.log
        first, second, *_ = doctor(lone).worst()
    assert first["check"] == "ports"
    assert first["sentence"].startswith(f"port {port} of the host is taken by ")
    assert f"process {os.getpid()}" in first["sentence"]
    assert "ADF_PUBLISH" in first["fix"]
    assert (second["check"], "stage container" in second["sentence"]) == ("agent", True)


def test_a_port_of_another_container_is_named(lone: Machine, base_image: str) -> None:
    """The container of an app that somebody tried by hand, and forgot."""
    port = free_port()
    other = lone.engine.containers.run(
        base_image, ["sleep", "60"], detach=True, ports={"8000/tcp": ("127.0.0.1", port)}
    )
    lone.closing.append(lambda: other.remove(force=True))
    lone.user_data(RELEASE_URL=lone.release(app()), ADF_PUBLISH=f"{port}:8000")
    (found,) = doctor(lone).of("ports", "fail")
    assert f"taken by the container {other.name}" in found["sentence"]
    assert found["fix"] == f"sudo docker stop {other.name}"


@pytest.mark.parametrize(("ahead", "level"), [(3600, "fail"), (-3600, "fail"), (60, "warn")])
def test_a_clock_that_is_off_is_found(lone: Machine, monkeypatch: pytest.MonkeyPatch, ahead: float, level: str) -> None:
    """Every call to AWS refused as InvalidSignature, and roles, policies and keys searched for hours."""
    # The time of day is the same for every process of the machine: the service's is moved, not the agent's.
    monkeypatch.setattr(
        BaseHTTPRequestHandler, "date_time_string", lambda *_: formatdate(time.time() + ahead, usegmt=True)
    )
    (found,) = doctor(lone).of("clock", level)
    said = re.match(r"the clock is (\d+) s (behind|ahead of) AWS's", found["sentence"])
    assert said, found
    assert said[2] == ("behind" if ahead > 0 else "ahead of")
    assert abs(int(said[1]) - abs(ahead)) <= 2, "a Date has whole seconds"
    assert "timedatectl" in found["fix"]


def test_a_failed_boot_leads_with_its_cause_and_a_killed_agent_is_named(lone: Machine) -> None:
    """Twenty findings, and the one that matters in the middle."""
    lone.cloud.faults = [AwsFault("dynamodb:*", "AccessDeniedException", message="as ordered")]
    assert lone.run("boot").code == 13
    first, second, *_ = doctor(lone).findings
    assert (first["check"], first["level"]) == ("config", "fail")
    assert second["sentence"] == "the boot failed at stage config for that reason"
    lone.cloud.faults = []
    port = free_port()
    lone.user_data(RELEASE_URL=lone.release(app()), ADF_PUBLISH=f"{port}:8000")
    agent = lone.daemon()
    agent.reach("in service")
    agent.kill()
    first, *_ = doctor(lone).findings
    assert (first["check"], first["level"]) == ("agent", "fail")
    assert "it was in service, and it was killed, or crashed" in first["sentence"]
    assert first["fix"].endswith(": sudo systemctl start adf-agent")


def test_docker_that_is_stopped_is_found_in_time(lone: Machine, own_engine: OwnEngine) -> None:
    """`docker ps` that never returns, and a doctor that does not either."""
    own_engine.send(signal.SIGSTOP)
    examined = doctor(lone, DOCKER_HOST=own_engine.host)
    (found,) = examined.of("docker", "fail")
    assert "does not answer" in found["sentence"]
    assert found["fix"].endswith(": sudo systemctl start docker")
    assert examined.of("docker's disk")[0]["sentence"] == "skipped because Docker does not answer"
    assert examined.of("config", "ok"), "what does not need Docker is tried all the same"


def test_a_registry_is_asked_by_the_engine_itself(lone: Machine) -> None:
    """An image that was never pushed, a registry that is down: found by a boot, a quarter of an hour later."""
    with registry(lone.root) as address:
        image = lone.engine.images.get(BASE)
        image.tag(f"{address}/web", "v3")
        lone.engine.images.push(f"{address}/web", "v3")
        lone.engine.images.remove(f"{address}/web:v3")
        lone.user_data(RELEASE_URL=f"docker://{address}/web:v3")
        login, there = doctor(lone).of("registry", "ok")
        lone.user_data(RELEASE_URL=f"docker://{address}/web:v4")
        (absent,) = doctor(lone).of("registry", "fail")
    (down,) = doctor(lone).of("registry", "fail")
    assert login["sentence"].startswith(f"no login for {address} in ")
    assert f"{address} has {address}/web:v3, sha256:" in there["sentence"]
    assert f"{address}/web:v4 can't be pulled" in absent["sentence"]
    assert "See that the registry holds this tag" in absent["fix"]
    assert "connection refused" in down["sentence"]


def test_a_release_in_s3_is_opened_and_not_read(lone: Machine) -> None:
    """A doctor that downloads two gigabytes, or one that knows nothing of the object's version and size."""
    s3 = lone.cloud.client("s3")
    s3.create_bucket(Bucket="releases", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="releases", Key="v1.tar.gz", Body=bytes(3_000_000))
    pin = "0" * 64
    lone.user_data(RELEASE_URL=f"s3://releases/v1.tar.gz#sha256={pin}")
    (found,) = doctor(lone).of("release", "ok")
    assert found["sentence"].startswith("s3://releases/v1.tar.gz is there, 3.0 MB, pinned")


@contextmanager
def silent() -> Iterator[tuple[str, str]]:
    """A TCP address and a Unix socket that take connections, and never say anything."""
    with (
        TemporaryDirectory(prefix="adf-") as folder,
        socket.create_server(("127.0.0.1", 0), backlog=200) as tcp,
        closing(socket.socket(socket.AF_UNIX)) as unix,
    ):
        unix.bind(f"{folder}/docker.sock")
        unix.listen(200)
        yield f"http://127.0.0.1:{tcp.getsockname()[1]}", f"unix://{folder}/docker.sock"


@pytest.mark.parametrize("metadata_too", [True, False])
def test_it_ends_when_everything_hangs(lone: Machine, metadata_too: bool) -> None:
    """A doctor that hangs with what it is to examine."""
    with silent() as (http, docker_host):
        lone.user_data(RELEASE_URL=f"{http}/v1.tar.gz#sha256={'0' * 64}", ADF_APP="web", ADF_PUBLISH="8000")
        lone.cloud.imds.instance.tags = {"ADF_LOG_TAIL": "on"}
        endpoint = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": http} if metadata_too else {}
        examined = doctor(lone, DOCKER_HOST=docker_host, AWS_ENDPOINT_URL=http, **endpoint)
    hung = {"docker", "imds"} if metadata_too else {"docker", "release", "config", "permissions"}
    said = {each["check"]: each["sentence"] for each in examined.worst()}
    assert said.keys() == hung
    assert all("answer" in sentence for sentence in said.values())
    skipped = {each["check"] for each in examined.findings if each["level"] == "skipped"}
    assert "docker's disk" in skipped
    if metadata_too:
        assert skipped >= {"settings", "release", "config", "permissions", "group", "tags", "credentials"}
    assert examined.code == 1
    assert examined.seconds < MOST_SECONDS


@contextmanager
def half_an_engine() -> Iterator[str]:
    """Of an engine that tells what it is, and hangs at each other question, as one does whose containers are stuck."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.endswith(("/version", "/info")):
                ended.wait(60)
                return
            facts = {"ApiVersion": "1.41", "ServerVersion": "20.10.25", "Driver": "overlay2", "DockerRootDir": "/"}
            body = json.dumps(facts).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"tcp://127.0.0.1:{server.server_port}"
        finally:
            ended.set()
            server.shutdown()


def test_docker_that_hangs_at_its_containers_is_no_matter_of_the_network(lone: Machine) -> None:
    """“See the VPC endpoint”, of a `docker ps` that never returns."""
    lone.user_data(RELEASE_URL=lone.release(app()), ADF_PUBLISH=f"{free_port()}:8000")
    with half_an_engine() as host:
        examined = doctor(lone, DOCKER_HOST=host)
    assert examined.of("docker", "ok"), "it says what it is"
    (found,) = examined.of("ports", "fail")
    assert "did not answer" in found["sentence"]
    assert "docker" in found["fix"]
    assert "VPC" not in found["fix"]
    assert examined.seconds < MOST_SECONDS


@contextmanager
def ordinary(lone: Machine, unprivileged: Unprivileged, record: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The environment of a user outside Docker's group on an instance whose agent left *record*."""
    run, var = unprivileged.folder / "run/adf-agent", unprivileged.folder / "var/lib/adf-agent"
    for made in (run, var):
        made.mkdir(parents=True)
    (var / "state.json").write_text("{}")
    (var / "state.json").chmod(0)
    (run / "status.json").write_text(json.dumps({"schema": 1, **record}))
    with closing(socket.socket(socket.AF_UNIX)) as closed, TemporaryDirectory(prefix="adf-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "docker.sock")
        closed.bind(str(path))
        closed.listen()
        path.chmod(0)
        yield {**lone.environment, "ADF_ROOT": str(unprivileged.folder), "DOCKER_HOST": f"unix://{path}"}


def test_an_ordinary_user_is_not_told_that_the_app_has_the_app_s_port(
    lone: Machine, unprivileged: Unprivileged
) -> None:
    """“Port 80 is taken by another process, stop it”, on an instance that serves: somebody stops the app."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = f"{taken.getsockname()[1]}:8000"
        lone.user_data(RELEASE_URL=lone.release(app()), ADF_PUBLISH=port)
        record = {"phase": "stopped", "container": {"name": "adf-app", "ports": [port]}}
        with ordinary(lone, unprivileged, record) as environment:
            process = unprivileged("-m", "adf_agent", "doctor", "--json", env=environment)
            out, log = process.communicate(timeout=60)
    found = Examined(process.returncode, json.loads(out)["findings"], json.loads(out)["seconds"])
    assert [each["sentence"] for each in found.of("ports")] == [
        "skipped because Docker does not answer, which has our container's ports"
    ], log
    assert found.worst() == []
    assert found.code == 0
    assert "Permission denied" in found.of("release", "skipped")[0]["sentence"]
    assert found.seconds < MOST_SECONDS


@pytest.mark.parametrize(
    ("process", "published", "level"),
    [
        ("docker-proxy", [], "skipped"),
        ("nginx", [], "fail"),
        ("nginx", ["{}:8000"], "skipped"),
        ("nginx", None, "fail"),
    ],
)
def test_a_port_is_docker_s_own_where_docker_hangs(process: str, published: list[str] | None, level: str) -> None:
    """“Stop docker-proxy”, on the night when dockerd hangs and the app still serves."""
    comm = Path("/proc/self/comm")
    former = comm.read_text()
    comm.write_text(process)
    try:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            shown = None if published is None else [each.format(number) for each in published]
            port = Port.parse(f"{number}:8000")
            found = ports.judge(port, "127.0.0.1", "adf-app", (), ports.listening(), shown)
    finally:
        comm.write_text(former)
    assert found.level == level, found


def test_a_status_that_may_not_be_read_is_no_reason_for_a_restart(lone: Machine, unprivileged: Unprivileged) -> None:
    """A production instance that is drained, as somebody looked at it without sudo."""
    with ordinary(lone, unprivileged, {"phase": "stopped"}) as environment:
        (unprivileged.folder / "run/adf-agent/status.json").chmod(0)
        process = unprivileged("-m", "adf_agent", "doctor", "--json", env=environment)
        out, log = process.communicate(timeout=60)
    (found,) = Examined(process.returncode, json.loads(out)["findings"], 0).of("agent", "fail")
    assert found["fix"] == "sudo adf-agent doctor", log


def test_an_ordinary_user_is_told_what_he_may_not_see(lone: Machine, unprivileged: Unprivileged) -> None:
    """A finding that accuses Docker where only the operator's own rights are missing."""
    with ordinary(lone, unprivileged, {"phase": "stopped"}) as environment:
        process = unprivileged("-m", "adf_agent", "doctor", "--json", env=environment)
        out, log = process.communicate(timeout=60)
    found = Examined(process.returncode, json.loads(out)["findings"], 0)
    assert found.of("docker", "skipped")[0]["fix"] == "sudo adf-agent doctor", log
    assert found.of("agent", "skipped")[0]["fix"] == "sudo adf-agent doctor"
    assert found.of("config", "ok")


@pytest.mark.parametrize("text", ["7", "[]", '{"phase": "failed", "error": "x", "agent": 1, "schema": 2}'])
def test_a_foreign_record_is_a_finding_and_no_end(lone: Machine, text: str) -> None:
    """A torn file on the disk that is full, and a doctor that dies of it."""
    (lone.root / "run/adf-agent").mkdir(parents=True)
    (lone.root / "run/adf-agent/status.json").write_text(text)
    examined = doctor(lone)
    assert [each["check"] for each in examined.worst()] == ["agent"]
    assert "restart" not in examined.worst()[0]["fix"]
    assert examined.of("config", "ok")


def test_a_full_disk_is_found(lone: Machine, tmp_path: Path) -> None:
    """An agent that can't write its state, and a status that looks like yesterday's."""
    folder = tmp_path / "var/lib/adf-agent"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        first, *_ = doctor(lone).worst()
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert first["check"] == "disk"
    assert first["sentence"].startswith("the disk is full:")
    assert "larger volume" in first["fix"]


def test_the_screen_is_for_people_and_the_exit_code_for_scripts(lone: Machine) -> None:
    """A monitoring script that takes a warning for an outage, or an outage for nothing."""
    ran = lone.run("doctor")
    assert ran.code == 0
    assert "✓ imds" in ran.out
    assert ran.out.splitlines()[-1].startswith("0 fail, ")
    assert "\x1b" not in ran.out
    assert lone.run("doctor", "--nonsense").code == 2


LOADED = {"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "active", "WatchdogUSec": "1min"}


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (LOADED, "ok", "is enabled and active, watched"),
        ({**LOADED, "NRestarts": "3"}, "ok", "started again 3 times"),
        ({}, "warn", "systemd does not answer"),
        ({"LoadState": "not-found"}, "fail", "there is no unit"),
        ({**LOADED, "UnitFileState": "disabled"}, "warn", "is not enabled"),
        ({"LoadState": "masked", "UnitFileState": "masked", "ActiveState": "inactive"}, "fail", "is masked"),
        ({"LoadState": "masked", "UnitFileState": "masked-runtime"}, "fail", "is masked"),
        ({**LOADED, "ActiveState": "inactive"}, "fail", "does not run"),
        ({**LOADED, "ActiveState": "failed", "Result": "exit-code", "ExecMainStatus": "13"}, "fail", "exit code 13"),
        ({**LOADED, "ActiveState": "failed", "Result": "watchdog"}, "fail", "watchdog ended the agent"),
        ({**LOADED, "ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "4"}, "warn", "restart 5"),
    ],
)
def test_a_unit_is_judged_by_what_systemd_says(facts: dict[str, str], level: str, words: str) -> None:
    """An agent that a reboot does not bring back, as somebody disabled its unit by hand."""
    found = unit.judge(facts, alive=False)
    assert (found.level, words in found.sentence) == (level, True), found
    assert found.fix or level == "ok"
    check_fix(found.fix)


@pytest.mark.parametrize(
    ("phase", "degraded", "level", "fix"),
    [
        ("restarting", ["the app exited with code 3"], "fail", "Mend the config"),
        ("restarting", ["Docker does not answer"], "fail", "sudo adf-agent doctor"),
        ("drained", ["the app does not answer its probe"], "warn", "sudo adf-agent reload"),
    ],
)
def test_what_is_no_fault_of_the_apps_is_not_mended_in_its_config(
    phase: str, degraded: list[str], level: str, fix: str
) -> None:
    """A stopped Docker, or a drain that somebody asked for, taken for a crash loop: the release is rolled back."""
    record = {"phase": phase, "restarts": 1, "degraded": degraded, "since": 0.0}
    found, *_ = agent.judge(record, running=True, rebooted=False, now=9.0)
    assert found.level == level
    assert fix in found.fix
    check_fix(found.fix)


def test_no_hint_anywhere_lacks_the_sudo_that_it_needs() -> None:
    """“Interactive authentication required”, in place of what was to mend it."""
    package = Path(agent.__file__).parents[1]
    files = [file for folder in (package, package / "doctor") for file in folder.glob("*.py")]
    assert [f"{file.name}: {found[0]}" for file in files for found in BARE.finditer(file.read_text())] == []


def test_what_reaches_nobody_is_no_matter_of_the_service() -> None:
    """“See the AWS Health Dashboard”, of a subnet without a route."""
    cause = EndpointConnectionError(endpoint_url="https://dynamodb.example/")
    error = aws.fault(cause, ConfigError, "dynamodb:Query", "table web")
    error.__cause__ = cause
    found = check.of_error(error)
    assert (found.level, "VPC endpoint for dynamodb" in found.fix, "Dashboard" in found.fix) == ("fail", True, False)


def test_an_agent_that_was_started_by_hand_is_no_unit_that_is_down() -> None:
    """A drain at shutdown that nobody waits for, as the agent runs in a terminal."""
    found = unit.judge({**LOADED, "ActiveState": "inactive"}, alive=True)
    assert (found.level, "not as the unit" in found.sentence) == ("warn", True)


@pytest.mark.parametrize(
    ("text", "manual", "alive", "level", "words"),
    [
        ("adf-agent start/running, process 7\n", False, True, "ok", "start/running, process 7"),
        ("adf-agent start/running, process 7\n", True, True, "warn", "is manual"),
        ("adf-agent stop/waiting\n", False, False, "fail", "does not run (adf-agent stop/waiting)"),
        ("adf-agent stop/waiting\n", False, True, "warn", "not as upstart's job"),
        ("", False, False, "warn", "does not know the job"),
    ],
)
def test_a_job_is_judged_by_what_upstart_says(text: str, manual: bool, alive: bool, level: str, words: str) -> None:
    """“upstart starts the agent”, of a job that was stopped yesterday and that no reboot brings back."""
    found = unit.judge_job(text, manual=manual, alive=alive)
    assert (found.level, words in found.sentence) == (level, True), found
    assert found.fix or level == "ok"


@pytest.mark.parametrize(
    ("hops", "words", "other"),
    [(1, "is 1: the agent is served, containers are shut out", 2), (2, "is 2 or more: containers get", 1)],
)
def test_which_hop_limit_holds_is_found_out_without_a_call(lone: Machine, hops: int, words: str, other: int) -> None:
    """An alarm for a denied call, on every instance where somebody typed `adf-agent doctor`."""
    lone.cloud.imds.instance.hop_limit = hops
    (found,) = doctor(lone).of("hop limit", "ok")
    assert words in found["sentence"]
    assert f"--http-put-response-hop-limit {other}" in found["fix"]
    assert lone.cloud.calls["ec2:DescribeInstances"] == 0


@pytest.mark.parametrize(("status", "hops"), [(SILENCE, 64), (503, 64), (503, 1)])
def test_a_hop_limit_that_can_not_be_told_is_not_guessed(imds: Imds, status: int, hops: int) -> None:
    """“Containers are shut out”, of a metadata service that was busy for a second."""
    imds.instance.hop_limit = hops
    imds.faults = [Fault(status, path="/latest/api/token")]
    assert metadata.reaches_containers(imds.endpoint) is None


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9", "http://127.0.0.1:99999", "http://[::1", "http:///", "127.0.0.1", ""]
)
def test_an_endpoint_that_is_none_is_no_reason_to_end_with_a_traceback(endpoint: str) -> None:
    """A doctor that is ill itself, as somebody mistyped a port."""
    assert metadata.reaches_containers(endpoint) is None
    assert metadata.answers_without_token(endpoint) is False


def test_a_slow_metadata_service_is_not_taken_for_a_hop_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """“Containers are shut out of the role's credentials”, which they were given: the answer only took its time."""
    monkeypatch.setattr(metadata, "HOP_SECONDS", (0.1, 5.0))
    monkeypatch.setattr(metadata, "NETSTAT", tmp_path / "netstat")  # the kernel's counts what others drop here, too
    metadata.NETSTAT.write_text(
        f"TcpExt: SyncookiesSent {metadata.DROPPED}\nTcpExt: 4 7\nIpExt: InNoRoutes\nIpExt: 0\n"
    )
    over = threading.Event()

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1024)
            over.wait(0.3)  # what makes it slow
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = Task(lambda: answer(server))
        assert metadata.reaches_containers(f"http://127.0.0.1:{server.getsockname()[1]}") is None
        over.set()
        answering.result(Deadline(10, threading.Event()))


def test_a_metadata_service_without_tokens_is_named(lone: Machine) -> None:
    """“Containers are shut out”, of an instance where IMDSv1 gives everyone the role, as no hop limit counts there."""
    imds = lone.cloud.imds
    imds.instance.hop_limit = 1
    imds.faults = [Fault(200, path="/latest/meta-data/instance-id", body=imds.instance.instance_id.encode())]
    (found,) = doctor(lone).of("hop limit")
    assert (found["level"], "IMDSv1 answers: containers get" in found["sentence"]) == ("warn", True), found
    assert found["fix"].endswith(f"--instance-id {imds.instance.instance_id} --http-tokens required")


def test_credentials_of_the_operator_are_not_taken_for_the_roles(lone: Machine) -> None:
    """Every permission green, as an administrator's own keys were tried; the agent's role has none of them."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIA" + "A" * 16, "AWS_SECRET_ACCESS_KEY": "mine"}
    (found,) = doctor(lone, **keys).of("credentials")
    assert (found["level"], "your own credentials (env)" in found["sentence"]) == ("warn", True), found
    assert "sudo env -u AWS_ACCESS_KEY_ID" in found["fix"]
    lone.agent_env(**keys)  # then the agent has them too
    (found,) = doctor(lone).of("credentials")
    assert (found["level"], "not an instance profile's" in found["sentence"]) == ("ok", True), found


@pytest.mark.parametrize(
    ("document", "level", "words"),
    [
        ({"Code": "Success", "Expiration": "2026-01-01T12:00:00Z"}, "ok", "until 2026-01-01T12:00:00Z"),
        ({"Code": "Success", "Expiration": "2026-01-01T10:00:00Z"}, "fail", "expired at 2026-01-01T10:00:00Z"),
        ({"Code": "AssumeRoleUnauthorizedAccess"}, "fail", "AssumeRoleUnauthorizedAccess"),
        ({}, "fail", "nothing"),
    ],
)
def test_credentials_are_judged_by_what_imds_has(document: dict[str, str], level: str, words: str) -> None:
    """A role whose trust policy was changed: every call is refused, and IMDS knows why."""
    found = metadata.judge_credentials("web", document, datetime(2026, 1, 1, 11, tzinfo=UTC))
    assert (found.level, words in found.sentence) == (level, True), found


def statvfs(free: int, inodes: int = 1000) -> os.statvfs_result:
    """A file system of 4 kB blocks with *free* bytes and so many of 1000 inodes."""
    blocks = free // 4096
    return os.statvfs_result((4096, 4096, 10**6, blocks, blocks, 1000, inodes, inodes, 0, 255))


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (statvfs(10 << 30), "ok", "10.7 GB free"),
        (statvfs(100 << 20), "warn", "a build needs 268 MB and twice the release"),
        (statvfs(8 << 20), "fail", "the disk is full"),
        (statvfs(10 << 30, 0), "fail", "no inode left"),
        (statvfs(10 << 30, 9), "warn", "9 inodes left"),
    ],
)
def test_a_disk_is_judged_by_bytes_and_inodes(facts: os.statvfs_result, level: str, words: str) -> None:
    """“No space left on device” with half the disk free: a million small files took every inode."""
    found = machine_checks.judge_room("images", Path("/data"), facts, 256 << 20)
    assert (found.level, words in found.sentence) == (level, True), found
    assert level == "ok" or found.fix.endswith(" /data"), found


def test_no_build_s_room_is_asked_of_the_folder_for_the_status() -> None:
    """A warning on every small instance, whose /run is a tenth of its memory, until nobody reads warnings."""
    assert machine_checks.judge_room("the status", Path("/run"), statvfs(40 << 20), 0).level == "ok"


def test_little_memory_is_found() -> None:
    """A build that the kernel kills, and nothing says why."""
    assert machine_checks.judge_memory(1 << 30).level == "ok"
    assert machine_checks.judge_memory(32 << 20).level == "fail"


@pytest.mark.parametrize(
    ("logins", "level", "words"),
    [
        ({}, "ok", "no login"),
        ({"auths": {"https://index.docker.io/v1/": {}}}, "ok", "no login"),
        ({"auths": {"registry.example": {"auth": "eA=="}}}, "ok", "has a login"),
        ({"credHelpers": {"registry.example": "no-such"}}, "fail", "docker-credential-no-such"),
        ({"credsStore": "no-such"}, "fail", "is not installed"),
        ({"credHelpers": {"other.example": "no-such"}}, "ok", "no login"),
        ({"auths": {"https://my.registry.example": {"auth": "eA=="}}}, "ok", "no login"),
        ({"auths": {"https://registry.example/v1/": {"auth": "eA=="}}}, "ok", "has a login"),
    ],
)
def test_a_login_is_judged_by_dockers_own_file(logins: dict[str, Any], level: str, words: str) -> None:
    """“no basic auth credentials”: the AMI lacks the credential helper that its config.json names."""
    found = engine_checks.judge_login("registry.example", logins, Path("/etc/adf-agent/docker/config.json"))
    assert (found.level, words in found.sentence) == (level, True), found


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),  # noqa: S104
        ("::", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("127.0.0.1", "10.0.0.1", False),
        ("::1", "127.0.0.1", False),
        ("::1", "0.0.0.0", False),  # noqa: S104
        ("::1", "::", True),
    ],
)
def test_two_addresses_clash_or_not(one: str, other: str, expected: bool) -> None:
    """A port of the loopback address alone, taken for one that the app can't have."""
    assert ports.clash(one, other) is expected
    assert ports.clash(other, one) is expected


def test_sockets_that_listen_are_read_from_the_kernel() -> None:
    """A clash that is overlooked as the address is IPv6's, or the protocol UDP."""
    with ExitStack() as stack:
        made = [
            ("tcp", "127.0.0.1", stack.enter_context(socket.create_server(("127.0.0.1", 0)))),
            ("tcp", "::1", stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))),
            ("udp", "127.0.0.1", stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))),
        ]
        made[2][2].bind(("127.0.0.1", 0))
        found = {(each.protocol, each.address, each.port): each.inode for each in ports.listening()}
        for protocol, address, each in made:
            inode = found[protocol, address, each.getsockname()[1]]
            assert ports.owner(inode).endswith(f"process {os.getpid()}")


@pytest.mark.parametrize(
    ("record", "running", "level", "words"),
    [
        ({}, False, "warn", "no agent has run here"),
        ({"phase": "in service"}, True, "ok", "the agent is in service"),
        ({"phase": "in service", "degraded": ["no hook"]}, True, "warn", "degraded: no hook"),
        ({"phase": "restarting", "restarts": 4}, True, "fail", "the app ended 4 times in a row"),
        ({"phase": "booting", "since": 0}, True, "warn", "the boot goes on for"),
        ({"phase": "in service"}, False, "fail", "it was killed, or crashed"),
        ({"phase": "stopped"}, False, "warn", "was told to stop"),
        (
            {"phase": "held", "error": {"stage": "health", "sentence": "no answer", "hint": "See it."}},
            *(True, "fail", "is held, as it failed at stage health: no answer"),
        ),
    ],
)
def test_the_agents_own_word_is_judged(record: dict[str, Any], running: bool, level: str, words: str) -> None:
    """An agent that died hours ago, and a doctor that looks at everything but at it."""
    found = [*agent.judge(record, running=running, rebooted=False, now=1e9)]
    assert any(each.level == level and words in each.sentence for each in found), found
    for each in found:
        check_fix(each.fix)
    assert all(each.fix for each in found if each.level != "ok")


@pytest.mark.parametrize(
    ("stage", "fix"), [("image", "See it: adf-agent logs --build"), ("health", "See it: adf-agent logs --app")]
)
def test_a_failure_that_its_output_explains_leads_to_it(stage: str, fix: str) -> None:
    """“See the last lines”, and no word where they are."""
    record = {"phase": "failed", "error": {"stage": stage, "sentence": "x", "hint": "See it."}}
    (found,) = agent.judge(record, running=False, rebooted=False, now=0)
    assert found.fix == fix


@pytest.mark.parametrize(
    ("error", "first"),
    [
        ({"stage": "image", "cause": "build"}, ["memory", "agent", "release", "docker"]),
        ({"stage": "image", "cause": "host"}, ["memory", "docker", "agent", "release"]),
        ({"stage": "health", "cause": "app"}, ["memory", "agent", "release", "docker"]),
    ],
)
def test_a_build_or_app_that_failed_by_itself_comes_before_what_failed_since(
    error: dict[str, str], first: list[str]
) -> None:
    """A Dockerfile with a typo, and a doctor that leads with the presigned URL that expired an hour later."""
    found = [Finding("fail", "x", check=check) for check in ("release", "agent", "docker", "memory")]
    assert [each.check for each in ranking.ranked(found, {**error, "sentence": "y"})] == first


def test_what_was_skipped_says_what_to_type() -> None:
    """“Skipped, as this user may not”, and no word of sudo."""
    found = [Finding("skipped", "skipped because of you", "sudo adf-agent doctor", "docker")]
    assert "- docker: skipped because of you → sudo adf-agent doctor" in ranking.screen(found, color=False)


def test_findings_are_ranked_by_what_explains_the_failure() -> None:
    """The cause in the twentieth line, below twenty of its consequences."""
    found = [
        Finding("fail", "x", check="agent"),
        Finding("ok", "x", check="imds"),
        Finding("fail", "x", check="disk"),
        Finding("warn", "x", check="tags"),
        Finding("fail", "x", check="config"),
        Finding("skipped", "skipped because y", check="group"),
        Finding("fail", "x", check="clock"),
    ]
    ranked = ranking.ranked(found, {"stage": "config", "sentence": "another"})
    assert [each.check for each in ranked] == ["clock", "config", "agent", "disk", "tags", "imds", "group"]
    assert ranking.summary(ranked) == "4 fail, 1 warn, 1 ok, 1 skipped"
    shown = ranking.screen(ranked, color=True).splitlines()
    assert shown[0].startswith("\x1b[31m✗\x1b[0m clock")
    assert "\x1b[31m" not in ranking.screen([Finding("fail", "\x1b[31mred", check="x")], color=False)


def test_a_check_that_hangs_or_breaks_leaves_the_others_alone() -> None:
    """One defect of the doctor's own that hides what the other checks found."""
    forever = threading.Event()

    def late() -> Iterator[Finding]:
        yield Finding("ok", "half of it")
        forever.wait(30)

    def broken() -> list[Finding]:
        raise ZeroDivisionError

    def waits() -> list[Finding]:
        raise Skipped("it rains")

    checks: dict[str, check.Check] = {
        "late": late,
        "broken": broken,
        "waits": waits,
        "well": lambda: [Finding("ok", "well")],
    }
    found = check.run(checks, Deadline(0.3, threading.Event()))
    forever.set()
    assert [(each.check, each.level) for each in found] == [
        *(("late", "ok"), ("late", "fail"), ("broken", "fail"), ("waits", "skipped"), ("well", "ok")),
    ]
    assert [found[1].sentence, found[3].sentence] == ["did not answer within 0.3 s", "skipped because it rains"]


def test_settings_that_make_no_sense_are_shown_with_what_each_source_holds(lone: Machine) -> None:
    """“See adf-agent settings”, which says the same sentence again and no more."""
    url = "https://me:hunter2@releases.example/v1.tar.gz?X-Amz-Signature=abcdef"
    lone.user_data(RELEASE_URL=url, ADF_LOG_OPT_DD_API_KEY="hunter2")
    lone.agent_env(ADF_BOOT_TIMEOUT="never")
    ran = lone.run("settings")
    assert ran.code == 10
    rows = [line.split() for line in ran.log.splitlines()]
    assert ["ADF_BOOT_TIMEOUT", "agent.env", "never"] in rows
    assert ["ADF_LOG_OPT_DD_API_KEY", "user-data", "***"] in rows
    assert "https://***@releases.example/v1.tar.gz" in ran.log
    assert not re.search("hunter2|abcdef", ran.log)
