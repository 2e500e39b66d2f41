"""What the agent tells its group and its load balancers, and what it makes of their answers: moto's and AWS's own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from werkzeug.wrappers import Response

from adf_agent import group, member, report, settings
from adf_agent.background import Task
from adf_agent.balancer import Balancer, Classic, Health, State, TargetGroup
from adf_agent.deadline import Deadline
from adf_agent.errors import HealthError, ReportError
from adf_agent.group import Group, Hook, Kind
from adf_agent.instance import Metadata
from adf_agent.launch import Launch
from adf_agent.member import Member
from adf_agent.record import Record
from adf_agent.root import Root
from adf_agent.sandbox import group as sandbox
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import AwsFault, Call, Then, success
from adf_agent.sandbox.imds import Instance
from adf_agent.sandbox.member import Hook as SandboxHook
from adf_agent.state import prepare

LAUNCH, TERMINATE = SandboxHook("adf-launch", "launch"), SandboxHook("adf-terminate", "terminate")
FOREIGN = SandboxHook("codedeploy", "launch"), SandboxHook("audit", "launch")
OURS = Hook("adf-terminate", "terminate", 60.0)
PATIENCE = 20.0


@cache
def session() -> boto3.Session:
    """One for all tests: it reads a service's description once."""
    return boto3.Session("sandbox", "sandbox", region_name="eu-west-1")


class Aws:
    """A host's clients, which try nothing again by themselves: what is retried is the agent's doing."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._made: dict[str, Any] = {}

    def clear(self) -> None:
        """As if it had just begun."""
        self.cloud.reset()
        self.cloud.imds.instance = Instance()
        self.cloud.faults = []
        for each in (self.cloud.pools, self.cloud.front.handlers, self.cloud.calls):
            each.clear()

    def client(self, service: str) -> Any:
        config = Config(retries={"total_max_attempts": 1})
        if service not in self._made:
            self._made[service] = session().client(service, endpoint_url=self.cloud.endpoint, config=config)
        return self._made[service]

    def host(self, root: Root) -> Any:
        return SimpleNamespace(
            root=root,
            metadata=lambda deadline: Metadata(self.cloud.imds.endpoint, deadline),
            **{name: lambda _, name=name: self.client(name) for name in ("autoscaling", "elb", "elbv2")},
        )


class World:
    """An instance whose agent is about to tell; groups are made with `group`."""

    def __init__(self, aws: Aws, folder: Path, stack: ExitStack) -> None:
        root = Root(folder)
        prepare(root)
        self.cloud, self.aws, self.record = aws.cloud, aws, Record(root, "run")
        self.host, self._stack = aws.host(root), stack
        self.stop = threading.Event()
        self.parts: dict[str, Any] = {}
        self.record.listen(self.parts.update)

    def group(self, *hooks: SandboxHook, target_groups: tuple[str, ...] = ()) -> sandbox.Group:
        return self._stack.enter_context(sandbox.Group(self.cloud, "web", hooks, target_groups))

    def place(self) -> Group:
        """The group as the agent finds it now."""
        found = group.find(self.aws.client("autoscaling"), self.instance_id)
        assert found
        return found

    @property
    def instance_id(self) -> str:
        return self.cloud.imds.instance.instance_id

    def launch(self, **given: str) -> Launch:
        identity = Metadata(self.cloud.imds.endpoint, self.deadline()).identity()
        resolved = settings.resolve({"RELEASE_URL": "file:///v1.tar.gz", **given}, {}, {})
        return Launch(identity, resolved, (), None, self.cloud.imds.instance.target_lifecycle_state)

    def deadline(self, seconds: float = PATIENCE) -> Deadline:
        return Deadline(seconds, self.stop)

    def target_group(self, name: str = "web") -> str:
        vpc = self.cloud.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
        made = self.cloud.client("elbv2").create_target_group(Name=name, Protocol="HTTP", Port=8000, VpcId=vpc)
        return str(made["TargetGroups"][0]["TargetGroupArn"])

    def classic(self) -> str:
        listener = {"Protocol": "HTTP", "LoadBalancerPort": 80, "InstancePort": 8000}
        zones = [self.cloud.imds.instance.zone]
        self.cloud.client("elb").create_load_balancer(
            LoadBalancerName="old", Listeners=[listener], AvailabilityZones=zones
        )
        return "old"

    def instance(self) -> None:
        """Gives IMDS the id of an instance that moto knows."""
        image = self.cloud.imds.instance.image_id
        made = self.cloud.client("ec2").run_instances(ImageId=image, MinCount=1, MaxCount=1)
        self.cloud.imds.instance.instance_id = made["Instances"][0]["InstanceId"]

    def answers(self, name: str, result: Any) -> None:
        """From now on the call *name* is answered by *result*."""

        def handler(call: Call, _: Then) -> Any:
            return success(call, result)

        self.cloud.front.handlers[name] = handler

    def made(self) -> set[str]:
        """The calls that were made since the last look, but those that prepared the world."""
        found = set(self.cloud.calls)
        self.cloud.calls.clear()
        return found


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    """One for all tests here, as none is about its start."""
    with Cloud() as cloud:
        yield Aws(cloud)


@pytest.fixture
def world(aws: Aws, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        aws.clear()
        made = World(aws, tmp_path, stack)
        yield made
        made.stop.set()


def until(condition: Callable[[], object]) -> None:
    """Returns when *condition* holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def denied(action: str) -> AwsFault:
    """As AWS refuses what the role may not."""
    return AwsFault(action, "AccessDenied", 403, message="User is not authorized")


