"""What Auto Scaling and the load balancers say of this instance, and which lifecycle hooks are ours."""

from collections.abc import Iterable, Iterator

from adf_agent import report
from adf_agent.balancer import Balancer, Classic, Health, TargetGroup
from adf_agent.doctor.case import Case, is_given
from adf_agent.doctor.check import Check, Finding, of_error, run
from adf_agent.doctor.permissions import WITHOUT
from adf_agent.errors import AgentError
from adf_agent.group import Group, Hook, Kind
from adf_agent.screen import start_command
from adf_agent.status import SERVING

REASONS = {  # https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html
    "Target.Timeout": "Allow the load balancer's security group to reach the health check's port of this instance.",
    "Target.ResponseCodeMismatch": "Mend the health check's path, or the codes that it takes for success (Matcher).",
    "Target.FailedHealthChecks": "See that the app answers the health check's path on the group's port: ADF_PUBLISH.",
    "Target.InvalidState": "The instance is stopped or ends.",
    "Target.NotInUse": "Add a listener rule that forwards to the target group, in this Availability Zone.",
}
SEE = "See its health check's port and path, and the security group between the two."


def group(case: Case) -> Iterator[Finding]:
    """The group and this instance's state in it; a launch that waits for an agent that is not there."""
    try:
        place = case.place.own()
    except AgentError as error:
        yield lacking(error, "autoscaling:DescribeAutoScalingInstances")
        return
    if place is None:
        in_imds = case.launched.need().target is not None
        what = "IMDS knows of an Auto Scaling group, and Auto Scaling knows of no such instance" if in_imds else ""
        yield Finding("warn" if in_imds else "ok", what or "the instance is in no Auto Scaling group")
        return
    yield judge_place(place.name, place.state, alive=case.running)


def judge_place(name: str, state: str, *, alive: bool) -> Finding:
    """*state* is the instance's in the group *name*, *alive* whether an agent runs here."""
    there = f"in group {name}, {state}"
    if state.endswith(":Wait") and not alive:
        sentence = f"{there}: a lifecycle hook waits, and no agent runs that would complete it"
        return Finding("fail", sentence, start_command())
    if state.startswith(("Terminating", "Terminated", "Detach")):
        return Finding("warn", f"{there}: the group takes it out", f"aws autoscaling describe-scaling-activities "
                       f"--auto-scaling-group-name {name} --max-items 3")  # fmt: skip
    return Finding("ok", there)


def hooks(case: Case) -> Iterator[Finding]:
    """The lifecycle hooks that the agent takes for its own."""
    place = case.place.need()
    if place is None:
        return
    given = case.launched.need()
    wanted: dict[Kind, str] = {"launch": given.settings.launch_hook, "terminate": given.settings.terminate_hook}
    for kind, name in wanted.items():
        try:
            found = place.hook(kind, name)
        except AgentError as error:
            yield lacking(error, "autoscaling:DescribeLifecycleHooks")
            continue
        yield judge_hook(place, kind, name, found, named=is_given(given, f"ADF_{kind.upper()}_HOOK"))


def judge_hook(place: Group, kind: Kind, wanted: str, found: Hook | None, *, named: bool) -> Finding:
    """*found* is the hook that the agent takes for ours; *wanted* was *named* in the settings, or is the default."""
    make = (
        f"aws autoscaling put-lifecycle-hook --auto-scaling-group-name {place.name} --lifecycle-hook-name {wanted} "
        f"--lifecycle-transition autoscaling:EC2_INSTANCE_{'LAUNCHING' if kind == 'launch' else 'TERMINATING'} "
        "--heartbeat-timeout 900 --default-result ABANDON"
    )
    if found is None:
        lost = {"launch": "instances count as in service before their app is", "terminate": "nothing waits for a drain"}
        return Finding("fail" if named else "warn", f"{place.name} has no {kind} hook {wanted}: {lost[kind]}", make)
    if named and found.name != wanted:
        sentence = f"{place.name} has no {kind} hook {wanted}, which ADF_{kind.upper()}_HOOK names; {found.name} serves"
        return Finding("warn", sentence, make)
    return Finding("ok", f"{kind} hook {found.name}, which waits {found.timeout:.0f} s")


def balancers(case: Case) -> Iterator[Finding]:
    """The word of each load balancer that the settings name, all asked at the same time."""
    launched = case.launched.need()
    case.region.need()
    yield from _asked(case, report.own(case.host, launched), "balancers")


def attached(case: Case) -> Iterator[Finding]:
    """The same of those that are attached to the group."""
    place, region = case.place.need(), case.region.need()
    if place is None:
        return
    try:
        arns, names = place.attached()
    except AgentError as error:
        yield lacking(error, "autoscaling:DescribeLoadBalancerTargetGroups")
        return
    known = {each.name for each in report.own(case.host, case.launched.need())}
    theirs: list[Balancer] = [TargetGroup(case.host.elbv2(region), arn, place.instance_id) for arn in arns]
    theirs += [Classic(case.host.elb(region), name, place.instance_id) for name in names]
    yield from _asked(case, [each for each in theirs if each.name not in known], "group's balancers")


def _asked(case: Case, found: Iterable[Balancer], check: str) -> Iterable[Finding]:
    return run({each.name: _asker(each, case) for each in found}, case.waiting, check)


def _asker(balancer: Balancer, case: Case) -> Check:
    serves = case.running and case.record.get("phase") == SERVING[0]

    def ask() -> Iterator[Finding]:
        try:
            yield judge_health(balancer.name, balancer.ask(), serves=serves)
        except AgentError as error:
            yield lacking(error, "elasticloadbalancing:DescribeTargetHealth")

    return ask


def judge_health(name: str, health: Health, *, serves: bool) -> Finding:
    """*serves* is whether the agent says that the instance is in service: then it should be known and healthy."""
    said = f"{name}: {health.said or 'it does not know this instance'}"
    fix = next((hint for reason, hint in REASONS.items() if reason in health.said), SEE)
    if health.state == "healthy":
        return Finding("ok", said)
    if health.state == "unhealthy" and not health.said.startswith("initial"):
        return Finding("fail", said, fix)
    if health.state == "out" and serves:
        return Finding("fail", f"{said}; the agent is in service", "sudo adf-agent reload")
    return Finding("warn", said, fix if health.state == "idle" else "adf-agent status --wait")


def lacking(error: AgentError, action: str) -> Finding:
    """The finding of a call that a boot does without; what it then lacks is said where the permission is missing."""
    found = of_error(error)
    if "is denied" not in error.sentence:
        return found
    return Finding("warn", f"{found.sentence}: {WITHOUT[action]}", found.fix)
