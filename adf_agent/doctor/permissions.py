"""What this configuration needs the role to be allowed, where the need is to write: tried so that nothing happens.

AWS looks at what a caller may do before it looks at whether what is asked makes sense, so a call that can't succeed
tells one from the other. Reads are done by the other checks. Where each call has an effect, the need is said.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from adf_agent import aws
from adf_agent.doctor.case import Case
from adf_agent.doctor.check import Check, Finding, of_error, run
from adf_agent.errors import AgentError
from adf_agent.fleetrecord import partition
from adf_agent.group import Group, Kind
from adf_agent.launch import Launch

# As docs/service.md has it.
WITHOUT = {
    "autoscaling:DescribeAutoScalingInstances": "no hook is completed",
    "autoscaling:DescribeLifecycleHooks": "the named hook is taken, with a heartbeat every 10 s",
    "autoscaling:CompleteLifecycleAction": "its hooks time out",
    "autoscaling:RecordLifecycleActionHeartbeat": "its hooks time out",
    "autoscaling:SetInstanceHealth": "a broken instance stays",
    "autoscaling:DescribeLoadBalancerTargetGroups": "a drain does not wait for what is attached to the group",
    "elasticloadbalancing:RegisterTargets": "the boot fails",
    "elasticloadbalancing:DeregisterTargets": "a drain goes on without",
    "elasticloadbalancing:RegisterInstancesWithLoadBalancer": "the boot fails",
    "elasticloadbalancing:DeregisterInstancesFromLoadBalancer": "a drain goes on without",
    "elasticloadbalancing:DescribeTargetHealth": "it is taken for healthy, and a drain waits 300 s",
    "dynamodb:PutItem": "no fleet record is kept",
}
NOBODY = "i-00000000000000000"  # as an id of an instance may look, and none has it
NEVER = "attribute_exists(App) AND attribute_not_exists(App)"


@dataclass(frozen=True)
class Trial:
    """*call* asks for *action* on *resource* in vain: an answer with a code of *vain* was authorised.

    Without a *call*, none is known that has no effect.
    """

    action: str
    resource: str
    call: Callable[[], object] | None = None
    vain: tuple[str, ...] = ()


def permissions(case: Case) -> Iterator[Finding]:
    """What the settings ask for: a fleet record, load balancers to join and leave."""
    launched, region = case.launched.need(), case.region.need()
    yield from _tried(case, [*_record(case, launched, region), *_joining(case, launched, region)], "permissions")


def of_group(case: Case) -> Iterator[Finding]:
    """What the Auto Scaling group is told."""
    place, region = case.place.need(), case.region.need()
    if place is not None:
        yield from _tried(case, [*_group(case, place, region)], "group's permissions")


def _tried(case: Case, trials: Iterable[Trial], check: str) -> Iterable[Finding]:
    return run({f"{each.action} on {each.resource}": _trier(each) for each in trials}, case.waiting, check)


def _trier(trial: Trial) -> Check:
    return lambda: iter([attempt(trial)])


def attempt(trial: Trial) -> Finding:
    """What the trial comes to."""
    if trial.call is None:
        needs = f"needs {trial.action} on {trial.resource}, or {WITHOUT[trial.action]}"
        return Finding("skipped", f"not tried, as each such call has an effect: {needs}")
    try:
        trial.call()
    except aws.faults() as error:
        if aws.code(error) in trial.vain:
            return _allowed(trial)
        found = of_error(aws.fault(error, AgentError, trial.action, trial.resource))
        denied = aws.code(error) in aws.DENIED
        return Finding("warn", f"{found.sentence}: {WITHOUT[trial.action]}", found.fix) if denied else found
    return _allowed(trial)


def _allowed(trial: Trial) -> Finding:
    return Finding("ok", f"{trial.action} on {trial.resource} is allowed")


def _record(case: Case, launched: Launch, region: str) -> Iterator[Trial]:
    """The fleet record's put, on a condition that nothing fulfils."""
    given = launched.settings
    if given.app is None:
        return
    client = case.host.config(region).dynamodb
    key = {"App": {"S": partition(given.app)}, "Name": {"S": launched.identity.instance_id}}
    yield Trial(
        "dynamodb:PutItem",
        f"table {given.config_table}",
        lambda: client.put_item(TableName=given.config_table, Item=key, ConditionExpression=NEVER),
        ("ConditionalCheckFailedException",),
    )


def _group(case: Case, place: Group, region: str) -> Iterator[Trial]:
    """The hooks' calls, with a token that no lifecycle action has, and no instance."""
    client = case.host.autoscaling(region)
    resource = f"Auto Scaling group {place.name}"
    if hook := _hook(place, case.launched.need()):
        asked = {
            "AutoScalingGroupName": place.name,
            "LifecycleHookName": hook,
            "LifecycleActionToken": str(uuid.uuid4()),
        }
        vain = ("ValidationError",)
        yield Trial(
            "autoscaling:RecordLifecycleActionHeartbeat",
            resource,
            lambda: client.record_lifecycle_action_heartbeat(**asked),
            vain,
        )
        yield Trial(
            "autoscaling:CompleteLifecycleAction",
            resource,
            lambda: client.complete_lifecycle_action(**asked, LifecycleActionResult="CONTINUE"),
            vain,
        )
    yield Trial("autoscaling:SetInstanceHealth", resource)


def _hook(place: Group, launched: Launch) -> str:
    """The name of a hook that is ours, "" without one."""
    wanted: dict[Kind, str] = {
        "launch": launched.settings.launch_hook,
        "terminate": launched.settings.terminate_hook,
    }
    try:
        found = [place.hook(kind, name) for kind, name in wanted.items()]
    except AgentError:  # another check says why
        return wanted["launch"]
    return next((each.name for each in found if each), "")


def _joining(case: Case, launched: Launch, region: str) -> Iterator[Trial]:
    """Leaving the load balancers that the settings name, for an instance that there is not; joining has an effect."""
    given = launched.settings
    for arn in given.target_groups:
        group = f"target group {arn.split('/')[-2]}"
        client = case.host.elbv2(region)
        yield Trial("elasticloadbalancing:RegisterTargets", group)
        yield Trial(
            "elasticloadbalancing:DeregisterTargets",
            group,
            lambda arn=arn, client=client: client.deregister_targets(TargetGroupArn=arn, Targets=[{"Id": NOBODY}]),  # type: ignore[misc]
            ("InvalidTarget", "ValidationError"),
        )
    for name in given.load_balancers:
        asked = {"LoadBalancerName": name, "Instances": [{"InstanceId": NOBODY}]}
        classic = case.host.elb(region)
        yield Trial("elasticloadbalancing:RegisterInstancesWithLoadBalancer", f"load balancer {name}")
        yield Trial(
            "elasticloadbalancing:DeregisterInstancesFromLoadBalancer",
            f"load balancer {name}",
            lambda asked=asked, classic=classic: classic.deregister_instances_from_load_balancer(**asked),  # type: ignore[misc]
            ("InvalidInstance", "InvalidEndPoint", "ValidationError"),
        )