def failure(call: Callable[[], object]) -> ReportError:
    with pytest.raises(ReportError) as raised:
        call()
    return raised.value


# The group


@pytest.mark.parametrize(
    ("hooks", "kind", "wanted", "expected"),
    [
        ([LAUNCH, TERMINATE, *FOREIGN], "launch", "adf-launch", "adf-launch"),
        ([LAUNCH, TERMINATE, *FOREIGN], "launch", "audit", "audit"),
        ([LAUNCH, TERMINATE], "terminate", "adf-terminate", "adf-terminate"),
        ([FOREIGN[0]], "launch", "adf-launch", "codedeploy"),
        ([FOREIGN[0], TERMINATE], "launch", "adf-launch", "codedeploy"),
        ([TERMINATE], "launch", "adf-launch", None),
        ([TERMINATE], "launch", "adf-terminate", None),
        ([LAUNCH], "terminate", "adf-launch", None),
        ([], "launch", "adf-launch", None),
        ([LAUNCH, *FOREIGN], "terminate", "adf-terminate", None),
    ],
)
def test_our_hook_is_the_one_named_else_the_only_one(
    world: World, hooks: list[SandboxHook], kind: Kind, wanted: str, expected: str | None
) -> None:
    """A hook of another's that is completed for it; one of ours that waits an hour, for its name is another."""
    world.group(*hooks)
    found = world.place().hook(kind, wanted)
    assert (found and (found.name, found.kind, found.timeout)) == (expected and (expected, kind, 60.0))


def test_of_several_hooks_none_is_guessed(world: World) -> None:
    """Another tool's hook that is completed before its work is done."""
    world.group(*FOREIGN, TERMINATE)
    error = failure(lambda: world.place().hook("launch", "adf-launch"))
    assert error.sentence == "web has 2 launch hooks (audit, codedeploy) and none of them is adf-launch"
    assert (error.hint, error.cause, error.transient) == ("Name ours with ADF_LAUNCH_HOOK.", "settings", False)


def test_an_instance_in_no_group_has_none(world: World) -> None:
    """A standalone instance that fails its boot, for there is nobody to tell."""
    assert group.find(world.aws.client("autoscaling"), "i-0123456789abcdef0") is None


def test_the_state_says_whether_a_hook_may_wait(world: World) -> None:
    """A hook that nobody completes, as its state is one that nobody thought of; minutes of waiting for none."""
    made = world.group(LAUNCH, TERMINATE)
    waits: list[tuple[str, bool, bool]] = []
    for move in (
        made.launch,
        lambda: world.place().complete(Hook("adf-launch", "launch"), "CONTINUE"),
        made.return_to_pool,
        lambda: world.place().complete(OURS, "CONTINUE"),
        made.terminate,
    ):
        move()
        place = world.place()
        waits.append((place.state, place.waits("launch"), place.waits("terminate")))
    assert waits == [
        ("Pending:Wait", True, False),
        ("InService", False, True),
        ("Warmed:Pending:Wait", True, True),
        ("Warmed:Running", False, False),
        ("Warmed:Terminating:Wait", False, True),
    ]


def test_a_hook_is_prolonged_and_completed_where_it_waits_only(world: World) -> None:
    """A heartbeat into the void that counts as one; an error out of a hook that somebody else completed."""
    made, hook = world.group(LAUNCH, TERMINATE), Hook("adf-launch", "launch")
    place = world.place()
    assert not place.heartbeat(hook)
    assert not place.complete(hook, "CONTINUE")
    made.launch()
    assert place.heartbeat(hook)
    assert made.heartbeats["adf-launch"] == 1
    assert not place.heartbeat(OURS)
    assert place.complete(hook, "CONTINUE")
    assert made.completed == [("adf-launch", "CONTINUE")]
    assert not place.complete(hook, "ABANDON")
    assert made.state == "InService"


