"""How an instance leaves: the plan for each reason, and its steps, of which none holds up those after it."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from adf_agent import leave, report, settings
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, Stopped
from adf_agent.instance import Identity
from adf_agent.launch import Launch
from adf_agent.leave import Leaving, Plan, Why
from adf_agent.record import Record
from adf_agent.root import Root
from adf_agent.stages import Stages
from adf_agent.state import Ledger, prepare

ARN = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/{}/0123456789abcdef"
OWN, ATTACHED = ARN.format("own"), ARN.format("attached")
IDENTITY = Identity("i-0123456789abcdef0", "eu-west-1", "123456789012", "eu-west-1a", "ami-0", "t3.micro", "127.0.0.1")
HOUR = leave.LONGEST_SECONDS


@pytest.mark.parametrize(
    ("why", "target", "budget", "by_group", "hook", "stops"),
    [
        ("terminated", "Terminated", HOUR, True, True, True),
        ("terminated", "Warmed:Terminated", HOUR, True, True, True),
        ("warmed", "Warmed:Stopped", HOUR, True, True, True),
        ("standby", "Standby", HOUR, True, False, False),
        ("standby", "Detached", HOUR, True, False, False),
        ("spot", "InService", 120.0, False, False, True),
        ("spot", "Terminated", 120.0, True, True, True),
        ("rebalance", "InService", HOUR, False, False, True),
        ("drain", "InService", HOUR, False, False, True),
        ("drain", None, HOUR, False, False, True),
        ("stop", None, 345.0, False, False, True),
        ("stop", "InService", 345.0, False, False, True),
        ("stop", "Terminated", 345.0, True, True, True),
        ("stop", "Standby", 345.0, True, False, True),
        ("reload", "InService", HOUR, False, False, True),
    ],
)
def test_the_plan_for_each_reason(
    why: Why, target: str | None, budget: float, by_group: bool, hook: bool, stops: bool
) -> None:
    """A group's own deregistration that is not waited for, or one that is waited for and never comes."""
    assert leave.plan(why, target) == Plan(why, budget, by_group, hook, stops)


def test_there_is_a_plan_for_every_reason() -> None:
    """A reason that was added, and for which a running app is left alone."""
    assert all(leave.plan(why).why == why for why in get_args(Why))


@pytest.mark.parametrize("notice", [0.0, 17.5, 120.0])
def test_a_spot_notice_says_how_long_there_is(notice: float) -> None:
    """An agent that was down when the notice came, and drains past the instance's end."""
    assert leave.plan("spot", notice=notice).budget == notice
    assert leave.plan("stop", notice=notice).budget == notice, "a stop after the notice too"


@pytest.mark.parametrize(
    ("why", "stop_timeout", "seconds"),
    [("stop", 30.0, 35.0), ("spot", 0.0, 5.0), ("terminated", 3600.0, 3605.0), ("standby", 30.0, 5.0)],
)
def test_the_container_keeps_its_time_to_stop(why: Why, stop_timeout: float, seconds: float) -> None:
    """A worker that is killed in the middle of its job, as the drain took all the time."""
    assert leave.plan(why).kept_back(stop_timeout) == seconds


def test_the_defaults_of_a_load_balancer_and_of_a_container_fit_the_budgets() -> None:
    """A reboot under default settings that cuts requests: 300 s of deregistration delay, 30 s to stop."""
    assert left(leave.plan("stop"), 30.0) >= max(300.0, leave.BLIND_SECONDS)
    assert left(leave.plan("terminated"), 120.0) >= 3600.0, "the longest deregistration delay"


def left(plan: Plan, stop_timeout: float) -> float:
    """Seconds for the load balancers."""
    return plan.budget - plan.kept_back(stop_timeout)


# The steps. What AWS says is given here word by word: a target group that never lets go, a call that hangs.


@dataclass
class ELBv2:
    """A load balancer in which each target of *lets_go* drains for as many looks; others for ever."""

    lets_go: dict[str, int] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    failing: dict[str, Callable[[], object]] = field(default_factory=dict)  # by a call's name

    def deregister_targets(self, **request: Any) -> Any:
        self._call("deregister", request)

    def describe_target_health(self, **request: Any) -> Any:
        self._call("ask", request)
        arn = request["TargetGroupArn"]
        self.lets_go[arn] = self.lets_go.get(arn, 10_000) - 1
        reason = {"State": "unused", "Reason": "Target.NotRegistered"} if self.lets_go[arn] < 0 else {}
        return {"TargetHealthDescriptions": [{"TargetHealth": {"State": "draining", **reason}}]}

    def _call(self, name: str, request: dict[str, Any]) -> None:
        self.calls.append((name, request["TargetGroupArn"]))
        self.failing.get(name, lambda: None)()


