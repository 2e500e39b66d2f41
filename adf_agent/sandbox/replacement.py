"""What an instance refresh counts in its group, and how many it replaces at once. No clock, no AWS.

Where nothing else is named, the rule is from
https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-overview.html
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Preferences:
    """In percent and seconds. No maximum is not the same as one of 100.

    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_RefreshPreferences.html
    https://docs.aws.amazon.com/autoscaling/ec2/userguide/understand-instance-refresh-default-values.html
    """

    min_healthy: int = 90
    max_healthy: int | None = None
    warmup: int = 0
    checkpoints: tuple[int, ...] = ()
    delay: int = 3600
    skip_matching: bool = False
    auto_rollback: bool = False
    protected: str = "Wait"  # or "Ignore", "Refresh"
    standby: str = "Wait"  # or "Ignore", "Terminate"
    alarms: tuple[str, ...] = ()
    bake: int = 0


@dataclass(frozen=True)
class Seen:
    """One instance of the group. *since* is when it came InService."""

    id: str
    matches: bool  # it was launched from the configuration that the refresh deploys
    state: str  # the lifecycle state: "Pending:Wait", "InService" …
    healthy: bool = True
    since: float | None = None
    protected: bool = False  # from scale-in

    @property
    def leaving(self) -> bool:
        return self.state.startswith(("Terminat", "Detach"))

    @property
    def standby(self) -> bool:
        return "Standby" in self.state

    @property
    def up(self) -> bool:
        return self.healthy and self.state == "InService"


@dataclass(frozen=True)
class Step:
    """First *terminate* (ids), then launch or scale in to *capacity*: of instances neither leaving nor in Standby."""

    capacity: int
    terminate: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tally:
    """The group as it is to the refresh."""

    old: int  # still to be replaced, *ignored* ones included
    ignored: int
    free: tuple[str, ...]  # ids of old ones that may go, in that order
    idle: int  # of these, those that don't serve
    ready: int  # in service, healthy, warmed up
    updated: int  # of these, new ones whose old one is gone
    standby: tuple[str, ...]  # ids that are not ignored
    warming: bool
    reason: str  # what has to be waited for


def count(
    preferences: Preferences,
    seen: Sequence[Seen],
    outdated: Collection[str],
    before: Collection[str],
    desired: int,
    now: float,
) -> Tally:
    """The group of *desired* instances. *outdated* are the ids of those to be replaced, *before* of those before it."""
    live = [one for one in seen if not one.leaving and not one.standby]
    old = [one for one in live if one.id in outdated]
    new = [one for one in live if one.id not in outdated]
    # Warm-up begins once the launch hooks are done; what was there before needs none.
    late = now - preferences.warmup
    cold = [one for one in new if one.up and one.id not in before and (one.since is None or one.since > late)]
    warm = sum(one.up for one in new) - len(cold)
    ignored = preferences.protected == "Ignore"
    kept = [one for one in old if one.protected and preferences.protected != "Refresh"]
    free = [one for one in old if not (one.protected and preferences.protected != "Refresh")]
    # What serves nobody first (no page speaks of it), then earlier ones: the checkpoints' page.
    free.sort(key=lambda one: (one.up, one.matches, one.since or 0))
    standby = [one for one in seen if one.standby and one.id in outdated and preferences.standby != "Ignore"]
    return Tally(
        old=len(old),
        ignored=len(kept) if ignored else 0,
        free=tuple(one.id for one in free),
        idle=sum(not one.up for one in free),
        ready=sum(one.up for one in old) + warm,
        updated=max(0, min(warm, desired - len(old))),
        standby=tuple(one.id for one in standby),
        warming=bool(cold),
        reason=_reason(cold, [one for one in new if not one.up], standby + ([] if ignored else kept)),
    )


def pace(preferences: Preferences, tally: Tally, desired: int, goal: int) -> Step:
    """Up to *goal* new ones, at least one at a time, as many at once as the bounds leave room for.

    Where they leave none, a maximum that was given has one launched first, none has one go first. That is from
    API_RefreshPreferences; the overview has a minimum of 100 launch first in any case. The minimum is rounded up;
    that the maximum is rounded down is a guess.
    """
    least = math.ceil(desired * preferences.min_healthy / 100)
    most = desired * (preferences.max_healthy or 100) // 100
    if least >= most and preferences.max_healthy is not None:
        most = desired + 1
    elif least >= most:
        least = desired - 1
    gone = min(max(0, tally.ready - least) + tally.idle, max(0, tally.old - (desired - goal)), len(tally.free))
    standby = tally.standby if preferences.standby == "Terminate" else ()
    return Step(max(desired, min(most, goal + tally.old - gone)), (*standby, *tally.free[:gone]))


def _reason(cold: Sequence[Seen], missing: Sequence[Seen], blocked: Sequence[Seen]) -> str:
    """The first shape is in AWS's examples, the second in logs of its users; the others are made after it.

    https://docs.aws.amazon.com/autoscaling/ec2/userguide/check-status-instance-refresh.html
    """
    if cold:
        return f"Waiting for instances to warm up before continuing. For example: {cold[0].id} is warming up."
    if missing:
        why = "has insufficient data to evaluate its health with Amazon EC2"
    elif blocked:
        why = "is in Standby" if blocked[0].standby else "is protected from scale in"
    else:
        return ""
    one = (missing or blocked)[0]
    return f"Waiting for remaining instances to be available. For example: {one.id} {why}."
