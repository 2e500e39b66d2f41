"""What a group had before: the version that `back` goes to, and what a refresh under way deploys in its place."""

from collections.abc import Mapping
from typing import NamedTuple

from adf_agent.ops.rolling import begin, change, facts, refresh
from adf_agent.ops.rolling.change import Change
from adf_agent.ops.rolling.errors import Refused
from adf_agent.ops.rolling.facts import Ec2, Group
from adf_agent.ops.rolling.refresh import Refresh

LEFT = "new instances may remain"
# How a roll ended that left the group with what it had.
ENDS: Mapping[str, str] = {
    refresh.BACK: "went back already",
    "RollbackFailed": f"could not be taken back whole, and {LEFT}",
    "Cancelled": f"was cancelled, and {LEFT}",
}


def of(ec2: Ec2, group: Group, last: Refresh | None) -> tuple[int, Change]:
    """The version of *group*'s template to go back to, and what that changes; *last* is its last refresh, at its end.

    Mere replacements are passed over: they came from what is there. Raises Refused.
    """
    name, at = group.name, group.template
    onward = f"Name what to go to: adf-roll start {name} RELEASE_URL"
    if last and last.failed:
        has = change.between(at, at, group.propagated)
        sentence = f"the last roll of {name} {ENDS.get(last.status, f'failed, and {LEFT}')}"
        hint = onward if last.status == refresh.BACK else f"To renew them: adf-roll start {name} --replace. {onward}"
        raise Refused(f"{sentence}: it has {has.release_after or has.image_after}", hint=hint)
    while number := begin.source(at):  # each is smaller than the one before
        at = facts.template(ec2, group.template.id, str(number))
        found = change.between(group.template, at, group.propagated)
        if found.differs:
            return number, found
    raise Refused(f"version {group.template.number} of {name} does not say what was before it", hint=onward)


class Deployed(NamedTuple):
    """What a refresh under way brings, to the template's version *number*; *ours*: adf-roll started it."""

    number: int
    change: Change
    ours: bool


def deployed(ec2: Ec2, group: Group, under_way: Refresh) -> Deployed:
    """Of another launch template than the group's, or one that can't be read, no more than the number is known."""
    number = int(under_way.version) if under_way.version.isdecimal() else 0
    unknown = Deployed(number, change.UNKNOWN, ours=False)
    if under_way.template not in ("", group.template.id, group.template.name):
        return unknown
    try:
        new = facts.template(ec2, group.template.id, under_way.version or str(group.template.number))
        number, old = begin.source(new), group.template
        if number:
            old = facts.template(ec2, group.template.id, str(number))
        found = change.between(old, new, group.propagated)
    except Refused:
        return unknown
    return Deployed(new.number, found, ours=bool(under_way.version and number))
