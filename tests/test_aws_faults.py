"""AWS throttled, denied, down or silent, and the metadata service likewise, at each step of the daemon."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fixtures_agent import BASE, Daemon, Machine, app
from test_boot import free_port, page, table
from test_run import pid_of_app

from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.front import AwsFault
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.imds import SILENCE, Fault
from adf_agent.sandbox.member import Hook
from adf_agent.sandbox.pool import Pool

BOOT = [
    "autoscaling:DescribeAutoScalingInstances",
    "autoscaling:DescribeLifecycleHooks",
    "autoscaling:CompleteLifecycleAction",
    "elasticloadbalancing:RegisterTargets",
    "elasticloadbalancing:DescribeTargetHealth",
    "dynamodb:PutItem",
]
LEAVE = [
    "autoscaling:DescribeAutoScalingInstances",
    "autoscaling:DescribeLifecycleHooks",
    "autoscaling:DescribeLoadBalancerTargetGroups",
    "autoscaling:CompleteLifecycleAction",
    "elasticloadbalancing:DeregisterTargets",
    "elasticloadbalancing:DescribeTargetHealth",
]


@dataclass
class World:
    machine: Machine
    group: Group
    own: Pool
    port: int

    def fail(self, action: str, code: str, status: int, times: float) -> None:
        self.machine.cloud.faults = [AwsFault(action, code, status, times, message="as ordered")]

    def degraded(self) -> str:
        return "\n".join(self.machine.status()["degraded"])

    def start(self) -> Daemon:
        agent = self.machine.daemon()
        agent.reach("in service")
        return agent


@pytest.fixture
def world(machine: Machine, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        port = free_port()
        balancer = stack.enter_context(Balancer(machine.cloud, tmp_path / "haproxy"))
        own = balancer.target_group("own", port)
        hooks = (Hook("adf-launch", "launch"), Hook("adf-terminate", "terminate"))
        group = stack.enter_context(Group(machine.cloud, "web", hooks))
        table(machine, GREETING="hi")
        machine.user_data(
            RELEASE_URL=machine.release(app(adf_toml="[container]\nstop_timeout = 1\n")),
            ADF_PUBLISH=f"{port}:8000",
            ADF_APP="web",
            ADF_TARGET_GROUPS=own.arn,
        )
        group.launch()
        yield World(machine, group, own, port)
        machine.cloud.faults = []
        machine.clean()


@pytest.mark.parametrize("action", BOOT)
def test_what_passes_by_itself_does_not_fail_a_boot(world: World, action: str) -> None:
    """A scale-out of many instances that throttle each other into being replaced."""
    world.fail(action, "Throttling", 400, times=4)  # more than the SDK tries by itself
    world.start()
    world.group.wait_for("InService")
    assert world.own.state == "healthy"


@pytest.mark.parametrize("action", [action for action in BOOT if "Register" not in action])
def test_a_missing_permission_is_named_and_done_without(world: World, action: str) -> None:
    """An instance that is replaced for ever, and nobody knows which permission its role lacks."""
    world.fail(action, "AccessDenied", 403, times=float("inf"))
    agent = world.start()
    agent.until(lambda: f"{action} on " in world.degraded(), f"{action} is named")
    assert page(world.port) == "hello"
    waits = action in ("autoscaling:DescribeAutoScalingInstances", "autoscaling:CompleteLifecycleAction")
    world.group.wait_for("Pending:Wait" if waits else "InService")


def test_an_instance_that_may_not_register_is_of_no_use_and_is_replaced(world: World) -> None:
    """An instance in service that no load balancer knows of."""
    world.fail("elasticloadbalancing:RegisterTargets", "AccessDenied", 403, times=float("inf"))
    agent = world.machine.daemon()
    assert agent.ended() == 17, agent.log()
    error = world.machine.status()["error"]
    assert "elasticloadbalancing:RegisterTargets on target group own is denied" in error["sentence"]
    assert "role" in error["hint"]
    assert world.group.completed[0] == ("adf-launch", "ABANDON")
    assert world.machine.containers() == []


@pytest.mark.parametrize("action", LEAVE)
def test_what_passes_by_itself_does_not_spoil_a_drain(world: World, action: str) -> None:
    """A service's bad minute that leaves a terminating instance with its hook waiting."""
    agent = world.start()
    world.group.wait_for("InService")
    world.fail(action, "", 503, times=4)
    world.group.terminate()
    agent.reach("drained", 60)
    world.group.wait_for("Terminated")
    assert world.own.state == "unused"
    assert ("adf-terminate", "CONTINUE") in world.group.completed


