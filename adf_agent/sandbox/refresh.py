"""An instance refresh, as Auto Scaling runs it: what it does next, by what it sees of its group. No clock, no AWS.

Where nothing else is named, the rule is from
https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-overview.html
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adf_agent.sandbox.replacement import Preferences, Seen, Step, Tally, count, pace

HOUR = 3600  # how long it goes on trying without getting anywhere …
LONGEST = 14 * 24 * HOUR  # … and how long at all: the overview's limitations


@dataclass(frozen=True)
class Rollback:
    """https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_RollbackDetails.html."""

    reason: str
    started: float
    percentage: int
    to_update: int


@dataclass
class Refresh:
    """From StartInstanceRefresh on. *saved* is the configuration on the group then, *desired* the one asked for.

    The moments that its methods are handed are seconds of one clock.
    """

    id: str
    group: str
    preferences: Preferences
    saved: Mapping[str, Any]
    desired: Mapping[str, Any] | None
    started: float
    status: str = "Pending"
    reason: str = ""
    ended: float | None = None
    percentage: int = 0
    to_update: int = 0
    rollback: Rollback | None = None
    _before: frozenset[str] | None = None  # the ids there were at the first step
    _deployed: frozenset[str] | None = None  # those to be replaced by a rollback
    _size: int = 0
    _passed: int = 0  # checkpoints
    _held: float | None = None  # since when it waits at a checkpoint, or bakes
    _best: int | None = None
    _moved: float = 0  # when it last got anywhere

    @property
    def active(self) -> bool:
        return self.ended is None

    @property
    def forward(self) -> bool:
        return self.status in {"Pending", "InProgress", "Baking"}

    @property
    def deploys(self) -> Mapping[str, Any]:
        """The configuration that `Seen.matches` is about."""
        return self.desired or self.saved

    @property
    def launches(self) -> Mapping[str, Any]:
        """The configuration of whatever the group launches now, for a scale-out as well."""
        return self.deploys if self.forward else self.saved

    def step(self, seen: Sequence[Seen], desired: int, alarms: Mapping[str, str], now: float) -> Step:
        """To be called often. *desired* is the group's capacity, *alarms* are the states of all there are, by name."""
        if self._before is None:
            self._before, self._moved = frozenset(one.id for one in seen), now
        if self.status == "Pending":
            self.status = "InProgress"
        states = {name: alarms.get(name) for name in sorted(self.preferences.alarms) if self.forward}
        if firing := [name for name, state in states.items() if state == "ALARM"]:
            self.fail(now, f"The alarm {firing[0]} went into the ALARM state.")
        blind = [name for name, state in states.items() if state == "INSUFFICIENT_DATA"]
        if blind and self.status == "InProgress":
            return self._pause(seen, desired, now, blind[0])
        if self.status == "Baking" and self._waited(self.preferences.bake, now):
            self._end("Successful", now)
        if self.status == "Cancelling" and not any(one.leaving or one.state.startswith("Pending") for one in seen):
            self._end("Cancelled", now, self.reason)
        if self.status in {"InProgress", "RollbackInProgress"}:
            return self._replace(seen, desired, now)
        return Step(desired)

    def _pause(self, seen: Sequence[Seen], desired: int, now: float, alarm: str) -> Step:
        """Nothing is replaced as long as an alarm has no data.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-rollback.html
        """
        self.reason, self._moved = f"Waiting for the alarm {alarm}, which has insufficient data.", now
        return Step(max(desired, sum(not (one.leaving or one.standby) for one in seen)))

    def cancel(self, now: float, *, wait: bool = True) -> None:
        """No more replacements; what is new stays. *wait* for those under way.

        https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_CancelInstanceRefresh.html
        """
        self.status, self.reason = "Cancelling", "Cancelled by the user."
        if not wait:
            self._end("Cancelled", now, self.reason)

    def roll_back(self, now: float, reason: str) -> None:
        """Replaces what was deployed so far by *saved*, without checkpoints and baking (no page speaks of them here).

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-rollback.html
        """
        self.rollback = Rollback(reason, now, self.percentage, self.to_update)
        self.status, self.reason, self._best = "RollbackInProgress", reason, None

    def fail(self, now: float, reason: str) -> None:
        """Ends it, or rolls it back; a rollback can only end."""
        if self.forward and self.preferences.auto_rollback:
            self.roll_back(now, reason)
        else:
            self._end("RollbackFailed" if self.rollback else "Failed", now, reason)

    def _end(self, status: str, now: float, reason: str = "") -> None:
        self.status, self.reason, self.ended = status, reason, now

    def _waited(self, seconds: float, now: float) -> bool:
        if self._held is None:
            self._held = now
        return now - self._held >= seconds

    def _replace(self, seen: Sequence[Seen], desired: int, now: float) -> Step:
        if self.rollback and self._deployed is None:
            self._deployed = frozenset(one.id for one in seen) - (self._before or frozenset())
        old = frozenset(one.id for one in seen if self._outdated(one))
        tally = count(self.preferences, seen, old, self._before or frozenset(), desired, now)
        self.reason = tally.reason
        percentages = (not self.rollback and self.preferences.checkpoints) or (100,)
        most = max(0, desired - tally.ignored)
        # The least number that makes the percentage. AWS's example: 20 % of four instances is one of them.
        # https://docs.aws.amazon.com/autoscaling/ec2/userguide/asg-adding-checkpoints-instance-refresh.html
        goals = [min(most, math.ceil(desired * percentage / 100)) for percentage in percentages]
        self._count(tally, desired, goals[-1])
        if self._arrived(tally.updated, desired, goals, now) and not tally.standby:
            self._finish(now)
        self._look_for_progress(tally, now)
        if self.status not in {"InProgress", "RollbackInProgress"}:
            return Step(desired)
        return pace(self.preferences, tally, desired, goals[min(self._passed, len(goals) - 1)])

    def _outdated(self, one: Seen) -> bool:
        """Without skip matching whatever was there before is replaced, the same configuration or not.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/asg-instance-refresh-skip-matching.html
        """
        if self._deployed is not None:
            return one.id in self._deployed
        return not one.matches or (one.id in (self._before or ()) and not self.preferences.skip_matching)

    def _count(self, tally: Tally, desired: int, last: int) -> None:
        """https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_InstanceRefresh.html."""
        if self.rollback:  # it goes back to zero, and what was not updated then needs no rollback
            self.percentage = min(self.rollback.percentage, 100 * tally.old // max(1, desired))
            return
        most = desired - tally.ignored
        self.percentage = min(100, 100 * tally.updated // most) if most > 0 else 100
        self.to_update = max(0, tally.old - (desired - last))

    def _arrived(self, updated: int, desired: int, goals: Sequence[int], now: float) -> bool:
        """Whether the last checkpoint is reached, which is not waited at; and where it stands with the others.

        Of those reached at once only the highest counts, and a scale-out may make one be reached again.
        https://docs.aws.amazon.com/autoscaling/ec2/userguide/asg-adding-checkpoints-instance-refresh.html
        """
        reached = sum(goal <= updated for goal in goals)
        if desired > self._size:
            self._passed = min(self._passed, reached)
        self._size = desired
        if not self._passed < reached < len(goals):
            self._held = None
        elif self._waited(self.preferences.delay, now):
            self._passed, self._held = reached, None
        else:
            at = self.preferences.checkpoints[reached - 1]
            self.reason = f"Waiting for the checkpoint delay of {self.preferences.delay} seconds at {at} percent."
        return reached == len(goals)

    def _finish(self, now: float) -> None:
        if self.rollback:
            self._end("RollbackSuccessful", now)
        elif self.preferences.bake:
            self.status, self._held = "Baking", now
            self.reason = f"Waiting for the bake time of {self.preferences.bake} seconds."
        else:
            self._end("Successful", now)

    def _look_for_progress(self, tally: Tally, now: float) -> None:
        """Fails what got nowhere for an hour, or takes too long. Checkpoints and warm-ups may take their time."""
        score = tally.updated - tally.old
        if self._best is None or score > self._best or self._held is not None:
            self._best, self._moved = score, now
        if self.active and now - self._moved >= HOUR and not tally.warming:
            self.fail(now, f"The instance refresh made no progress for an hour. {self.reason}".strip())
        elif self.active and now - (self.rollback or self).started >= LONGEST:
            self.fail(now, "The instance refresh took longer than 14 days.")
