"""What a roll of this group would do, and what would go wrong with it: found before anything is changed."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from adf_agent import location
from adf_agent.location import Location
from adf_agent.ops.rolling import preferences
from adf_agent.ops.rolling.change import Change
from adf_agent.ops.rolling.facts import Group, Member
from adf_agent.ops.rolling.verified import Verified
from adf_agent.ops.rolling.wishes import Wishes

LEVELS = ("refuse", "warn", "note")
NAMED = 5  # instances in a sentence
SHORT = 20  # seconds: a few looks at the roll
ALIAS = "resolve:ssm:"
# https://docs.aws.amazon.com/autoscaling/ec2/userguide/understand-how-suspending-processes-affects-other-processes.html
BEARABLE = ("HealthCheck", "ReplaceUnhealthy")
SUSPENDED = {
    **dict.fromkeys(("Launch", "Terminate", "InstanceRefresh"), "nothing would be replaced"),
    "AddToLoadBalancer": "no new instance would get a request",
    **dict.fromkeys(BEARABLE, "an instance that fails would stay"),
}


@dataclass(frozen=True)
class Finding:
    """A trap of this group: *refuse* for what makes a roll impossible, or unguarded without anybody knowing it."""

    level: Literal["refuse", "warn", "note"]
    sentence: str
    hint: str = ""


Findings = Iterator[Finding]
refuse, warn, note = partial(Finding, "refuse"), partial(Finding, "warn"), partial(Finding, "note")


def findings(
    group: Group,
    change: Change,
    wishes: Wishes,
    release: Verified,
    refresh: str | None,
    alarms: Mapping[str, str],
    unread: str = "",
) -> list[Finding]:
    """All traps, the worst first.

    *refresh*: the status of one under way; *alarms*: the states of those that exist; *unread*: why no record can be.
    """
    found = [
        *_engine(group, refresh),
        *_release(group, change, wishes, release),
        *_template(group, change),
        *_size(group, wishes),
        *_members(group, wishes),
        *_judges(group, change, wishes, unread),
        *_alarms(wishes, alarms),
        *_settings(group),
        *_owner(group),
    ]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _engine(group: Group, refresh: str | None) -> Findings:
    if refresh:
        yield refuse(f"a refresh of {group.name} is under way: {refresh}", f"adf-roll watch {group.name}")
    harmful = group.suspended & SUSPENDED.keys()
    if not _balancers(group):
        harmful -= {"AddToLoadBalancer"}
    for process in sorted(harmful):
        find = warn if process in BEARABLE else refuse
        hint = f"{_command(group, 'resume-processes')} --scaling-processes {process}"
        yield find(f"the process {process} is suspended: {SUSPENDED[process]}", hint)


def _release(group: Group, change: Change, wishes: Wishes, release: Verified) -> Findings:
    before = change.url_before, change.release_before, change.image_before
    same = before == (change.url_after, change.release_after, change.image_after)
    if same and not wishes.replace and wishes.version in (0, group.template.number):
        runs = change.release_before or change.image_before
        yield refuse(f"nothing would change: {group.name} has {runs} already", "Say --replace to renew every instance.")
    if release.error:
        yield refuse(f"the release does not verify: {release.error}", release.hint)
    if release.unseen:
        yield warn(f"the release was not verified: {release.unseen}", release.hint)
    if change.url_after and not _pinned(location.parse(change.url_after)):
        hint = f"Add {release.pin} to the URL." if release.pin else "adf-release verify tells how to pin it."
        yield warn("the bytes behind RELEASE_URL may change: two instances may run two releases by one name", hint)
    if release.memory is None:
        hint = 'Write memory = "512m" under [container] in adf.toml.'
        yield warn("the release has no memory limit: a leak takes the whole instance down, the agent with it", hint)


def _pinned(at: Location) -> bool:
    return bool(at.sha256 or at.version_id or at.path or "@sha256:" in at.reference)


def _template(group: Group, change: Change) -> Findings:
    """https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-rollback.html."""
    template = group.template
    if group.version.startswith("$"):
        hint = f"A rollback needs a number. To have {group.version} again afterwards would undo the roll."
        yield note(f"{group.name} has version {group.version}: it is pinned to {template.number} first", hint)
    if template.image.startswith(ALIAS):
        sentence = f"the AMI of version {template.number} is the alias {template.image}: AWS can't roll back to it"
        command = "aws ec2 create-launch-template-version --launch-template-data ImageId=ami-…"
        hint = f"Give the group a version with an AMI's id: {command} --launch-template-id {template.id}"
        yield refuse(sentence, f"{hint} --source-version {template.number}")
    elif change.image_after.startswith(ALIAS):
        yield refuse(f"{change.image_after} is an alias: AWS can't roll back what is launched from it", "--image ami-…")


def _size(group: Group, wishes: Wishes) -> Findings:
    yield from (refuse(sentence, "adf-roll start --help") for sentence in preferences.beyond(wishes))
    size = group.desired
    if not size:
        hint = f"{_command(group, 'set-desired-capacity')} --desired-capacity 1"
        yield refuse(f"{group.name} has no instance: nothing could show that the release works", hint)
        return
    wanted, number = preferences.asked(wishes.canary, size), preferences.canaries(wishes.canary, size)
    most, share = preferences.at_once(size, wishes.batch), f"{100 / size:.0f}%"
    if number == size:
        hint = "A smaller --canary, or a larger group, keeps the old release in service meanwhile."
        yield warn(f"the canary is the whole group ({size}): it is judged when nothing else is left", hint)
    elif number != wanted:
        yield note(f"--canary {wishes.canary} is {number} of {size}: a checkpoint is a whole percentage")
    elif number == 1 and wishes.canary not in ("1", share):
        yield note(f"--canary {wishes.canary} of {size} instances is one of them, {share}")
    if size * wishes.batch < 100:  # noqa: PLR2004  percent
        yield note(f"--batch {wishes.batch}% of {size} is less than one instance: it goes one at a time, {share}")
    if size + most > group.largest:
        hint = "AWS documents no other limit than its share of the desired capacity; where it waits, raise the maximum."
        yield note(f"up to {size + most} instances run at once, above the group's maximum of {group.largest}", hint)
    overrides = (group.mixed or {}).get("LaunchTemplate", {}).get("Overrides", ())
    if any(each.get("WeightedCapacity", "1") != "1" for each in overrides):
        hint = "Reckon with the weights, or give canary and batch as percentages."
        yield warn(f"instance types are weighted: {size} is a number of units, and so are canary and batch", hint)


def _members(group: Group, wishes: Wishes) -> Findings:
    standby = [each for each in group.members if "Standby" in each.state]
    guarded = [each for each in group.members if each.protected and each not in standby]
    if group.members and len(standby) + len(guarded) == len(group.members):
        hint = f"{_command(group, 'set-instance-protection')} --no-protected-from-scale-in --instance-ids …"
        yield refuse("every instance is protected from scale-in or in Standby: none would be replaced", hint)
    elif guarded:
        yield warn(f"protected from scale-in, and not replaced: {_named(guarded)}", "They stay on what they run now.")
    if standby:
        yield warn(f"in Standby, and not replaced: {_named(standby)}", "Afterwards terminate them, or roll again.")
    waiting = [each for each in group.members if not (each.healthy and each.state == "InService")]
    well = len(group.members) - len(waiting)
    if well < group.desired:
        named = f" ({_named(waiting)})" if waiting else ""
        hint = "The refresh waits for the others, an hour at most: see first why they are not."
        yield warn(f"{well} of {group.desired} instances are healthy and in service{named}", hint)
    versions = [each.version for each in group.members if each.version]
    if versions and group.template.number not in versions:
        hint = "A roll that fails would bring in what may never have run: roll to it first, by --replace."
        yield warn(f"no instance runs version {group.template.number}, which a rollback goes to", hint)
    done = versions.count(wishes.version) if wishes.version != group.template.number else 0
    if done and done >= preferences.canaries(wishes.canary, group.desired):
        sentence = f"{done} instances run version {wishes.version} already: the checkpoint is passed without a canary"
        yield warn(sentence, "They are skipped: look at how they do.")


def _judges(group: Group, change: Change, wishes: Wishes, unread: str) -> Findings:
    known = {"the load balancer": _balancers(group), "the alarms": wishes.alarms, "--check": wishes.check}
    judges = " and ".join(name for name, there in known.items() if there)
    unseen, hint = "no ADF_APP is seen in user-data or tags", "With it, the canary's own record says how it does."
    if wishes.check and wishes.bake < SHORT:
        yield warn(f"a bake of {wishes.bake} s may be over before --check is", f"Give it more: --bake {SHORT}s")
    if change.app:
        if unread:
            yield warn(f"the canary's own record is not heard: {unread}", "Let this caller read the config table.")
        return
    if judges or preferences.held(group):
        yield warn(f"{unseen}: {judges or 'the launch hook'} alone will judge the canary", hint)
    else:
        yield refuse(
            f"{unseen}, and there is no load balancer, hook, alarm or --check: nothing judges the canary", hint
        )


def _alarms(wishes: Wishes, alarms: Mapping[str, str]) -> Findings:
    for name in wishes.alarms:
        state = alarms.get(name)
        if state is None:
            yield refuse(f"there is no alarm {name} here", "aws cloudwatch describe-alarms")
        elif state == "ALARM":
            yield refuse(f"the alarm {name} is in ALARM already: the roll would go back at once", "See to it first.")
        elif state != "OK":
            yield warn(f"the alarm {name} has no data, and guards nothing until it has", "See what it measures.")


def _settings(group: Group) -> Findings:
    name, held, update = group.name, preferences.held(group), _command(group, "update-auto-scaling-group")
    if not group.launch_hooks:
        hint = f"{_command(group, 'put-lifecycle-hook')} --lifecycle-hook-name adf-launch --default-result ABANDON"
        hint += " --lifecycle-transition autoscaling:EC2_INSTANCE_LAUNCHING"
        yield warn(f"{name} has no launch hook: an instance is in service before its app is ready", hint)
    elif not held:
        hooks = ", ".join(group.launch_hooks)
        hint = "See that ADF_LAUNCH_HOOK names ours; the group's warm-up is waited for as well."
        yield warn(f"none of the launch hooks {hooks} is adf-launch", hint)
    if group.warm_pool and group.launch_hooks:
        yield note("the warm pool is replaced too: its instances are not judged before they leave it")
    elif group.warm_pool:  # https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pool-instance-lifecycle.html
        yield warn("the warm pool has no launch hook: its instances are stopped in the middle of a build")
    if not group.grace and (not held or "ELB" in group.health_check):
        hint = f"{update} --health-check-grace-period 60"
        yield warn("the health check grace period is 0: an instance may be replaced while its app starts", hint)
    if group.maintenance is None:
        hint = f"{update} --instance-maintenance-policy MinHealthyPercentage=100,MaxHealthyPercentage=110"
        yield warn(
            f"{name} has no instance maintenance policy: one that fails is ended before its successor starts", hint
        )


def _owner(group: Group) -> Findings:
    """https://github.com/aws-cloudformation/cloudformation-coverage-roadmap/issues/1470."""
    if stack := group.tags.get("aws:cloudformation:stack-name"):
        hint = "Its template must leave the launch template and its version alone after creation."
        yield warn(f"the stack {stack} owns {group.name}: its next change may undo the roll", hint)
    if any("terraform" in f"{name} {value}".lower() for name, value in group.tags.items()):
        hint = "lifecycle { ignore_changes = [launch_template, mixed_instances_policy] }"
        yield note(f"{group.name} has a tag of Terraform's: its next apply may undo the roll", hint)


def _balancers(group: Group) -> tuple[str, ...]:
    return group.target_groups + group.load_balancers


def _command(group: Group, action: str) -> str:
    return f"aws autoscaling {action} --auto-scaling-group-name {group.name}"


def _named(members: Collection[Member]) -> str:
    names = ", ".join(each.instance_id for each in [*members][:NAMED])
    return f"{names} and {len(members) - NAMED} more" if len(members) > NAMED else names