@pytest.mark.parametrize("action", [action for action in LEAVE if "Health" not in action])
def test_a_drain_ends_without_the_permission_that_is_missing(world: World, action: str) -> None:
    """A terminating instance that hangs on a permission, its app running on."""
    agent = world.start()
    world.group.wait_for("InService")
    world.fail(action, "AccessDenied", 403, times=float("inf"))
    world.group.terminate()
    agent.reach("drained")
    assert f"{action} on " in world.degraded()
    assert world.machine.containers() == []


def test_a_silent_load_balancer_does_not_cost_the_stop_its_time(world: World) -> None:
    """A spot instance that waits for an answer until EC2 pulls the plug on its app."""
    world.machine.cloud.imds.instance.life_cycle = "spot"
    agent = world.start()
    world.machine.cloud.faults = [AwsFault("elasticloadbalancing:*", "", 503, seconds=120)]
    ends = datetime.now(UTC) + timedelta(seconds=20)
    world.machine.cloud.imds.instance.spot_action = {"action": "terminate", "time": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}
    agent.until(lambda: not world.machine.containers(), "the container is stopped", 30)
    assert datetime.now(UTC) < ends
    agent.until(lambda: "not within" in world.degraded(), "it is said")


def test_a_container_that_ignores_sigterm_is_killed_after_its_stop_timeout(world: World) -> None:
    """An instance that is terminated with its hook still waiting for an app that does not end."""
    command = 'CMD ["sh", "-c", "trap : TERM; httpd -p 8000 -h /www; while :; do sleep 1; done"]'
    files = {
        **app(adf_toml="[container]\nstop_timeout = 2\n"),
        "Dockerfile": f"FROM {BASE}\nCOPY www /www\nEXPOSE 8000\n{command}\n",
    }
    world.machine.user_data(RELEASE_URL=world.machine.release(files), ADF_PUBLISH=f"{world.port}:8000")
    agent = world.start()
    world.group.terminate()
    agent.reach("drained")
    world.group.wait_for("Terminated")
    steps = world.machine.status()["drain"]["steps"]
    assert steps["container stopped"] >= 2
    assert world.machine.containers() == []


@pytest.mark.parametrize("fault", [401, 503, SILENCE], ids=["401", "503", "silence"])
def test_a_metadata_service_that_fails_in_service_changes_nothing(world: World, fault: int) -> None:
    """An app taken out of service because IMDS had a bad minute; a scale-in that is missed after it."""
    agent = world.start()
    pid, imds = pid_of_app(world.machine), world.machine.cloud.imds
    ordered = Fault(fault, times=3)
    imds.faults = [ordered]
    agent.until(lambda: ordered.times <= 0, "it was asked in vain", 40)
    assert world.machine.status()["phase"] == "in service"
    assert pid_of_app(world.machine) == pid
    world.group.terminate()
    agent.reach("drained")


def test_a_group_that_the_instance_is_attached_to_later_is_noticed(world: World) -> None:
    """An instance that serves in a group whose scale-in it does not hear of."""
    world.machine.cloud.imds.instance.target_lifecycle_state = None
    agent = world.start()
    assert world.group.state == "Pending:Wait"
    world.machine.cloud.imds.instance.target_lifecycle_state = "InService"
    agent.until(lambda: world.group.state == "InService", "its hook is completed", 60)
