"""The daemon in an Auto Scaling group and behind load balancers that really balance."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fixtures_agent import BASE, Daemon, Machine, app
from load import Load
from test_boot import free_port, page, reboot, table

from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.front import AwsFault
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.member import Hook

LAUNCH, TERMINATE = Hook("adf-launch", "launch"), Hook("adf-terminate", "terminate")
NEVER = '[health]\nprobe = "http://:8000/never"\nstart_timeout = 1\n'
# Busybox's httpd answers from a process a connection: one that is told to end lets those under way be cut. A pause
# in each answer makes a cut seen.
SLOW = f"""FROM {BASE}
COPY www /www
EXPOSE 8000
STOPSIGNAL SIGKILL
CMD ["/bin/httpd", "-f", "-p", "8000", "-h", "/www"]
"""
CGI = "#!/bin/sh\nsleep 0.2\nprintf 'Content-Type: text/plain\\r\\n\\r\\nslow'\n"


@dataclass
class Place:
    """A machine, what it is behind, and the group around it."""

    machine: Machine
    balancer: Balancer
    port: int
    stack: ExitStack

    def group(self, *hooks: Hook, target_groups: tuple[str, ...] = (), load_balancers: tuple[str, ...] = ()) -> Group:
        group = Group(self.machine.cloud, "web", hooks, target_groups, load_balancers)
        self.stack.enter_context(group)
        return group

    def launch(self, **settings: object) -> None:
        files = settings.pop("files", None) or {"Dockerfile": SLOW, "www/index.html": "hello", "www/cgi-bin/slow": CGI}
        url = self.machine.release(files)  # type: ignore[arg-type]
        self.machine.user_data(RELEASE_URL=url, ADF_PUBLISH=f"{self.port}:8000", **settings)


@pytest.fixture
def place(machine: Machine, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        balancer = stack.enter_context(Balancer(machine.cloud, tmp_path / "haproxy"))
        yield Place(machine, balancer, free_port(), stack)
        machine.clean()


def served(place: Place, **settings: object) -> tuple[Group, Daemon, Any]:
    """An agent in service in a group with both hooks, behind an attached target group."""
    pool = place.balancer.target_group("web", place.port)
    group = place.group(LAUNCH, TERMINATE, target_groups=(pool.arn,))
    place.launch(**settings)
    group.launch()
    agent = place.machine.daemon()
    agent.reach("in service")
    group.wait_for("InService")
    agent.until(lambda: pool.state == "healthy", "the target is healthy")
    return group, agent, pool


def test_the_launch_hook_is_continued_only_when_the_load_balancer_calls_the_target_healthy(place: Place) -> None:
    """InService before the app is ready: requests to an instance that can't answer them."""
    own, classic = place.balancer.target_group("own", place.port), place.balancer.classic("old", place.port)
    group = place.group(LAUNCH)
    place.launch(ADF_TARGET_GROUPS=own.arn, ADF_LOAD_BALANCERS="old")
    group.launch()
    agent = place.machine.daemon()
    agent.reach("in service")
    group.wait_for("InService")
    assert group.completed == [("adf-launch", "CONTINUE")]
    assert (own.state, classic.state) == ("healthy", "healthy")
    assert place.machine.status()["group"] == "web"
    calls = {name: count for name, count in place.machine.cloud.calls.items() if "DescribeTargetHealth" not in name}
    assert sum(calls.values()) - calls["elasticloadbalancing:DescribeInstanceHealth"] <= 12, calls


def test_a_failed_boot_abandons_the_launch_and_the_instance_is_not_booted_again(place: Place) -> None:
    """A broken release that waits an hour for its hook to time out; an instance that boots itself to death."""
    group = place.group(LAUNCH, TERMINATE)
    place.launch(files=app(adf_toml=NEVER))
    group.launch()
    agent = place.machine.daemon()
    assert agent.ended() == 16, agent.log()
    assert group.completed[:1] == [("adf-launch", "ABANDON")]
    again = place.machine.daemon()
    again.until(lambda: place.machine.status()["phase"] in ("failed", "drained"), "it stays away")
    assert place.machine.containers() == []


