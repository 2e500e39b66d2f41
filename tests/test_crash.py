"""`kill -9` of the agent, and a new start: at each end of each stage, in the report and in the drain."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from fixtures_agent import Daemon, Machine, app
from gate import AT_POINT
from test_boot import free_port, page, table

from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.member import Hook
from adf_agent.sandbox.pool import Pool

# Writes down each file of the agent's, or of its libraries', that is read after it was started.
READING = """
import os, sys
from importlib.util import find_spec

folders = tuple(os.path.dirname(os.path.dirname(find_spec(each).origin)) for each in ("adf_agent", "boto3"))
read = os.open(os.environ["READ"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def look(event, args):
    if event == "open" and str(args[0]).startswith(folders):
        os.write(read, f"{args[0]}\\n".encode())

sys.addaudithook(look)
sys.argv = ["adf-agent", "run"]
from adf_agent.__main__ import main
raise SystemExit(main())
"""
STAGES = ["settings", "docker", "release", "config", "image", "container", "health", "report"]
BOOT = [
    *(f"stage.{end}|{stage}" for stage in STAGES for end in ("started", "finished")),
    "container.started",
    "report.registered",
    "hook.completed",
]
DRAIN = ["drain.started", "step|attached", "step|deregistered", "step|drained", "step|stopped", "drain.finished"]
TERMINATE = [
    *(point for point in DRAIN if "deregistered" not in point),
    "step|hook",
    "hook.completed|adf-terminate",
    "step|completed",
]


@dataclass
class World:
    machine: Machine
    group: Group
    attached: Pool
    own: Pool
    port: int

    def dying(self, point: str) -> Daemon:
        """An agent that dies at *point*."""
        return self.machine.daemon(AT_POINT, POINT=point)

    def serves(self, agent: Daemon) -> None:
        """In service, once, and everybody knows."""
        agent.reach("in service")
        self.group.wait_for("InService")
        agent.until(lambda: (self.own.state, self.attached.state) == ("healthy", "healthy"), "both call it healthy")
        assert page(self.port) == "hello"
        assert len(self.machine.containers()) == 1
        assert [result for _, result in self.group.completed] == ["CONTINUE"]


@pytest.fixture
def world(machine: Machine, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        port = free_port()
        balancer = stack.enter_context(Balancer(machine.cloud, tmp_path / "haproxy"))
        attached, own = balancer.target_group("web", port), balancer.target_group("own", port)
        hooks = (Hook("adf-launch", "launch"), Hook("adf-terminate", "terminate"))
        group = stack.enter_context(Group(machine.cloud, "web", hooks, (attached.arn,)))
        table(machine, GREETING="hi")
        machine.user_data(
            RELEASE_URL=machine.release(app()),
            ADF_PUBLISH=f"{port}:8000",
            ADF_APP="web",
            ADF_TARGET_GROUPS=own.arn,
        )
        group.launch()
        yield World(machine, group, attached, own, port)
        machine.clean()


@pytest.mark.parametrize("point", BOOT)
def test_a_kill_in_the_boot_ends_in_service_all_the_same(world: World, point: str) -> None:
    """An instance with two containers, or none; one that serves while its launch hook waits to time out."""
    assert world.dying(point).ended() == -signal.SIGKILL, f"never came to {point}"
    world.serves(world.machine.daemon())


@pytest.mark.parametrize("point", TERMINATE)
def test_a_kill_while_the_group_takes_the_instance_out_ends_with_the_hook_completed(world: World, point: str) -> None:
    """A terminating instance that waits an hour for its hook, or is booted once more."""
    agent = world.dying(point)
    world.serves(agent)
    world.group.terminate()
    assert agent.ended() == -signal.SIGKILL, f"never came to {point}"
    again = world.machine.daemon()
    again.reach("drained")
    world.group.wait_for("Terminated")
    assert world.machine.containers() == []
    assert world.own.state == world.attached.state == "unused"
    assert ("adf-terminate", "CONTINUE") in world.group.completed


@pytest.mark.parametrize("point", DRAIN)
def test_a_kill_in_a_drain_that_was_asked_for_does_not_bring_the_instance_back(world: World, point: str) -> None:
    """An instance taken out by hand that serves again after a crash of the agent, half drained."""
    agent = world.dying(point)
    world.serves(agent)
    agent.process.send_signal(signal.SIGUSR1)
    assert agent.ended() == -signal.SIGKILL, f"never came to {point}"
    again = world.machine.daemon()
    again.reach("drained")
    assert world.machine.containers() == []
    assert world.own.state == world.attached.state == "unused"


@pytest.mark.parametrize("point", DRAIN)
def test_a_kill_while_the_agent_is_stopped_comes_back_into_service_at_the_next_start(world: World, point: str) -> None:
    """A restart of the agent that systemd cut short, after which no load balancer knows of the instance."""
    agent = world.dying(point)
    world.serves(agent)
    agent.process.send_signal(signal.SIGTERM)
    assert agent.ended() == -signal.SIGKILL, f"never came to {point}"
    world.serves(world.machine.daemon())


@pytest.mark.parametrize("point", ["drain.finished", "container.started", "stage.finished|health", "report"])
def test_a_kill_in_a_reload_ends_in_service(world: World, point: str) -> None:
    """A reload that was cut short and leaves the instance with nothing running."""
    agent = world.machine.daemon()
    world.serves(agent)
    agent.kill()
    table(world.machine, GREETING="changed")
    dying = world.dying(point)
    world.serves(dying)
    dying.process.send_signal(signal.SIGHUP)
    assert dying.ended() == -signal.SIGKILL, f"never came to {point}"
    world.serves(world.machine.daemon())


def test_the_points_are_those_of_the_log(world: World) -> None:
    """A table of crash points in which none is ever reached, as the log's words have changed."""
    agent = world.machine.daemon()
    world.serves(agent)
    told = [json.loads(line) for line in agent.log().splitlines()]
    stages = {event["stage"] for event in told if event["event"] == "stage.started"}
    assert stages == set(STAGES)


@pytest.mark.parametrize("adopts", [False, True], ids=["boot", "start"])
def test_what_it_leaves_by_was_read_before(world: World, adopts: bool) -> None:
    """An upgrade of the package in service, after which a scale-in cuts the app off: the files of before are gone."""
    if adopts:
        first = world.machine.daemon()
        world.serves(first)
        first.kill()
    read = world.machine.root / "read"
    agent = world.machine.daemon(READING, READ=str(read))
    world.serves(agent)
    before = read.read_text().splitlines()
    assert agent.end() == 0, agent.log()
    assert [step for event in agent.events("drain.step") if "drained by" in (step := event["step"])]
    assert read.read_text().splitlines()[len(before) :] == []
