"""What a roll of this group would do, and what would go wrong with it: found before anything is changed."""

from collections.abc import Mapping

from adf_agent import location
from adf_agent.location import Location
from adf_agent.ops.rolling import finding, preferences, traps
from adf_agent.ops.rolling.change import Change
from adf_agent.ops.rolling.facts import Group
from adf_agent.ops.rolling.finding import Finding, Findings, note, refuse, warn
from adf_agent.ops.rolling.verified import Verified
from adf_agent.ops.rolling.wishes import Wishes

LEVELS = ("refuse", "warn", "note")
SHORT = 20  # seconds: a few looks at the roll
ALIAS = "resolve:ssm:"
AFTERWARDS = {
    "$Latest": "To have $Latest again is right after a good roll: after one that went back it is what failed.",
    "$Default": "To have $Default again would undo the roll: that stays the version it is.",
}


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
        *traps.engine(group, refresh),
        *_release(group, change, wishes, release),
        *_template(group, change),
        *_size(group, wishes),
        *_members(group),
        *_judges(group, change, wishes, unread),
        *_alarms(wishes, alarms),
        *_clean(group, change, wishes),
        *traps.settings(group),
        *traps.owner(group),
    ]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _release(group: Group, change: Change, wishes: Wishes, release: Verified) -> Findings:
    if not change.differs and not wishes.replace and wishes.version in (0, group.template.number):
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
        hint = f"A rollback needs a number. {AFTERWARDS[group.version]}"
        yield note(f"{group.name} has version {group.version}: it is pinned to {template.number} first", hint)
    if template.image.startswith(ALIAS):
        sentence = f"the AMI of version {template.number} is the alias {template.image}: AWS can't roll back to it"
        command = "aws ec2 create-launch-template-version --launch-template-data ImageId=ami-…"
        hint = f"Give the group a version with an AMI's id: {command} --launch-template-id {template.id}"
        yield refuse(sentence, f"{hint} --source-version {template.number}")
    elif change.image_after.startswith(ALIAS):
        yield refuse(f"{change.image_after} is an alias: AWS can't roll back what is launched from it", "--image ami-…")


def _size(group: Group, wishes: Wishes) -> Findings:
    yield from (refuse(sentence, "adf-roll start --help") for sentence in preferences.excessive(wishes))
    size = group.desired
    if not size:
        hint = f"{finding.command(group, 'set-desired-capacity')} --desired-capacity 1"
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
    if any("InstanceRequirements" in each for each in overrides):
        hint = "Name instance types in its overrides instead of their attributes."
        yield refuse(f"{group.name} has instance types by their attributes: AWS refuses to roll it to a version", hint)
    if any(each.get("WeightedCapacity", "1") != "1" for each in overrides):
        hint = "Reckon with the weights, or give canary and batch as percentages."
        yield warn(f"instance types are weighted: {size} is a number of units, and so are canary and batch", hint)


def _members(group: Group) -> Findings:
    standby = [each for each in group.members if "Standby" in each.state]
    guarded = [each for each in group.members if each.protected and each not in standby]
    if group.members and len(standby) + len(guarded) == len(group.members):
        hint = f"{finding.command(group, 'set-instance-protection')} --no-protected-from-scale-in --instance-ids …"
        yield refuse("every instance is protected from scale-in or in Standby: none would be replaced", hint)
    elif guarded:
        yield warn(
            f"protected from scale-in, and not replaced: {finding.named(guarded)}", "They stay on what they run now."
        )
    if standby:
        yield warn(
            f"in Standby, and not replaced: {finding.named(standby)}", "Afterwards terminate them, or roll again."
        )
    waiting = [each for each in group.members if not (each.healthy and each.state == "InService")]
    well = len(group.members) - len(waiting)
    if well < group.desired:
        named = f" ({finding.named(waiting)})" if waiting else ""
        hint = "The refresh waits for the others, an hour at most: see first why they are not."
        yield warn(f"{well} of {group.desired} instances are healthy and in service{named}", hint)
    versions = [each.version for each in group.members if each.version]
    if versions and group.template.number not in versions:
        hint = "A roll that fails would bring in what may never have run: roll to it first, by --replace."
        yield warn(f"no instance runs version {group.template.number}, which a rollback goes to", hint)


def _judges(group: Group, change: Change, wishes: Wishes, unread: str) -> Findings:
    known = {
        "the load balancer": group.target_groups + group.load_balancers,
        "the alarms": wishes.alarms,
        "--check": wishes.check,
    }
    judges = " and ".join(name for name, there in known.items() if there)
    unseen, hint = "no ADF_APP is seen in user-data or tags", "With it, the canary's own record says how it does."
    if wishes.check and wishes.bake < SHORT:
        yield warn(f"a bake of {wishes.bake} s may be over before --check is", f"Give it more: --bake {SHORT}s")
    if change.app:
        if unread:
            yield warn(f"the canary's own record is not heard: {unread}", "Let this caller read the config table.")
        return
    if judges or preferences.hooked(group):
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
            hint = "See what it measures, and have it treat missing data as not breaching, or ignore it."
            yield refuse(f"the alarm {name} has no data: AWS starts no refresh with it", hint)


def _clean(group: Group, change: Change, wishes: Wishes) -> Findings:
    """What stands in the way of the config's clean-up after the roll."""
    if not wishes.clean:
        return
    if not change.app:
        yield refuse("--clean: no ADF_APP is seen in user-data or tags", "It says whose config is to be cleaned up.")
    if change.release_before in ("", change.release_after):
        what = (
            f"both releases are named {change.release_after}" if change.release_before else "no former release is seen"
        )
        yield refuse(f"--clean: {what}", "Without --clean, it rolls.")
    if staying := [each for each in group.members if each.protected or "Standby" in each.state]:
        hint = f"Afterwards: adf-config -a {change.app} clean {change.release_before}"
        yield warn(f"--clean has to wait for what is not replaced, and gives up: {finding.named(staying)}", hint)