def test_unhealthy_counts_within_the_grace_period(world: World) -> None:
    """A broken instance that stays for a grace period of hours."""
    made = world.group()
    made.launch()
    assert group.report_unhealthy(world.aws.client("autoscaling"), world.instance_id)
    assert made.unhealthy == [False]


@pytest.mark.parametrize("words", ["No managed instance found for instance ID i-0", "no managed instance found"])
def test_unhealthy_of_an_instance_that_has_left_the_group_is_no_error(world: World, words: str) -> None:
    """A failed boot whose true reason is hidden by a second error at its end."""
    world.group()
    world.cloud.faults = [AwsFault("autoscaling:SetInstanceHealth", "ValidationError", message=words)]
    assert not group.report_unhealthy(world.aws.client("autoscaling"), world.instance_id)


@pytest.mark.parametrize(
    ("action", "call"),
    [
        ("RecordLifecycleActionHeartbeat", lambda place: place.heartbeat(OURS)),
        ("CompleteLifecycleAction", lambda place: place.complete(OURS, "CONTINUE")),
        ("SetInstanceHealth", lambda place: group.report_unhealthy(place.client, place.instance_id)),
    ],
)
def test_a_request_that_is_wrong_is_no_expected_answer(world: World, action: str, call: Callable[[Group], Any]) -> None:
    """A hook that is misspelled, taken for one that is completed: the instance waits until it times out."""
    world.group()
    world.cloud.faults = [AwsFault(f"autoscaling:{action}", "ValidationError", message="1 validation error detected")]
    error = failure(lambda: call(world.place()))
    assert "1 validation error detected" in error.sentence
    assert not error.transient


# The load balancers


def target(state: str, reason: str = "", description: str = "") -> dict[str, str]:
    words = {"State": state, "Reason": reason, "Description": description}
    return {name: word for name, word in words.items() if word}


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        (target("healthy"), Health("healthy", "healthy")),
        (
            target("unavailable", "Target.HealthCheckDisabled"),
            Health("healthy", "unavailable, Target.HealthCheckDisabled"),
        ),
        (target("initial", "Elb.RegistrationInProgress"), Health("unhealthy", "initial, Elb.RegistrationInProgress")),
        (target("initial", "Elb.InitialHealthChecking"), Health("unhealthy", "initial, Elb.InitialHealthChecking")),
        (
            target("unhealthy", "Target.ResponseCodeMismatch", "Health checks failed with these codes: [404]"),
            Health("unhealthy", "unhealthy, Target.ResponseCodeMismatch, Health checks failed with these codes: [404]"),
        ),
        (
            target("unhealthy.draining", "Target.FailedHealthChecks"),
            Health("unhealthy", "unhealthy.draining, Target.FailedHealthChecks"),
        ),
        (
            target("draining", "Target.DeregistrationInProgress"),
            Health("draining", "draining, Target.DeregistrationInProgress"),
        ),
        (target("unused", "Target.NotRegistered"), Health("out", "unused, Target.NotRegistered")),
        (target("unused", "Target.InvalidState"), Health("out", "unused, Target.InvalidState")),
        (
            target("unused", "Target.NotInUse", "Target group is not configured to receive traffic"),
            Health("idle", "unused, Target.NotInUse, Target group is not configured to receive traffic"),
        ),
    ],
    ids=lambda value: value.said if isinstance(value, Health) else "",
)
def test_each_word_of_a_target_group_is_understood(world: World, health: dict[str, str], expected: Health) -> None:
    """A boot that waits for a health which never comes, or a drain that ends while requests still do."""
    world.answers("elasticloadbalancing:DescribeTargetHealth", {"TargetHealthDescriptions": [{"TargetHealth": health}]})
    assert targets(world).ask() == expected


REGISTRATION = "Instance registration is still in progress."
FAILED = "Instance has failed at least the UnhealthyThreshold number of health checks consecutively."
DEREGISTRATION = "Instance deregistration currently in progress."
NOT_REGISTERED = "Instance is not currently registered with the LoadBalancer."


