"""The daemon in service, in a group: how soon it sees what, what it costs when nothing happens, what it asks of AWS."""

import json
import re
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from measures import processor, spread
from releases import Release
from report import Row
from sides import AGENT, HEAPS
from world import World

from adf_agent.sandbox.group import Group
from adf_agent.sandbox.member import Hook

LIMIT = 60.0  # seconds for anything to happen
IDLE_SECONDS = 60.0
HOOKS = (Hook("adf-launch", "launch"), Hook("adf-terminate", "terminate"))
RECORDS = 2  # puts of the fleet record: a boot's first and its last
POLLS = ("RecordLifecycleActionHeartbeat", "DescribeTargetHealth", "DescribeInstanceHealth", "Decrypt")


@dataclass(frozen=True)
class Daemon:
    """`adf-agent run` as a process, with what it logged in *log*."""

    world: World
    process: "subprocess.Popen[bytes]"
    log: Path

    def reach(self, phase: str) -> None:
        path = self.world.root / "run/adf-agent/status.json"

        def reached() -> bool:
            status = json.loads(path.read_bytes()) if path.exists() else {}
            return status.get("phase") == phase and status["agent"]["pid"] == self.process.pid

        until(reached, phase)

    def event(self, name: str, after: float) -> float:
        """When the first event of this *name* after the time *after* was logged (epoch seconds)."""
        found: list[float] = []

        def logged() -> bool:
            lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
            times = (datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines if line["event"] == name)
            found[:] = [moment for moment in times if moment >= after][:1]
            return bool(found)

        until(logged, name)
        return found[0]

    def stat(self) -> tuple[float, int]:
        """Processor seconds so far, and resident bytes."""
        size = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        return processor(self.process.pid), int(size[1]) << 10 if size else 0


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for *condition*; the benchmark ends where it does not come about."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: no {what} within {LIMIT:.0f} s")
        time.sleep(0.005)


@contextmanager
def daemon(world: World) -> Iterator[Daemon]:
    """A daemon; it is killed with the context."""
    log = world.folder / "daemon.log"
    with log.open("wb") as errors:
        environment = world.environment() | HEAPS
        process = subprocess.Popen([AGENT, "run"], env=environment, stdin=subprocess.DEVNULL, stderr=errors)
    try:
        yield Daemon(world, process, log)
    finally:
        process.kill()
        process.wait()


def rows(world: World, release: Release, runs: int, own_start: float) -> list[Row]:
    """Every row of this module. The cloud's instance is the group's from here on."""
    world.clear()  # under the id that the instance had so far
    with ExitStack() as stack:
        arn = target_group(world)
        group = stack.enter_context(Group(world.cloud, "bench", HOOKS))
        instance = world.cloud.imds.instance
        instance.life_cycle = "spot"
        world.offer(release, config=True, ADF_TARGET_GROUPS=arn)
        world.clear()
        group.launch()
        world.cloud.calls.clear()
        found = []
        with daemon(world) as agent:
            agent.reach("in service")
            group.wait_for("InService")
            until(lambda: world.cloud.calls["dynamodb:PutItem"] >= RECORDS, "last word in the fleet record")
            found += [calls(world.cloud.calls)]
            found += [*idle(agent), exits(world, agent, runs), notices(group, agent, runs)]
            found += [spot(world, agent)]
        instance.spot_action = None
        return [*found, warm(world, group, min(runs, 3), own_start)]


def target_group(world: World) -> str:
    """A target group of moto's, which calls a registered target healthy."""
    (vpc, *_) = world.cloud.client("ec2").describe_vpcs()["Vpcs"]
    request = {"Name": "bench", "Protocol": "HTTP", "Port": world.port, "VpcId": vpc["VpcId"]}
    made: Any = world.cloud.client("elbv2").create_target_group(**request)
    return str(made["TargetGroups"][0]["TargetGroupArn"])