@dataclass
class AutoScaling:
    """A group that waits for our terminate hook, and to which OTHER is attached."""

    calls: list[str] = field(default_factory=list)
    failing: dict[str, Callable[[], object]] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        hook: dict[str, Any] = {
            "LifecycleHookName": "adf-terminate",
            "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
        }
        hook |= {"HeartbeatTimeout": 60}
        place = {"AutoScalingGroupName": "web", "LifecycleState": "Terminating:Wait"}
        answers: dict[str, Any] = {
            "describe_auto_scaling_instances": {"AutoScalingInstances": [place]},
            "describe_lifecycle_hooks": {"LifecycleHooks": [hook]},
            "describe_load_balancer_target_groups": {
                "LoadBalancerTargetGroups": [{"LoadBalancerTargetGroupARN": ATTACHED}]
            },
            "describe_load_balancers": {"LoadBalancers": []},
            "record_lifecycle_action_heartbeat": {},
            "complete_lifecycle_action": {},
        }

        def call(**_: Any) -> Any:
            self.calls.append(name)
            self.failing.get(name, lambda: None)()
            return answers[name]

        return call


@dataclass
class Docker:
    """An engine that stops what it is told to; *stopped* has the seconds that each had for it."""

    stopped: list[tuple[str, float]] = field(default_factory=list)

    @property
    def api(self) -> "Docker":
        return self

    def info(self) -> dict[str, str]:
        return {"ServerVersion": "28", "Driver": "overlay2", "DockerRootDir": "/var/lib/docker"}

    def stop(self, name: str, timeout: float) -> None:
        self.stopped.append((name, timeout))

    def remove_container(self, name: str, **_: Any) -> None:
        assert name in [stopped for stopped, _ in self.stopped], "killed, not stopped"


class Way:
    """One way out of an instance with a target group of its own, and one attached to its group."""

    def __init__(self, folder: Path, standing: str = "joined") -> None:
        root = Root(folder)
        prepare(root)
        self.elbv2, self.autoscaling = ELBv2({OWN: 0, ATTACHED: 0}), AutoScaling()
        self.docker = Docker()
        self.record, self.ledger, self.stop = Record(root, "run"), Ledger(root), threading.Event()
        self.ledger.note(instance_id=IDENTITY.instance_id, standing=standing, container_id="c0ffee")
        self.standings: list[str] = []
        self.fault: AgentError | None = None
        host: Any = SimpleNamespace(
            root=root,
            docker=lambda _: self.docker,
            elbv2=lambda _: self.elbv2,
            autoscaling=lambda _: self.autoscaling,
        )
        given = {"RELEASE_URL": "file:///v1.tar.gz", "ADF_TARGET_GROUPS": OWN}
        launched = Launch(IDENTITY, settings.resolve(given, {}, {}), (), None, "InService")
        self.do = Stages(host, self.record, self.ledger, launched, Deadline(60, self.stop))

    def leave(self, plan: Plan, *, grouped: bool = True) -> dict[str, Any]:
        """Leaves by *plan*; the record's parts after it."""
        parts: dict[str, Any] = {}

        def listen(told: Any) -> None:
            parts.update(told)
            if [self.ledger.state.standing] != self.standings[-1:]:
                self.standings.append(self.ledger.state.standing)

        self.record.listen(listen)
        self.fault = Leaving(self.do, plan, self.stop, grouped=grouped).run()
        self.record.add()
        return parts


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    made = Way(tmp_path)
    yield made
    made.stop.set()


def brief(why: Why, seconds: float = 0.4) -> Plan:
    """The plan for *why*, with *seconds* for its load balancers beside the default stop timeout."""
    target = {"terminated": "Terminated", "warmed": "Warmed:Stopped", "standby": "Standby"}.get(why, "InService")
    usual = leave.plan(why, target)
    return Plan(why, seconds + usual.kept_back(30.0), usual.by_group, usual.hook, usual.stops)


def steps(parts: dict[str, Any]) -> list[str]:
    return list(parts["drain"]["steps"])


def refuse_connection() -> None:
    raise ConnectionRefusedError


def refuse() -> None:
    """As botocore tells that the role may not."""
    from botocore.exceptions import ClientError  # noqa: PLC0415  as the agent does

    raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "Operation")