@pytest.mark.parametrize(
    ("words", "state"),
    [
        (("InService", "N/A", "N/A"), "healthy"),
        (("InService", "N/A", DEREGISTRATION), "draining"),
        (("OutOfService", "ELB", REGISTRATION), "unhealthy"),
        (("OutOfService", "Instance", FAILED), "unhealthy"),
        (("OutOfService", "Instance", NOT_REGISTERED), "out"),
        (("Unknown", "N/A", "A transient error occurred. Please try again later."), "out"),
        (("Unknown",), "out"),
    ],
)
def test_each_word_of_a_classic_load_balancer_is_understood(world: World, words: tuple[str, ...], state: State) -> None:
    """The same, where a draining instance still calls itself InService."""
    said = dict(zip(("State", "ReasonCode", "Description"), words, strict=False))
    world.answers(
        "elasticloadbalancing:DescribeInstanceHealth", {"InstanceStates": [{"InstanceId": world.instance_id, **said}]}
    )
    assert classic(world).ask() == Health(state, ", ".join(words))


@pytest.mark.parametrize(
    ("name", "key"),
    [("DescribeTargetHealth", "TargetHealthDescriptions"), ("DescribeInstanceHealth", "InstanceStates")],
)
def test_an_answer_without_the_instance_is_that_it_is_out(world: World, name: str, key: str) -> None:
    """A drain that dies of an empty list, and leaves the container running."""
    world.answers(f"elasticloadbalancing:{name}", {key: []})
    asked: Balancer = targets(world) if name == "DescribeTargetHealth" else classic(world)
    assert asked.ask() == Health("out")


def targets(
    world: World, arn: str = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/web/0"
) -> Balancer:
    return TargetGroup(world.aws.client("elbv2"), arn, world.instance_id)


def classic(world: World, name: str = "old") -> Balancer:
    return Classic(world.aws.client("elb"), name, world.instance_id)


BALANCERS: dict[str, Callable[[World], Balancer]] = {
    "target group": lambda world: targets(world, world.target_group()),
    "classic": lambda world: classic(world, world.classic()),
}
KINDS = pytest.mark.parametrize("kind", BALANCERS)


@KINDS
def test_to_join_and_to_leave_may_be_said_twice(world: World, kind: str) -> None:
    """A crash in the report after which the instance can neither join nor leave."""
    world.instance()
    balancer = BALANCERS[kind](world)
    states = [balancer.ask().state]
    for call in (balancer.register, balancer.register, balancer.deregister, balancer.deregister):
        call()
        states.append(balancer.ask().state)
    assert states == ["out", "healthy", "healthy", "out", "out"]


@KINDS
def test_to_leave_what_is_gone_is_success_and_to_join_it_is_not(world: World, kind: str) -> None:
    """A stack that is torn down: each instance's drain ends in errors, for its load balancer went first."""
    world.instance()
    balancer = BALANCERS[kind](world)
    if isinstance(balancer, TargetGroup):
        world.cloud.client("elbv2").delete_target_group(TargetGroupArn=balancer.arn)
    else:  # moto stumbles over it
        world.cloud.faults = [AwsFault("elasticloadbalancing:*", "LoadBalancerNotFound")]
    balancer.deregister()
    assert balancer.ask().state == "out"
    error = failure(balancer.register)
    assert balancer.name in error.sentence
    assert not error.transient


@pytest.mark.parametrize(
    ("action", "code", "call"),
    [
        ("DeregisterTargets", "TargetGroupNotFound", lambda world: targets(world).deregister()),
        ("DeregisterTargets", "InvalidTarget", lambda world: targets(world).deregister()),
        ("DescribeTargetHealth", "TargetGroupNotFound", lambda world: targets(world).ask()),
        ("DescribeTargetHealth", "InvalidTarget", lambda world: targets(world).ask()),
        ("DeregisterInstancesFromLoadBalancer", "LoadBalancerNotFound", lambda world: classic(world).deregister()),
        ("DeregisterInstancesFromLoadBalancer", "InvalidInstance", lambda world: classic(world).deregister()),
        ("DescribeInstanceHealth", "LoadBalancerNotFound", lambda world: classic(world).ask()),
        ("DescribeInstanceHealth", "InvalidInstance", lambda world: classic(world).ask()),
    ],
)
def test_gone_in_awss_own_words_is_out(world: World, action: str, code: str, call: Callable[[World], Any]) -> None:
    """The same, in the codes that moto does not have."""
    world.cloud.faults = [AwsFault(f"elasticloadbalancing:{action}", code)]
    said = call(world)
    assert said is None or said.state == "out"


# Refused and throttled


