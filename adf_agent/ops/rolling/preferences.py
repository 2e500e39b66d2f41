"""How a refresh is to go: the preferences of StartInstanceRefresh, and the plan that they make of a group. Pure.

https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_RefreshPreferences.html
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from adf_agent import mask
from adf_agent.ops.rolling import refresh
from adf_agent.ops.rolling.change import Change
from adf_agent.ops.rolling.facts import Group
from adf_agent.ops.rolling.wishes import Wishes

OUR_HOOK = "adf-launch"  # ADF_LAUNCH_HOOK's default
LONGEST_DELAY = 172_800  # seconds, of a checkpoint and of baking
MOST_ALARMS = 10
WHOLE = 100  # percent


def asked(wish: str, desired: int) -> int:
    """How many of *desired* instances `3` or `10%` (rounded up, as a checkpoint is) are. Raises ValueError."""
    form = re.fullmatch(r"(\d+)(%?)", wish, re.ASCII)
    if form is None or not int(form[1]) or (form[2] and int(form[1]) > WHOLE):
        raise ValueError(f"{wish!r} is no canary: write a number of instances, or a percentage of the group: 10%")
    return min(desired, refresh.least(int(form[1]), desired) if form[2] else int(form[1]))


def canaries(wish: str, desired: int) -> int:
    """How many canaries there will really be. Raises ValueError.

    It is what was *asked*, but above 100 instances, where a whole percentage can't be any number of them.
    """
    number = asked(wish, desired)
    return min(desired, refresh.least(checkpoint(number, desired), desired)) if number else 0


def checkpoint(canaries: int, desired: int) -> int:
    """The percentage at which a refresh waits with that many canaries; *desired* is 1 or more.

    A checkpoint is the least percentage that must be new: rounded up, 17 % of six instances would be two of them.
    https://docs.aws.amazon.com/autoscaling/ec2/userguide/asg-adding-checkpoints-instance-refresh.html
    """
    return max(1, WHOLE * canaries // desired)


def at_once(desired: int, batch: int) -> int:
    """How many are launched beside the others: *batch* percent, rounded down, and one at least."""
    return max(1, desired * batch // WHOLE)


def batches(desired: int, canaries: int, batch: int) -> list[int]:
    """How many are replaced at each step, those of the canaries first; none goes beyond their checkpoint."""
    most = at_once(desired, batch)
    parts = canaries, desired - canaries
    return [min(most, part - done) for part in parts for done in range(0, part, most)]


def hooked(group: Group) -> bool:
    """Whether a launch hook that the agent completes keeps an instance out of service until it is healthy.

    The agent takes the group's only hook too; which of several it takes may be set where it can't be seen from here.
    """
    return OUR_HOOK in group.launch_hooks or len(group.launch_hooks) == 1


def preferences(group: Group, wishes: Wishes) -> dict[str, Any]:
    """For StartInstanceRefresh: new instances first, a stop at the canary, and back by itself where it fails.

    Instances that are protected from scale-in or in Standby are let alone: somebody needs them, and to wait for them,
    the default, fails the refresh after an hour. Where the canary is the whole group there is no checkpoint to wait
    at: the end is baked, which a refresh can still be rolled back from; so it is where alarms watch, as the last
    instances are not seen at any checkpoint. *wishes* is within the limits, see `excessive`.
    """
    number = canaries(wishes.canary, group.desired)
    whole = number == group.desired
    asked_for: dict[str, Any] = {
        "MinHealthyPercentage": WHOLE,
        "MaxHealthyPercentage": WHOLE + wishes.batch,
        "SkipMatching": not wishes.replace,
        "AutoRollback": True,
        "ScaleInProtectedInstances": "Ignore",
        "StandbyInstances": "Ignore",
    }
    if not whole:
        percentages = [checkpoint(number, group.desired), WHOLE]
        asked_for |= {"CheckpointPercentages": percentages, "CheckpointDelay": wishes.bake}
    if whole or wishes.alarms:
        asked_for["BakeTime"] = wishes.bake
    if wishes.alarms:
        asked_for["AlarmSpecification"] = {"Alarms": [*wishes.alarms]}
    if hooked(group):  # it is healthy when its hook is completed, and has to be to the load balancers, too
        asked_for["InstanceWarmup"] = group.recognition
    return asked_for


def warmup(group: Group, asked_for: int | None) -> int:
    """The seconds that come between a new instance's InService and all else, by what a refresh of *group* asks for.

    https://docs.aws.amazon.com/autoscaling/ec2/userguide/understand-instance-refresh-default-values.html
    """
    if asked_for is not None:
        return asked_for
    return group.grace if group.warmup is None else group.warmup


def excessive(wishes: Wishes) -> Iterator[str]:
    """What AWS would refuse of *wishes*, a sentence each."""
    if wishes.bake > LONGEST_DELAY:
        yield f"a bake of {wishes.bake} s is longer than AWS allows: {LONGEST_DELAY} s, two days"
    if len(wishes.alarms) > MOST_ALARMS:
        yield f"{len(wishes.alarms)} alarms are more than AWS allows: {MOST_ALARMS}"
    if not 1 <= wishes.batch <= WHOLE:
        yield f"a batch of {wishes.batch}% is none: it goes from 1% to 100% of the group"


@dataclass(frozen=True)
class Plan:
    """What a roll would do, in this order. *seconds* is about how long, None where nobody knows how long a boot is."""

    group: str
    desired: int
    launch_template: str
    version: int
    pin: str  # what the group names now, where that is no number; else empty
    target: int  # the existing version that is gone back to, 0 for a new one
    changes: Mapping[str, tuple[str, str]]  # before and after
    canaries: int
    batches: tuple[int, ...]  # the canaries' ones first
    bake: int
    baked: bool  # at the end, too
    seconds: float | None

    @property
    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def lines(self) -> Iterator[str]:
        """The same for people."""
        now = f"version {self.version} of launch template {self.launch_template}"
        yield f"{self.group}: {self.desired} instances, {now}"
        yield from (f"  {name:<13}{before} → {after}" for name, (before, after) in self.changes.items())
        steps = [
            *([f"pin the group to version {self.version}, in place of {self.pin}"] if self.pin else []),
            f"make a new version of {self.target or self.version}" + (", to go back to that" if self.target else ""),
            f"{self.canaries} canary{'' if self.canaries == 1 else ' instances'}, " + self._judged,
        ]
        if rest := self.desired - self.canaries:
            steps.append(f"{rest} more, {max(self.batches)} at a time at most ({len(self.batches)} steps in all)")
        if self.baked and rest:
            steps.append(f"watch the alarms for another {_minutes(self.bake)}")
        yield from (f"  {number}. {step}" for number, step in enumerate(steps, 1))
        yield (
            "  how long is not known: no boot was seen" if self.seconds is None else f"  about {_minutes(self.seconds)}"
        )

    @property
    def _judged(self) -> str:
        return f"judged for {_minutes(self.bake)}" if self.bake else "judged until in service"


def plan(group: Group, change: Change, wishes: Wishes, boot_seconds: float | None = None) -> Plan:
    """*boot_seconds*: from launch to in service, as instances of this group took lately; draining comes on top."""
    number = canaries(wishes.canary, group.desired)
    steps = tuple(batches(group.desired, number, wishes.batch))
    asked = preferences(group, wishes)
    step_seconds = warmup(group, asked.get("InstanceWarmup"))
    bakes = asked.get("CheckpointDelay", 0) + asked.get("BakeTime", 0)
    pairs = {
        "RELEASE_URL": (mask.urls(change.url_before), mask.urls(change.url_after)),
        "release": (change.release_before, change.release_after),
        "AMI": (change.image_before, change.image_after),
    }
    return Plan(
        group=group.name,
        desired=group.desired,
        launch_template=group.template.name,
        version=group.template.number,
        pin=group.version if group.version.startswith("$") else "",
        target=wishes.version,
        changes={name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        canaries=number,
        batches=steps,
        bake=wishes.bake,
        baked="BakeTime" in asked,
        seconds=None if boot_seconds is None else len(steps) * (boot_seconds + step_seconds) + bakes,
    )


def _minutes(seconds: float) -> str:
    return f"{round(seconds)} s" if seconds < 120 else f"{round(seconds / 60)} minutes"  # noqa: PLR2004