def test_who_leaves_by_itself_deregisters_everywhere_and_waits(way: Way) -> None:
    """Requests to a stopped container from a target group of the group, or from one of the settings."""
    way.elbv2.lets_go = {OWN: 1, ATTACHED: 2}
    parts = way.leave(brief("stop", 20))
    expected = [
        *("deregistered from target group own", "deregistered from target group attached"),
        *("drained by target group own", "drained by target group attached"),
        "container stopped",
    ]
    assert [step for step in steps(parts) if step in expected] == expected
    assert set(steps(parts)) - set(expected) == {"group", "attached"}
    assert ("c0ffee", 30) in way.docker.stopped
    asked = [("ask", OWN)] * 2 + [("ask", ATTACHED)] * 3
    assert way.elbv2.calls == [("deregister", OWN), ("deregister", ATTACHED), *asked]
    assert "complete_lifecycle_action" not in way.autoscaling.calls, "no hook waits for a SIGTERM"
    assert parts["degraded"] == []


def test_where_the_group_deregisters_only_our_own_are_deregistered_and_all_are_waited_for(way: Way) -> None:
    """A group that stumbles over an instance which is gone already; an app that is stopped while it drains."""
    way.elbv2.lets_go = {OWN: 0, ATTACHED: 2}
    parts = way.leave(brief("terminated", 20))
    assert set(steps(parts)[-4:-2]) == {"drained by target group own", "drained by target group attached"}
    assert steps(parts)[-2:] == ["container stopped", "adf-terminate completed"]
    assert [call for call in way.elbv2.calls if call[0] == "deregister"] == [("deregister", OWN)]
    assert "complete_lifecycle_action" in way.autoscaling.calls


@pytest.mark.parametrize("standing", ["joining", "joined", "leaving", "draining"])
@pytest.mark.parametrize(("why", "during", "end"), [("drain", "draining", "drained"), ("stop", "leaving", "")])
def test_what_it_is_at_is_noted_before_and_after(
    tmp_path: Path, standing: str, why: Why, during: str, end: str
) -> None:
    """A crash in the drain after which a drained instance serves, or a stopped one never comes back."""
    way = Way(tmp_path, standing)
    way.leave(brief(why, 20))
    assert way.standings == [during, end]


@pytest.mark.parametrize("why", ["stop", "drain", "spot"])
def test_of_whom_nobody_was_told_leaves_without_a_call(tmp_path: Path, why: Why) -> None:
    """A SIGTERM in a boot that waits minutes for load balancers which never heard of the instance."""
    way = Way(tmp_path, standing="")
    way.leave(brief(why))
    assert (way.elbv2.calls, way.autoscaling.calls) == ([], [])
    assert way.docker.stopped


def test_a_terminated_instance_of_which_nobody_was_told_completes_its_hook(tmp_path: Path) -> None:
    """An instance terminated in its boot that waits an hour for its hook."""
    way = Way(tmp_path, standing="")
    way.leave(brief("terminated", 20))
    assert "complete_lifecycle_action" in way.autoscaling.calls


def test_outside_a_group_nobody_asks_for_one(way: Way) -> None:
    """An instance whose role may not ask Auto Scaling, as there is none, and whose drain waits for it."""
    parts = way.leave(brief("stop", 20), grouped=False)
    own = ["deregistered from target group own", "drained by target group own"]
    assert steps(parts) == [*own, "container stopped"]
    assert way.autoscaling.calls == []


def test_one_that_never_lets_go_is_named_and_the_end_comes(way: Way) -> None:
    """A websocket that keeps an instance for good; a hook that times out behind it."""
    way.elbv2.lets_go = {OWN: 10_000, ATTACHED: 0}
    began = time.monotonic()
    parts = way.leave(brief("terminated"))
    assert time.monotonic() - began < 5
    assert [reason for reason in parts["degraded"] if "target group own" in reason]
    assert "complete_lifecycle_action" in way.autoscaling.calls


@pytest.mark.parametrize(
    ("service", "call", "named"),
    [
        ("elbv2", "deregister", "elasticloadbalancing:DeregisterTargets on target group own"),
        ("elbv2", "ask", "elasticloadbalancing:DescribeTargetHealth on target group own"),
        ("autoscaling", "describe_auto_scaling_instances", "autoscaling:DescribeAutoScalingInstances"),
        ("autoscaling", "describe_load_balancer_target_groups", "autoscaling:DescribeLoadBalancerTargetGroups"),
        ("autoscaling", "describe_lifecycle_hooks", "autoscaling:DescribeLifecycleHooks"),
        ("autoscaling", "complete_lifecycle_action", "autoscaling:CompleteLifecycleAction"),
    ],
)
def test_a_step_that_is_not_allowed_is_named_and_the_next_is_taken(
    way: Way, service: str, call: str, named: str
) -> None:
    """One permission that is missing, and nothing is drained, stopped or completed."""
    getattr(way, service).failing[call] = refuse
    parts = way.leave(brief("terminated"))
    degraded = " ".join(parts["degraded"])
    assert (named in degraded) or (call == "ask" and "drained by target group own" in degraded)
    assert ("complete_lifecycle_action" in way.autoscaling.calls) is (call != "describe_auto_scaling_instances")
    assert way.ledger.state.standing == ""