IN_GROUP: dict[str, Callable[[Group], Any]] = {
    "DescribeLifecycleHooks": lambda place: place.hook("launch", "adf-launch"),
    "DescribeLoadBalancerTargetGroups": lambda place: place.attached(),
    "DescribeLoadBalancers": lambda place: place.attached(),
    "RecordLifecycleActionHeartbeat": lambda place: place.heartbeat(OURS),
    "CompleteLifecycleAction": lambda place: place.complete(OURS, "CONTINUE"),
}
OF_TARGETS: dict[str, Callable[[Balancer], Any]] = {
    "RegisterTargets": lambda each: each.register(),
    "DeregisterTargets": lambda each: each.deregister(),
    "DescribeTargetHealth": lambda each: each.ask(),
}
OF_CLASSIC: dict[str, Callable[[Balancer], Any]] = {
    "RegisterInstancesWithLoadBalancer": lambda each: each.register(),
    "DeregisterInstancesFromLoadBalancer": lambda each: each.deregister(),
    "DescribeInstanceHealth": lambda each: each.ask(),
}
CALLS: list[tuple[str, str, Callable[[World], Any]]] = [
    (
        "autoscaling:DescribeAutoScalingInstances",
        "*",
        lambda world: group.find(world.aws.client("autoscaling"), world.instance_id),
    ),
    (
        "autoscaling:SetInstanceHealth",
        "i-0123456789abcdef0",
        lambda world: group.report_unhealthy(world.aws.client("autoscaling"), world.instance_id),
    ),
    *(
        (
            f"autoscaling:{action}",
            "Auto Scaling group web",
            lambda world, call=call: call(
                Group(world.aws.client("autoscaling"), "web", world.instance_id, "InService")
            ),
        )
        for action, call in IN_GROUP.items()
    ),
    *(
        (f"elasticloadbalancing:{action}", "target group web", lambda world, call=call: call(targets(world)))
        for action, call in OF_TARGETS.items()
    ),
    *(
        (f"elasticloadbalancing:{action}", "load balancer old", lambda world, call=call: call(classic(world)))
        for action, call in OF_CLASSIC.items()
    ),
]


@pytest.fixture
def refusing(world: World) -> World:
    """One in which no call gets as far as moto, which has no such group."""
    world.answers("autoscaling:DescribeLoadBalancerTargetGroups", {"LoadBalancerTargetGroups": []})
    return world


@pytest.mark.parametrize(("action", "resource", "call"), CALLS, ids=[action for action, _, _ in CALLS])
def test_what_is_denied_names_action_and_resource(
    refusing: World, action: str, resource: str, call: Callable[[World], Any]
) -> None:
    """A role that lacks one action, and an operator who has to guess which."""
    refusing.cloud.faults = [denied(action)]
    error = failure(lambda: call(refusing))
    assert error.sentence.startswith(f"{action} on {resource} is denied")
    assert (
        error.hint
        == f"Allow {action} on {resource} in the caller's role; on an instance, that of its instance profile."
    )
    assert (error.cause, error.transient) == ("dependency", False)


@pytest.mark.parametrize(("action", "resource", "call"), CALLS, ids=[action for action, _, _ in CALLS])
@pytest.mark.parametrize("fault", [("Throttling", 400), ("", 503)], ids=str)
def test_what_is_throttled_or_down_may_pass(
    refusing: World, action: str, resource: str, call: Callable[[World], Any], fault: tuple[str, int]
) -> None:
    """A fleet that fails its boot all at once, for it asked all at once."""
    refusing.cloud.faults = [AwsFault(action, *fault)]
    error = failure(lambda: call(refusing))
    assert error.transient
    assert error.sentence.startswith(f"{action} on {resource} failed")


ASKING = [each for each in CALLS if ":Describe" in each[0]]


@pytest.mark.parametrize(("action", "resource", "call"), ASKING, ids=[action for action, _, _ in ASKING])
def test_a_page_in_place_of_an_answer_may_pass(
    refusing: World, action: str, resource: str, call: Callable[[World], Any]
) -> None:
    """A proxy's page of welcome, well-formed, that ends a boot as a fault of the agent's own."""
    page = Response("<html><title>Welcome</title></html>", content_type="text/html")
    refusing.cloud.front.handlers[action] = lambda *_: page
    error = failure(lambda: call(refusing))
    assert error.sentence == f"{action} on {resource} was answered by something that is not AWS"
    assert (error.cause, error.transient) == ("dependency", True)


# The report


class Draining:
    """A load balancer that drains until it is told otherwise."""

    draining = True

    def drains(self, _: str) -> bool:
        return self.draining

    def states(self) -> dict[str, str]:
        return {}


