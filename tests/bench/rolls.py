"""adf-roll over a thousand instances: the calls that it makes while it watches, and its memory."""

import base64
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from measures import peak, process, processor
from report import Row
from werkzeug.wrappers import Response
from world import TABLE, World

from adf_agent.ops.rolling.errors import REFUSED
from adf_agent.sandbox.front import Call, Handler, Then, success

COMMAND = Path(sys.executable).with_name("adf-roll")
SMALL, LARGE = 10, 1000
SECONDS = 30.0  # six looks
GROUP = APP = "bench-roll"
BATCH = 25  # items: the API's limit


@dataclass(frozen=True)
class Watched:
    """*calls*, *queries* (of DynamoDB) and *busy* processor seconds a minute, *memory* in MB at its peak."""

    calls: float
    queries: float
    busy: float
    memory: float


@dataclass(frozen=True, order=True)
class Planned:
    """A whole process of `adf-roll plan`: *memory* in MB at its peak. The sooner, the less."""

    seconds: float
    calls: int
    memory: float


def rows(small: Watched, large: Watched) -> list[Row]:
    """Of a group of SMALL and one of LARGE instances: simulated is what AWS answers of them, and their records."""
    pages = max(0.0, large.queries - small.queries)
    calls = f"{large.calls:.0f}, and {small.calls:.0f} with {SMALL}; of these {pages:.0f} more pages of records"
    memory = f"{large.memory:.0f} MB, and {small.memory:.0f} MB with {SMALL}"
    what = f"adf-roll watch, {LARGE:,} instances"
    met = large.calls - pages <= small.calls * 1.1  # a look more or less in half a minute
    return [
        Row(f"{what}, calls a minute", "those of a small group, and pages", calls, met, (large.calls, small.calls)),
        Row(f"{what}, peak memory", "", memory, None, (large.memory, small.memory)),
    ]


def planned(world: World, size: int) -> Planned:
    """A plan for a group of *size* instances, the one before it having ended."""
    _fill(world, size)
    with _group(world, size, "Successful"):
        world.cloud.calls.clear()
        seconds, memory = process(world, [COMMAND, "plan", GROUP, "--replace"], (0, REFUSED))
        return Planned(seconds, world.cloud.calls.total(), memory / 1e6)


def watched(world: World, size: int) -> Watched:
    """A watch over a group of *size* instances, half-way through a roll."""
    cloud = world.cloud
    _fill(world, size)
    environment = world.environment() | world.keys
    cloud.calls.clear()
    with (
        _group(world, size, "InProgress"),
        subprocess.Popen([COMMAND, "watch", GROUP, "--json"], env=environment, stdout=subprocess.DEVNULL) as watch,
    ):
        try:
            _until(lambda: cloud.calls["autoscaling:DescribeInstanceRefreshes"] >= 3)
            cloud.calls.clear()
            began, busy = time.monotonic(), processor(watch.pid)
            _until(lambda: time.monotonic() >= began + SECONDS)
            minutes = (time.monotonic() - began) / 60
            calls, queries = cloud.calls.total(), cloud.calls["dynamodb:Query"]
            busy, memory = processor(watch.pid) - busy, peak(watch.pid)[1] / 1e6
            assert memory, "it ended"
        finally:
            watch.kill()
    return Watched(calls / minutes, queries / minutes, busy / minutes, memory)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def _group(world: World, size: int, status: str) -> Iterator[None]:
    """A group half-way through a refresh, as AWS would describe it."""
    ec2, autoscaling = world.cloud.client("ec2"), world.cloud.client("autoscaling")
    made = [{"ImageId": "ami-1", "UserData": _user_data(release)} for release in ("v1", "v2")]
    template = ec2.create_launch_template(LaunchTemplateName=GROUP, LaunchTemplateData=made[0])["LaunchTemplate"]
    ec2.create_launch_template_version(
        LaunchTemplateName=GROUP, LaunchTemplateData=made[1], VersionDescription="adf-roll: v2, from version 1"
    )
    named = {"LaunchTemplateId": template["LaunchTemplateId"], "LaunchTemplateName": GROUP}
    autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=GROUP,
        LaunchTemplate={"LaunchTemplateName": GROUP, "Version": "1"},
        AvailabilityZones=[world.cloud.imds.instance.zone],
        MinSize=0,
        MaxSize=2 * size,
        DesiredCapacity=0,
    )
    handlers = _handlers(named, size, status)
    world.cloud.front.handlers |= handlers
    try:
        yield
    finally:
        for name in handlers:
            world.cloud.front.handlers.pop(name, None)
        autoscaling.delete_auto_scaling_group(AutoScalingGroupName=GROUP)
        ec2.delete_launch_template(LaunchTemplateName=GROUP)


