"""Traps of a group as it is set up, whatever is rolled."""

from adf_agent.ops.rolling import preferences
from adf_agent.ops.rolling.facts import Group
from adf_agent.ops.rolling.finding import Findings, command, note, refuse, warn

# https://docs.aws.amazon.com/autoscaling/ec2/userguide/understand-how-suspending-processes-affects-other-processes.html
BEARABLE = ("HealthCheck", "ReplaceUnhealthy")
SUSPENDED = {
    **dict.fromkeys(("Launch", "Terminate", "InstanceRefresh"), "nothing would be replaced"),
    "AddToLoadBalancer": "no new instance would get a request",
    **dict.fromkeys(BEARABLE, "an instance that fails would stay"),
}


def engine(group: Group, refresh: str | None) -> Findings:
    """What keeps Auto Scaling from a refresh; *refresh* is the status of one under way."""
    if refresh:
        yield refuse(f"a refresh of {group.name} is under way: {refresh}", f"adf-roll watch {group.name}")
    harmful = group.suspended & SUSPENDED.keys()
    if not group.target_groups + group.load_balancers:
        harmful -= {"AddToLoadBalancer"}
    for process in sorted(harmful):
        find = warn if process in BEARABLE else refuse
        hint = f"{command(group, 'resume-processes')} --scaling-processes {process}"
        yield find(f"the process {process} is suspended: {SUSPENDED[process]}", hint)


def settings(group: Group) -> Findings:
    """What lets instances serve too early, or go too early."""
    name, hooked, update = group.name, preferences.hooked(group), command(group, "update-auto-scaling-group")
    if not group.launch_hooks:
        hint = f"{command(group, 'put-lifecycle-hook')} --lifecycle-hook-name adf-launch --default-result ABANDON"
        hint += " --lifecycle-transition autoscaling:EC2_INSTANCE_LAUNCHING"
        yield warn(f"{name} has no launch hook: an instance is in service before its app is ready", hint)
    elif not hooked:
        hooks = ", ".join(group.launch_hooks)
        hint = "See that ADF_LAUNCH_HOOK names ours; the group's warm-up is waited for as well."
        yield warn(f"none of the launch hooks {hooks} is adf-launch", hint)
    if group.unrecognised and hooked:
        hint = "Where that takes long, an old instance may go before a load balancer sends the new one its requests."
        yield warn(f"when its load balancers call an instance healthy is not known: {group.unrecognised}", hint)
    if group.warm_pool and group.launch_hooks:
        yield note("the warm pool is replaced too: its instances are not judged before they leave it")
    elif group.warm_pool:  # https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pool-instance-lifecycle.html
        yield warn("the warm pool has no launch hook: its instances are stopped in the middle of a build")
    if not group.grace and (not hooked or "ELB" in group.health_check):
        hint = f"{update} --health-check-grace-period 60"
        yield warn("the health check grace period is 0: an instance may be replaced while its app starts", hint)
    if group.maintenance is None:
        hint = f"{update} --instance-maintenance-policy MinHealthyPercentage=100,MaxHealthyPercentage=110"
        yield warn(
            f"{name} has no instance maintenance policy: one that fails is ended before its successor starts", hint
        )


def owner(group: Group) -> Findings:
    """Whoever else changes the group.

    https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/1470
    """
    if stack := group.tags.get("aws:cloudformation:stack-name"):
        hint = "Its template must leave the launch template and its version alone after creation."
        yield warn(f"the stack {stack} owns {group.name}: its next change may undo the roll", hint)
    if any("terraform" in f"{name} {value}".lower() for name, value in group.tags.items()):
        hint = "lifecycle { ignore_changes = [launch_template, mixed_instances_policy] }"
        yield note(f"{group.name} has a tag of Terraform's: its next apply may undo the roll", hint)