def terminating(world: World) -> tuple[sandbox.Group, Draining]:
    """A group whose instance terminates, and whose hook does not wait yet: a load balancer drains it."""
    arn = world.target_group()
    made, balancer = world.group(LAUNCH, TERMINATE, target_groups=(arn,)), Draining()
    made.launch()
    world.place().complete(Hook("adf-launch", "launch"), "CONTINUE")
    world.cloud.pools[arn] = balancer
    made.terminate()
    assert made.state == "Terminating"
    return made, balancer


def completed(world: World, seconds: float = PATIENCE, hook: Hook = OURS) -> Callable[[], bool]:
    place, deadline = world.place(), world.deadline(seconds)
    return lambda: member.complete(place, [hook], "CONTINUE", deadline) is not None


def test_a_hook_that_does_not_wait_yet_is_completed_when_it_does(world: World) -> None:
    """A drain that was faster than the group: the instance then waits an hour for what was said already."""
    made, balancer = terminating(world)
    world.cloud.calls.clear()
    ending = Task(completed(world))
    until(lambda: world.cloud.calls["autoscaling:CompleteLifecycleAction"] >= 2)
    assert not ending.done()
    balancer.draining = False
    assert ending.result(world.deadline())
    assert made.completed[-1] == ("adf-terminate", "CONTINUE")


def test_a_hook_that_never_comes_is_waited_for_within_the_deadline(world: World) -> None:
    """An agent that hangs at the end of its drain, for a hook that somebody deleted."""
    terminating(world)
    began = time.monotonic()
    assert not completed(world, 0.3)()
    assert 0.3 <= time.monotonic() - began < 5


@pytest.mark.parametrize("where", ["InService", "out of the group"])
def test_a_hook_that_can_not_come_is_not_waited_for(world: World, where: str) -> None:
    """A boot that waits two minutes more, as somebody completed the hook by hand."""
    made, launch = world.group(), Hook("adf-launch", "launch")
    made.launch()
    ending = completed(world, hook=launch if where == "InService" else OURS)
    if where != "InService":
        made.detach()
    world.cloud.calls.clear()
    assert not ending()
    assert world.cloud.calls["autoscaling:CompleteLifecycleAction"] == 1


def test_a_throttled_completion_is_tried_again(world: World) -> None:
    """A scale-in of a hundred instances, of which those that were throttled wait for an hour."""
    made = world.group(TERMINATE)
    made.launch()
    made.terminate()
    world.cloud.faults = [AwsFault("autoscaling:CompleteLifecycleAction", times=2)]
    assert completed(world)()
    assert made.state == "Terminated"


def test_a_hook_that_may_not_be_asked_for_is_the_one_of_the_settings(world: World) -> None:
    """A role without one Describe, for which each launch waits until its hook times out."""
    world.group(*FOREIGN)
    world.cloud.faults = [denied("autoscaling:DescribeLifecycleHooks")]
    found = member.our_hook(world.place(), "launch", "audit", world.record, world.deadline())
    assert found == Hook("audit", "launch")
    assert "autoscaling:DescribeLifecycleHooks on Auto Scaling group web is denied" in world.parts["degraded"][0]


def test_what_is_no_matter_of_permissions_is_not_put_up_with(world: World) -> None:
    """A boot that completes no hook, as of two none was named, and calls itself well."""
    world.group(*FOREIGN)
    place = world.place()
    assert (
        "ADF_LAUNCH_HOOK"
        in failure(lambda: member.our_hook(place, "launch", "adf-launch", world.record, world.deadline())).hint
    )
    world.cloud.faults = [AwsFault("autoscaling:DescribeLifecycleHooks")]
    assert failure(lambda: member.our_hook(place, "launch", "audit", world.record, world.deadline(0.2))).transient


def test_what_is_attached_may_not_be_asked_for_and_is_done_without(world: World) -> None:
    """A role without one Describe, for which no boot ever ends."""
    arn = world.target_group()
    world.group(target_groups=(arn,))
    place, launched = world.place(), world.launch()
    found = report.attached(world.host, launched, place, world.record, world.deadline())
    assert [each.name for each in found] == ["target group web"]
    world.cloud.faults = [denied("autoscaling:DescribeLoadBalancerTargetGroups")]
    assert report.attached(world.host, launched, place, world.record, world.deadline()) == []
    assert "autoscaling:DescribeLoadBalancerTargetGroups" in world.parts["degraded"][0]


def test_the_load_balancers_of_the_settings_are_ours(world: World) -> None:
    """A load balancer that is named and never joined, or joined under another's id."""
    arn = world.target_group("own")
    launched = world.launch(ADF_TARGET_GROUPS=arn, ADF_LOAD_BALANCERS="old older")
    found = report.own(world.host, launched)
    assert [each.name for each in found] == ["target group own", "load balancer old", "load balancer older"]
    assert {vars(each)["instance_id"] for each in found} == {world.instance_id}