@pytest.mark.parametrize(
    ("service", "call", "named"),
    [
        ("elbv2", "deregister", "deregistered from target group own"),
        ("elbv2", "ask", "drained by target group attached"),
        ("autoscaling", "describe_auto_scaling_instances", "group"),
        ("autoscaling", "describe_load_balancer_target_groups", "attached"),
        ("autoscaling", "complete_lifecycle_action", "adf-terminate completed"),
    ],
)
def test_a_step_that_fails_unexpectedly_is_named_and_the_next_is_taken(
    way: Way, service: str, call: str, named: str
) -> None:
    """A fault of the agent's own, and an app that is cut off in the middle of its requests."""
    getattr(way, service).failing[call] = lambda: int("hunter2")
    parts = way.leave(brief("terminated", 20))
    assert f"drain: {named}: unexpected: ValueError" in parts["degraded"]
    assert way.docker.stopped
    assert ("complete_lifecycle_action" in way.autoscaling.calls) is (call != "describe_auto_scaling_instances")
    assert way.fault
    assert way.fault.exit_code == 1


@pytest.mark.parametrize("kind", [ImportError, TypeError])
def test_load_balancers_that_can_not_be_dealt_with_leave_the_rest_to_be_done(
    way: Way, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """A client that can't be made, as its files are gone, and nothing else is drained, stopped or completed."""

    def fail(*_: object) -> None:
        raise kind

    monkeypatch.setattr(report, "own", fail)
    parts = way.leave(brief("terminated", 20))
    assert f"drain: the settings' load balancers: unexpected: {kind.__name__}" in parts["degraded"]
    assert steps(parts)[-2:] == ["container stopped", "adf-terminate completed"]
    assert way.fault


def test_a_docker_that_is_dead_holds_nobody_up(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shutdown of six minutes, for a container that went with its engine."""
    monkeypatch.setattr(leave, "ASK_SECONDS", 0.5)
    monkeypatch.setattr(way.docker, "info", refuse_connection, raising=False)
    began = time.monotonic()
    parts = way.leave(leave.plan("stop"))
    assert time.monotonic() - began < 5
    assert any("container stopped: Docker" in reason for reason in parts["degraded"])
    assert way.fault is None, "a fault of Docker's"


@pytest.mark.parametrize("call", ["deregister", "ask"])
def test_a_call_that_hangs_takes_its_window_and_no_more(way: Way, call: str) -> None:
    """A load balancer's API that does not answer, for which an app is stopped by EC2 instead of by its agent."""
    way.elbv2.failing[call] = way.stop.wait
    began = time.monotonic()
    parts = way.leave(brief("terminated"))
    assert time.monotonic() - began < 5
    assert any("not within" in reason for reason in parts["degraded"])
    assert "complete_lifecycle_action" in way.autoscaling.calls


def test_who_may_not_ask_waits_as_long_as_a_drain_takes_by_default(way: Way) -> None:
    """Requests cut on each scale-in, as the role lacks DescribeTargetHealth and nothing was waited for."""
    way.elbv2.failing["ask"] = refuse
    began = time.monotonic()
    way.leave(brief("standby", 0.5))
    assert 0.5 <= time.monotonic() - began < 5
    assert way.docker.stopped == [], "a standby keeps its container"


def test_whoever_stops_it_ends_it_at_once(way: Way) -> None:
    """A second SIGTERM, or a stop in an hour's drain, that is heard when the hour is over."""
    way.elbv2.lets_go = {}
    threading.Timer(0.3, way.stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        way.leave(leave.plan("drain"))
    assert time.monotonic() - began < 5
    assert way.ledger.state.standing == "draining", "the next start goes on with it"


@pytest.mark.parametrize(
    ("budget", "spent", "seconds"), [(60.0, 0.0, 30), (20.0, 0.0, 18), (60.0, 50.0, 8), (9.0, 60.0, 3)]
)
def test_the_container_has_what_is_left_of_its_time(way: Way, budget: float, spent: float, seconds: int) -> None:
    """A container that is given its whole minute on a spot instance with ten seconds to live, and is cut off."""
    way.ledger.note(standing="")
    Leaving(
        way.do, Plan("spot", budget, by_group=False, hook=False, stops=True), way.stop, grouped=False, spent=spent
    ).run()
    assert way.docker.stopped[0] == ("c0ffee", seconds)