def _handlers(named: dict[str, str], size: int, status: str) -> dict[str, Handler]:
    refresh = {
        "InstanceRefreshId": "bench",
        "AutoScalingGroupName": GROUP,
        "Status": status,
        "StartTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "PercentageComplete": 50,
        "InstancesToUpdate": size // 2,
        "Preferences": {"CheckpointPercentages": [10, 100], "CheckpointDelay": 60, "AutoRollback": "true"},
        "DesiredConfiguration": {"LaunchTemplate": {**named, "Version": 2}},
    }
    members = "".join(_member(number, named) for number in range(size))

    def described(_: Call, then: Then) -> Response:
        answer = then()
        text = answer.get_data(as_text=True).replace("<DesiredCapacity>0<", f"<DesiredCapacity>{size}<")
        answer.set_data(re.sub(r"<Instances ?/>|<Instances></Instances>", f"<Instances>{members}</Instances>", text))
        return answer

    return {
        "autoscaling:DescribeAutoScalingGroups": described,
        "autoscaling:DescribeInstanceRefreshes": lambda call, _: success(call, {"InstanceRefreshes": [refresh]}),
    }


def _member(number: int, named: dict[str, str]) -> str:
    fields = {
        "InstanceId": _name(number),
        "AvailabilityZone": "eu-west-1a",
        "LifecycleState": "InService",
        "HealthStatus": "Healthy",
        "ProtectedFromScaleIn": "false",
        "InstanceType": "t3.micro",
    }
    version = "".join(f"<{key}>{value}</{key}>" for key, value in {**named, "Version": 1 + number % 2}.items())
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items())
    return f"<member>{inner}<LaunchTemplate>{version}</LaunchTemplate></member>"


def _name(number: int) -> str:
    return f"i-{number:017x}"


def _user_data(release: str) -> str:
    text = f"RELEASE_URL=s3://releases/{release}.tar.gz\nADF_APP={APP}\nADF_CONFIG_TABLE={TABLE}\n"
    return base64.b64encode(text.encode()).decode()


def _fill(world: World, size: int) -> None:
    """The fleet records, of the size that they have in service."""
    table = world.cloud.client("dynamodb")
    for start in range(0, size, BATCH):
        items = [_record(number) for number in range(start, min(size, start + BATCH))]
        table.batch_write_item(RequestItems={TABLE: [{"PutRequest": {"Item": item}} for item in items]})


def _record(number: int) -> dict[str, dict[str, str]]:
    stages = ("settings", "docker", "release", "config", "image", "container", "health", "report")
    texts = {
        "App": f"{APP}#fleet",
        "Name": _name(number),
        "Release": f"v{1 + number % 2}",
        "Group": GROUP,
        "Phase": "in service",
        "Stage": "report",
        "Stages": ", ".join(f"{stage} 1.23" for stage in stages),
    }
    now = str(int(time.time()))
    numbers = {"Restarts": "0", "Boot": "1", "Seq": "12", "Touched": now, "Expires": now}
    return {key: {"S": text} for key, text in texts.items()} | {key: {"N": each} for key, each in numbers.items()}