def joined(world: World, seconds: float = PATIENCE, *, serves: bool = True, **given: str) -> str:
    """Joins; what the stage says of it."""
    launched, deadline = world.launch(**given), world.deadline(seconds)
    check = (lambda: None) if serves else None
    member = Member(world.host, world.record, launched, launched.target)
    member.begin(deadline)
    try:
        return report.join(world.host, world.record, launched, member, deadline, check).fact
    finally:
        member.end()


def test_outside_a_group_only_the_settings_load_balancers_are_told(world: World) -> None:
    """A standalone instance whose role has no right to Auto Scaling, and whose boot fails for it."""
    world.instance()
    name, launched = world.classic(), world.launch()
    assert launched.target is None
    world.made()
    assert joined(world) == "in no group"
    assert world.made() == set()
    assert joined(world, ADF_LOAD_BALANCERS=name) == "healthy in load balancer old, in no group"
    assert {name.partition(":")[0] for name in world.made()} == {"elasticloadbalancing"}


def test_a_target_group_that_nobody_uses_is_said_and_not_waited_for(world: World) -> None:
    """A boot that waits for its end for a health which no load balancer checks."""
    world.instance()
    arn, unused = world.target_group("own"), target("unused", "Target.NotInUse", "It receives no traffic")
    world.answers("elasticloadbalancing:DescribeTargetHealth", {"TargetHealthDescriptions": [{"TargetHealth": unused}]})
    assert joined(world, ADF_TARGET_GROUPS=arn) == "healthy in target group own, in no group"
    assert "target group own gets no requests from any load balancer" in world.parts["degraded"][0]


def test_a_load_balancer_that_finds_the_app_unwell_is_named_with_its_words(world: World) -> None:
    """A security group that lacks one rule, found by somebody who reads the app's log for it."""
    world.instance()
    arn = world.target_group("own")
    unwell = target("unhealthy", "Target.Timeout", "Request timed out")
    world.answers("elasticloadbalancing:DescribeTargetHealth", {"TargetHealthDescriptions": [{"TargetHealth": unwell}]})
    error = failure(lambda: joined(world, 0.4, ADF_TARGET_GROUPS=arn))
    assert error.sentence.endswith("target group own does not find it so: unhealthy, Target.Timeout, Request timed out")
    assert (error.cause, error.exit_code) == ("settings", 17)


def test_an_app_that_ends_meanwhile_is_what_the_report_ends_with(world: World) -> None:
    """A crash of the app that is found after fifteen minutes of waiting for its load balancer's word."""
    world.instance()
    unwell = {"TargetHealthDescriptions": [{"TargetHealth": target("initial")}]}
    world.answers("elasticloadbalancing:DescribeTargetHealth", unwell)
    launched, deadline = world.launch(ADF_TARGET_GROUPS=world.target_group("own")), world.deadline()

    def check() -> None:
        raise HealthError("the app exited with code 1")

    member = Member(world.host, world.record, launched, None)
    with pytest.raises(HealthError, match="exited with code 1"):
        report.join(world.host, world.record, launched, member, deadline, check)


def test_a_docker_that_is_out_is_why_the_app_is_not_found_healthy(world: World) -> None:
    """A crash of Docker in a boot, for which its operator looks at security groups."""
    world.instance()
    unwell = {"TargetHealthDescriptions": [{"TargetHealth": target("unhealthy")}]}
    world.answers("elasticloadbalancing:DescribeTargetHealth", unwell)
    launched = world.launch(ADF_TARGET_GROUPS=world.target_group("own"))
    member, deadline = Member(world.host, world.record, launched, None), Deadline(0.4, threading.Event())
    error = failure(
        lambda: report.join(world.host, world.record, launched, member, deadline, lambda: "Docker did not answer")
    )
    assert error.sentence.endswith("Docker is out: Docker did not answer")
    assert (error.cause, error.exit_code) == ("host", 75)


def test_in_a_launch_what_is_attached_is_left_to_the_group(world: World) -> None:
    """An instance that is sent requests before the group's other hooks have done their work."""
    arn = world.target_group()
    made = world.group(LAUNCH, target_groups=(arn,))
    made.launch()
    assert joined(world) == "adf-launch continued, group web"
    assert world.cloud.calls["elasticloadbalancing:RegisterTargets"] == 0
    assert made.state == "InService"