def test_without_a_hook_a_failed_boot_is_reported_unhealthy_within_the_grace_period(place: Place) -> None:
    """A broken instance that stays for its grace period, which may be hours."""
    group = place.group()
    place.launch(files=app(adf_toml=NEVER))
    group.launch()
    assert place.machine.daemon().ended() == 16
    assert group.unhealthy == [False]


def test_several_hooks_and_none_named_ours_is_an_error_and_no_hook_is_touched(place: Place) -> None:
    """Another tool's hook that is completed for it, before its work is done."""
    group = place.group(Hook("codedeploy", "launch"), Hook("audit", "launch"))
    place.launch()
    group.launch()
    agent = place.machine.daemon()
    assert agent.ended() == 17, agent.log()
    assert "ADF_LAUNCH_HOOK" in place.machine.status()["error"]["hint"]
    assert (group.completed, group.unhealthy) == ([], [False])
    assert place.machine.containers() == []


def test_other_tools_hooks_are_left_alone(place: Place) -> None:
    """A deployment tool whose hook was completed before it had deployed."""
    group = place.group(LAUNCH, Hook("codedeploy", "launch"))
    place.launch()
    group.launch()
    place.machine.daemon().reach("in service")
    assert group.completed == [("adf-launch", "CONTINUE")]
    assert group.state == "Pending:Wait"


def test_a_long_boot_is_kept_waiting_by_heartbeats(place: Place) -> None:
    """A slow build whose hook times out, so that the instance is replaced by another one that builds as slowly."""
    group = place.group(Hook("adf-launch", "launch", heartbeat_timeout=2))
    files = {**app(), "adf.toml": '[health]\nprobe = "http://:8000/late"\n', "www/index.html": "hello"}
    files["Dockerfile"] = (
        f"FROM {BASE}\nCOPY www /www\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\n"
        'CMD ["sh", "-c", "(sleep 5; echo x > /www/late) & exec httpd -f -p 8000 -h /www"]\n'
    )
    place.launch(files=files)
    group.launch()
    agent = place.machine.daemon()
    agent.reach("in service")
    assert group.completed == [("adf-launch", "CONTINUE")]
    assert group.heartbeats["adf-launch"] >= 2
    beats = group.heartbeats["adf-launch"]
    agent.until(lambda: place.machine.cloud.imds.requests["/latest/meta-data/autoscaling/target-lifecycle-state"] > 4, "")
    assert group.heartbeats["adf-launch"] == beats, "none after the boot"


def test_a_scale_in_under_load_loses_no_request_and_proves_its_order(place: Place) -> None:
    """502s at each scale-in: the container stopped while the load balancer still sends."""
    group, agent, pool = served(place)
    with Load(f"{pool.url}/cgi-bin/slow") as load:
        agent.until(lambda: load.served > 20, "requests are served")
        group.terminate()
        agent.until(lambda: agent.events("drain.finished"), "the drain")
        served_after_notice = load.served
    before = [line for line in load.failed if "503" not in line]
    assert before == [], "only the load balancer's own word, once nothing is behind it, may be a failure"
    assert served_after_notice > 20
    group.wait_for("Terminated")
    assert group.completed == [("adf-launch", "CONTINUE"), ("adf-terminate", "CONTINUE")]
    agent.reach("drained")
    assert place.machine.containers() == []
    steps = [event["step"] for event in agent.events("drain.step")]
    assert steps[-3:] == ["drained by target group web", "container stopped", "adf-terminate completed"]
    assert place.machine.cloud.calls["elasticloadbalancing:DeregisterTargets"] == 0, "the group does that itself"
    assert agent.end() == 0


def test_a_reload_under_load_loses_no_request(place: Place) -> None:
    """A change of config that costs requests on every instance it reaches."""
    table(place.machine, GREETING="one")
    group, agent, pool = served(place, ADF_APP="web")
    spare = Spare(place, pool)
    with spare, Load(f"{spare.url}/cgi-bin/slow") as load:
        agent.until(lambda: load.served > 20, "requests are served")
        table(place.machine, GREETING="two")
        assert place.machine.run("reload").code == 0
        served_before = load.served
        agent.until(lambda: load.served > served_before + 20, "requests are served again")
    assert load.failed == []
    assert group.state == "InService"
    assert pool.state == "healthy", "registered again"
    assert "GREETING=two" in place.machine.containers()[0].attrs["Config"]["Env"]