def calls(made: Counter[str]) -> Row:
    """What a boot with everything asks of AWS, as the emulated one counted it."""
    counted = Counter({name: times for name, times in made.items() if not name.endswith(POLLS)})
    listed = ", ".join(f"{name.partition(':')[2]} {times}" for name, times in sorted(counted.items()))
    figure = f"{counted.total()}: {listed}"
    return Row("AWS API calls of a boot in a group, with a hook and a target group", "≤ 12", figure,
               0 < counted.total() <= 12, (counted.total(),))  # fmt: skip


def idle(agent: Daemon) -> list[Row]:
    """Memory and processor time while nothing happens."""
    before, began = agent.stat()[0], time.monotonic()
    time.sleep(IDLE_SECONDS)  # the time itself is what is measured over
    after, size = agent.stat()
    share = 100 * (after - before) / (time.monotonic() - began)
    return [
        Row("agent's memory in service", "≤ 70 MB", f"{size / 1e6:.0f} MB, n = 1", size <= 70e6, (size,)),
        Row(f"agent's share of a core in service, over {IDLE_SECONDS:.0f} s", "≤ 0.3 %", f"{share:.2f} %, n = 1",
            share <= 0.3, (share,)),
    ]  # fmt: skip


def exits(world: World, agent: Daemon, runs: int) -> Row:
    """From the container's kill to the agent's word of it."""
    seconds = []
    for _ in range(min(runs, 5)):  # the pause before a restart grows
        killed = time.time()
        world.engine.api.kill(world.containers[1])
        seconds.append(agent.event("container.ended", killed) - killed)
        agent.event("stage.finished", killed)
        agent.reach("in service")
    return Row("container exit seen", "≤ 0.5 s", spread(seconds, " s"), statistics.median(seconds) <= 0.5,
               tuple(seconds))  # fmt: skip


def notices(group: Group, agent: Daemon, runs: int) -> Row:
    """From the group's notice (Standby, which can be taken back) to the first step of leaving."""
    seconds = []
    for _ in range(runs):
        told = time.time()
        group.standby()
        seconds.append(agent.event("drain.started", told) - told)
        agent.reach("standby")
        group.wait_for("Standby")
        group.exit_standby()
        agent.reach("in service")
    return Row("lifecycle notice acted on", "≤ 3 s", spread(seconds, " s"), max(seconds) <= 3, tuple(seconds))


def spot(world: World, agent: Daemon) -> Row:
    """From the spot notice to the first step of leaving."""
    told = time.time()
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(told + 120))
    world.cloud.imds.instance.spot_action = {"action": "terminate", "time": ends}
    seconds = agent.event("drain.started", told) - told
    agent.reach("drained")
    return Row("spot notice acted on", "≤ 6 s", f"{seconds:.2f} s, n = 1", seconds <= 6, (seconds,))


def warm(world: World, group: Group, runs: int, own_start: float) -> Row:
    """An instance that leaves the warm pool: from the agent's start to in service, its image being there."""
    seconds = [_leave_pool(world, group) for _ in range(runs)]
    met = statistics.median(seconds) <= 1.0 + own_start
    budget = f"≤ 1.0 s + the app's own start, {own_start:.2f} s"
    what = "out of the warm pool, agent start to in service"
    return Row(what, budget, spread(seconds, " s"), met, tuple(seconds))


def _leave_pool(world: World, group: Group) -> float:
    group.return_to_pool()
    with daemon(world) as agent:
        agent.reach("warmed")
    group.wait_for("Warmed:Running")
    path = world.root / "var/lib/adf-agent/state.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"boot_id": "another"}))
    group.leave_pool()
    started = time.time()
    with daemon(world) as agent:
        agent.reach("in service")
        group.wait_for("InService")
        status = json.loads((world.root / "run/adf-agent/status.json").read_bytes())
        agent.process.terminate()
        agent.process.wait(LIMIT)
    return float(status["since"] - started)