def test_in_service_what_forgot_the_instance_is_joined_again(world: World) -> None:
    """A restart of the agent after which no load balancer sends anything any more."""
    arn = world.target_group()
    made = world.group(target_groups=(arn,))
    made.launch()
    world.cloud.calls.clear()
    assert joined(world) == "group web"
    assert world.cloud.calls["elasticloadbalancing:RegisterTargets"] == 0, "it knows"
    world.cloud.client("elbv2").deregister_targets(TargetGroupArn=arn, Targets=[{"Id": world.instance_id}])
    assert joined(world) == "healthy in target group web, group web"
    assert world.cloud.calls["elasticloadbalancing:RegisterTargets"] == 1


def test_an_instance_of_a_warm_pool_joins_nothing_and_completes_its_hook(world: World) -> None:
    """Requests to an instance that is only kept ready; a pool that never fills."""
    arn, own = world.target_group(), world.target_group("own")
    made = world.group(LAUNCH, target_groups=(arn,))
    made.launch("Warmed:Stopped")
    assert joined(world, serves=False, ADF_TARGET_GROUPS=own) == "adf-launch continued, group web"
    assert world.cloud.calls["elasticloadbalancing:RegisterTargets"] == 0
    assert made.state == "Warmed:Stopped"


def test_the_hook_is_kept_waiting_until_the_member_ends(world: World) -> None:
    """A build that takes longer than its hook waits; heartbeats that keep a finished launch waiting."""
    made = world.group(SandboxHook("adf-launch", "launch", 1))
    made.launch()
    launched = world.launch()
    member = Member(world.host, world.record, launched, launched.target)
    member.begin(world.deadline())
    member.begin(world.deadline())
    place, hook = member.found(world.deadline())
    assert (place and place.name, hook) == ("web", Hook("adf-launch", "launch", 1.0))
    assert world.parts["group"] == "web"
    world.cloud.faults = [AwsFault("autoscaling:RecordLifecycleActionHeartbeat", times=1)]
    until(lambda: made.heartbeats["adf-launch"] >= 2)
    assert world.cloud.calls["autoscaling:DescribeAutoScalingInstances"] == 1, "begun once"
    member.end()
    made.wait_for("Terminated", 5)


@pytest.mark.parametrize(
    ("hooks", "completed", "unhealthy"),
    [
        ((LAUNCH,), [("adf-launch", "ABANDON")], []),
        ((FOREIGN[0],), [("codedeploy", "ABANDON")], []),
        (FOREIGN, [], [False]),
        ((TERMINATE,), [], [False]),
        ((), [], [False]),
    ],
    ids=["ours", "the only one", "others", "of another kind", "none"],
)
@pytest.mark.parametrize("known", [True, False], ids=["with settings", "without settings"])
def test_a_failed_boot_is_replaced_whatever_hooks_there_are(
    world: World,
    hooks: tuple[SandboxHook, ...],
    completed: list[tuple[str, str]],
    unhealthy: list[bool],
    known: bool,
) -> None:
    """A broken instance that stays: its hook times out into service, or a load balancer is all that it fails."""
    made = world.group(*hooks)
    made.launch()
    assert report.give_up(world.host, world.record, world.launch() if known else None, world.deadline())
    assert (made.completed, made.unhealthy) == (completed, unhealthy)


def test_a_failed_boot_leaves_its_load_balancers_and_says_whom_it_told(world: World) -> None:
    """A failed instance that is still sent requests; one that counts as given up, and nobody was told."""
    world.instance()
    name = world.classic()
    assert joined(world, ADF_LOAD_BALANCERS=name)
    world.made()
    assert not report.give_up(world.host, world.record, world.launch(ADF_LOAD_BALANCERS=name), world.deadline())
    assert classic(world).ask().state == "out"
    assert "autoscaling:DescribeAutoScalingInstances" not in world.made(), "IMDS knows of no group"


def test_a_load_balancer_that_fails_does_not_keep_the_group_from_being_told(world: World) -> None:
    """A failed instance that stays in its group, for it could not leave its load balancer first."""
    made = world.group(LAUNCH)
    made.launch()
    world.cloud.faults = [denied("elasticloadbalancing:*")]
    assert report.give_up(world.host, world.record, world.launch(ADF_LOAD_BALANCERS="old"), world.deadline())
    assert made.completed == [("adf-launch", "ABANDON")]


def test_a_group_that_can_not_be_told_is_an_error(world: World) -> None:
    """An instance noted as given up, which its group believes in service."""
    world.group().launch()
    world.cloud.faults = [denied("autoscaling:SetInstanceHealth")]
    error = failure(lambda: report.give_up(world.host, world.record, world.launch(), world.deadline()))
    assert f"autoscaling:SetInstanceHealth on {world.instance_id} is denied" in error.sentence
