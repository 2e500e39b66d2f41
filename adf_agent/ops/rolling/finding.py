"""What is found before a roll: how much it weighs, a sentence and what to type."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from adf_agent.ops.rolling.facts import Group, Member

NAMED = 5  # instances in a sentence


@dataclass(frozen=True)
class Finding:
    """A trap of this group: *refuse* for what makes a roll impossible, or unguarded without anybody knowing it."""

    level: Literal["refuse", "warn", "note"]
    sentence: str
    hint: str = ""


Findings = Iterator[Finding]
refuse, warn, note = partial(Finding, "refuse"), partial(Finding, "warn"), partial(Finding, "note")


def command(group: Group, action: str) -> str:
    """What to type for an *action* on the group."""
    return f"aws autoscaling {action} --auto-scaling-group-name {group.name}"


def named(members: Collection[Member]) -> str:
    """Their ids, of many the first ones."""
    names = ", ".join(each.instance_id for each in [*members][:NAMED])
    return f"{names} and {len(members) - NAMED} more" if len(members) > NAMED else names
