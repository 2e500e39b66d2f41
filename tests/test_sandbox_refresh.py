"""Instance Refresh on groups that are played second by second: what it replaces, when it waits, how it ends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from adf_agent.sandbox.refresh import HOUR, LONGEST, Refresh
from adf_agent.sandbox.replacement import Preferences, Seen, Step

LEAVING = 3
OLD, NEW = {"LaunchTemplate": {"Version": "1"}}, {"LaunchTemplate": {"Version": "2"}}


@dataclass
class Instance:
    id: str
    new: bool
    state: str = "InService"
    healthy: bool = True
    since: float = -100_000.0
    protected: bool = False
    launched: float = 0
    left: float = 0

    @property
    def live(self) -> bool:
        return self.state != "Terminating"


@dataclass
class Played:
    """A group of *size* old instances. Each tick takes *second*; a new one is in service after *boot* of them.

    One that leaves is gone after LEAVING of them.
    """

    preferences: Preferences = field(default_factory=Preferences)
    size: int = 4
    boot: int = 2
    second: int = 1
    desired: Any = field(default_factory=lambda: NEW)
    failing: Callable[[Instance], bool] = lambda _: False  # never healthy: the group replaces those in service
    alarms: Mapping[str, str] = field(default_factory=dict)  # states by name

    def __post_init__(self) -> None:
        self.now = 0.0
        self.instances = [Instance(f"i-old{number}", new=False) for number in range(self.size)]
        self.refresh = Refresh("r-1", "web", self.preferences, OLD, self.desired, self.now)
        self.serving: list[int] = []
        self.live: list[int] = []
        self.said: list[str] = []
        self.launches = 0

    @property
    def new(self) -> int:
        """How many live ones are new."""
        return sum(one.new and one.live for one in self.instances)

    def tick(self) -> Step:
        for one in self.instances:
            if one.state == "Pending" and self.now - one.launched >= self.boot * self.second:
                one.state, one.since, one.healthy = "InService", self.now, not self.failing(one)
            elif one.state == "InService" and not one.healthy:
                one.state, one.left = "Terminating", self.now
        self.instances = [one for one in self.instances if one.live or self.now - one.left < LEAVING * self.second]
        seen = [
            Seen(
                one.id, one.new, one.state, one.healthy, one.since if one.state == "InService" else None, one.protected
            )
            for one in self.instances
        ]
        step = self.refresh.step(seen, self.size, self.alarms, self.now)
        self._obey(step)
        counted = [one for one in self.instances if one.live and one.state != "Standby"]
        self.serving.append(sum(one.state == "InService" for one in counted))
        self.live.append(len(counted))
        self.said.append(self.refresh.reason)
        self.now += self.second
        return step

    def _obey(self, step: Step) -> None:
        for one in self.instances:
            if one.id in step.terminate:
                one.state, one.left = "Terminating", self.now
        counted = [one for one in self.instances if one.live and one.state != "Standby"]
        for one in counted[step.capacity :]:
            one.state, one.left = "Terminating", self.now
        for _ in range(step.capacity - len(counted)):
            self.launches += 1
            new = self.refresh.launches is self.refresh.deploys
            self.instances.append(Instance(f"i-{self.launches}", new, "Pending", launched=self.now))

    def run(self, until: Callable[[], bool] | None = None, ticks: int = 20_000) -> float:
        """Ticks until it ended, or *until*; the time then."""
        for _ in range(ticks):
            if until() if until else not self.refresh.active:
                return self.now
            self.tick()
        raise AssertionError(self.refresh)

    def ended(self) -> str:
        self.run()
        return self.refresh.status


@pytest.mark.parametrize(
    ("size", "least", "most", "lowest", "highest"),
    [
        (1, 90, None, 0, 1),  # the only one goes first
        (1, 90, 100, 1, 2),  # a maximum that was given and can't be kept: launched first
        (1, 100, 100, 1, 2),
        (10, 90, None, 9, 10),
        (10, 100, None, 9, 10),  # always one at a time, even so
        (10, 100, 100, 10, 11),
        (10, 80, None, 8, 10),
        (10, 85, None, 9, 10),  # 8.5 is rounded up
        (10, 100, 110, 10, 11),
        (10, 100, 115, 10, 11),
        (10, 90, 110, 9, 11),
        (6, 90, 110, 6, 7),  # 5.4 and 6.6 leave no room: 10 % of six is one more
        (10, 100, 200, 10, 20),
        (10, 0, None, 0, 10),
        (4, 50, 150, 2, 6),
    ],
)
def test_capacity_stays_within_the_bounds(size: int, least: int, most: int | None, lowest: int, highest: int) -> None:
    """A roll that took the only server down was never seen in the sandbox, as it always kept one too many."""
    group = Played(Preferences(min_healthy=least, max_healthy=most), size)
    assert group.ended() == "Successful"
    assert (min(group.serving), max(group.live)) == (lowest, highest)
    assert (group.new, group.live[-1], group.launches) == (size, size, size)
    assert (group.refresh.percentage, group.refresh.to_update) == (100, 0)


def test_the_example_of_the_page_on_checkpoints() -> None:
    """A canary that is judged by a clock that AWS does not have."""
    group = Played(
        Preferences(min_healthy=80, checkpoints=(20, 50), delay=15 * 60, warmup=10 * 60), 10, boot=0, second=60
    )
    seen = {}
    while group.refresh.active:
        minute, _ = int(group.now // 60), group.tick()
        seen[minute] = (group.new, group.refresh.percentage)
    # A tick later than there: an instance comes into service the minute after it was launched.
    assert {minute: seen[minute] for minute in (0, 10, 11, 25, 26, 36, 37, 47)} == {
        0: (2, 0),
        10: (2, 0),
        11: (2, 20),
        25: (2, 20),
        26: (4, 20),
        36: (4, 20),
        37: (5, 40),
        47: (5, 40),
    }
    assert (group.refresh.status, group.new, group.refresh.percentage) == ("Successful", 5, 50)
    assert group.refresh.ended == 48 * 60  # with no delay at the last


def test_what_is_left_to_do_ends_with_the_last_checkpoint() -> None:
    """A progress bar that stands still at half."""
    group = Played(Preferences(checkpoints=(20, 50), delay=0), 10)
    left = []
    while group.refresh.active:
        group.tick()
        left.append(group.refresh.to_update)
    assert [*dict.fromkeys(left)] == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("size", "checkpoints", "waits"),
    [
        (2, (10, 40, 100), {"at 40 percent": 1}),
        (4, (20, 100), {"at 20 percent": 1}),
        (1, (50, 100), {}),
        (10, (20, 50, 100), {"at 20 percent": 2, "at 50 percent": 5}),
        (6, (16, 100), {"at 16 percent": 1}),
        (6, (17, 100), {"at 17 percent": 2}),
        (3, (100,), {}),
    ],
)
def test_a_checkpoint_is_the_least_percentage(size: int, checkpoints: tuple[int, ...], waits: dict[str, int]) -> None:
    """Two canaries where one was asked for, or none: a checkpoint that was passed in one go."""
    group = Played(Preferences(checkpoints=checkpoints, delay=50, min_healthy=0), size)
    waited: dict[str, set[int]] = {}
    ticks: dict[str, int] = {}
    while group.refresh.active:
        group.tick()
        if "checkpoint" in group.refresh.reason:
            name = "at " + group.refresh.reason.partition(" at ")[2].rstrip(".")
            waited.setdefault(name, set()).add(group.new)
            ticks[name] = ticks.get(name, 0) + 1
    assert waited == {name: {new} for name, new in waits.items()}
    assert set(ticks.values()) <= {50}
    assert (group.refresh.status, group.new) == ("Successful", size)


def test_a_scale_out_reaches_a_checkpoint_again() -> None:
    """A canary's share that a scale-out made smaller, and nobody waits to judge it."""
    group = Played(Preferences(checkpoints=(50, 100), delay=100))
    group.run(lambda: "checkpoint" in group.refresh.reason)
    group.run(lambda: "checkpoint" not in group.refresh.reason)
    group.size = 8  # three of them new, and another four soon
    group.run(lambda: "checkpoint" in group.refresh.reason)
    began = group.now
    assert (group.new, group.live[-1]) == (7, 8)
    group.run(lambda: "checkpoint" not in group.refresh.reason)
    assert group.now - began == 100
    assert (group.ended(), group.new) == ("Successful", 8)


def test_a_long_checkpoint_is_no_standstill() -> None:
    """A night between the canary and the rest, and the refresh has failed by the morning."""
    group = Played(Preferences(checkpoints=(50, 100), delay=8 * HOUR), second=60)
    assert group.ended() == "Successful"
    assert group.now > 8 * HOUR


def test_a_group_that_shrinks_is_refreshed_as_it_is() -> None:
    """A scale-in in the middle of a roll leaves it waiting for instances that will never be."""
    group = Played(size=6)
    group.run(lambda: group.new == 2)
    group.size = 3
    assert group.ended() == "Successful"
    assert (group.new, group.live[-1], group.refresh.percentage) == (3, 3, 100)


def test_an_empty_group_is_done_at_once() -> None:
    """A group at zero that blocks its roll for an hour."""
    group = Played(size=0)
    assert (group.ended(), group.now, group.refresh.percentage) == ("Successful", 1, 100)


def test_a_group_that_has_just_grown_from_nothing() -> None:
    """What the refresh itself launched is replaced again and again."""
    group = Played(size=0)
    group.size = 2
    assert (group.ended(), group.launches) == ("Successful", 2)


@pytest.mark.parametrize(("matching", "replaced"), [(4, 0), (3, 1), (0, 4)])
def test_skip_matching_replaces_what_differs(matching: int, replaced: int) -> None:
    """A second try of a roll replaces what the first had done."""
    group = Played(Preferences(skip_matching=True, warmup=1000))
    for one in group.instances[:matching]:
        one.new, one.since = True, 0
    ended = group.run()
    assert (group.refresh.status, group.launches, group.new) == ("Successful", replaced, 4)
    assert (ended == 1) == (matching == 4)


def test_without_skip_matching_everything_is_replaced_old_ones_first() -> None:
    """`--replace` of instances that match already does nothing."""
    group = Played(desired=None)
    for one in group.instances[:2]:
        one.new = True
    group.instances[2].since, group.instances[3].since = -50.0, -60.0
    assert group.tick().terminate == ("i-old3",)
    assert (group.ended(), group.launches) == ("Successful", 4)


def test_what_serves_nobody_goes_first_and_costs_no_capacity() -> None:
    """An instance that hangs in its boot is kept, and a good one is taken."""
    group = Played(size=10, boot=10**6)
    group.instances[9].state = "Pending"
    assert group.tick().terminate == ("i-old9",)


def test_warm_up_begins_in_service() -> None:
    """Batches that overlap, as the warm-up was counted from the launch."""
    group = Played(Preferences(warmup=30, min_healthy=0), 1, boot=20)
    said = "Waiting for instances to warm up before continuing. For example: i-1 is warming up."
    assert group.run() == 51
    assert group.said[1] == (
        "Waiting for remaining instances to be available. "
        "For example: i-1 has insufficient data to evaluate its health with Amazon EC2."
    )
    assert group.said.count(said) == 30


@pytest.mark.parametrize(
    ("standby", "status", "replaced", "seconds"),
    [("Wait", "Failed", 3, HOUR), ("Ignore", "Successful", 3, 0), ("Terminate", "Successful", 3, 0)],
)
def test_an_instance_in_standby(standby: str, status: str, replaced: int, seconds: float) -> None:
    """A roll that hangs for an hour on an instance that somebody took out to look at."""
    group = Played(Preferences(standby=standby), 3)
    group.instances.append(Instance("i-aside", new=False, state="Standby"))
    ended = group.run()
    assert (group.refresh.status, group.launches) == (status, replaced)
    assert seconds <= ended <= seconds + 20
    assert any(one.state == "Standby" for one in group.instances) == (standby != "Terminate")
    if standby == "Wait":
        assert group.refresh.reason == (
            "The instance refresh made no progress for an hour. "
            "Waiting for remaining instances to be available. For example: i-aside is in Standby."
        )


@pytest.mark.parametrize(
    ("protected", "status", "replaced", "seconds"),
    [("Wait", "Failed", 3, HOUR), ("Ignore", "Successful", 3, 0), ("Refresh", "Successful", 4, 0)],
)
def test_an_instance_that_is_protected_from_scale_in(
    protected: str, status: str, replaced: int, seconds: float
) -> None:
    """A worker that protects itself while it works is killed, or blocks the roll without a word."""
    group = Played(Preferences(protected=protected))
    group.instances[0].protected = True
    ended = group.run()
    assert (group.refresh.status, group.launches) == (status, replaced)
    assert seconds <= ended <= seconds + 20
    assert any(one.id == "i-old0" and one.live for one in group.instances) == (protected != "Refresh")
    if protected == "Wait":
        assert group.refresh.reason.endswith("For example: i-old0 is protected from scale in.")
    else:
        assert group.refresh.percentage == 100
        assert not any("protected" in said for said in group.said)


def test_an_instance_that_comes_back_in_time_is_replaced() -> None:
    """The hour is there for people to end what they are at."""
    group = Played()
    group.instances[0].protected = True
    group.run(lambda: group.now > HOUR - 100)
    group.instances[0].protected = False
    assert (group.ended(), group.launches) == ("Successful", 4)


def test_baking_comes_after_the_last_and_then_it_is_done() -> None:
    """A watcher that takes Baking for the end, or for a failure."""
    group = Played(Preferences(bake=60))
    group.run(lambda: group.refresh.status == "Baking")
    began = group.now
    assert (group.refresh.percentage, group.refresh.forward, group.refresh.active) == (100, True, True)
    assert group.refresh.reason == "Waiting for the bake time of 60 seconds."
    assert (group.ended(), group.now - began) == ("Successful", 60)


@pytest.mark.parametrize("status", ["Pending", "InProgress", "Baking"])
@pytest.mark.parametrize("back", [True, False])
def test_an_alarm_fails_it_or_rolls_it_back(status: str, *, back: bool) -> None:
    """Unattended, alarms alone guard the roll: one that is not heard is none."""
    group = Played(Preferences(alarms=("errors", "latency"), auto_rollback=back, bake=60))
    if status != "Pending":
        group.run(lambda: group.refresh.status == status and group.new > 0)
    group.alarms = {"another": "ALARM", "errors": "OK"}
    if status == "InProgress":
        group.tick()
        assert group.refresh.status == status
    group.alarms = {"another": "ALARM", "latency": "ALARM"}
    group.tick()
    sentence = "The alarm latency went into the ALARM state."
    if back:
        assert group.refresh.rollback
        assert group.refresh.rollback.reason == sentence
        assert group.ended() == "RollbackSuccessful"  # the alarm goes on, and the rollback all the same
        assert group.new == 0
    else:
        assert (group.refresh.status, group.refresh.reason, group.refresh.active) == ("Failed", sentence, False)
        new = group.new
        group.run(lambda: group.now > 100)
        assert group.new == new  # what is new stays


@pytest.mark.parametrize("replaced", [0, 2])
def test_an_alarm_without_data_is_waited_for(replaced: int) -> None:
    """A roll that stands still for hours on AWS, for a metric that nobody counts at night, and never does here."""
    group = Played(Preferences(alarms=("errors",), min_healthy=100, max_healthy=110), boot=1)
    group.run(lambda: group.new == replaced)
    group.alarms = {"errors": "INSUFFICIENT_DATA"}
    before = group.launches, group.new
    began = group.now
    group.run(lambda: group.now > began + 2 * HOUR)
    assert (group.launches, group.new, group.refresh.status) == (*before, "InProgress")
    assert group.refresh.reason == "Waiting for the alarm errors, which has insufficient data."
    assert len([one for one in group.instances if not one.new and one.live]) >= group.size - replaced
    group.alarms = {"errors": "OK"}
    assert (group.ended(), group.new) == ("Successful", group.size)


def test_a_rollback_replaces_what_was_deployed_and_counts_down() -> None:
    """A rollback that takes the whole fleet through another roll."""
    group = Played(Preferences(checkpoints=(50, 100), delay=1000, bake=1000))
    group.run(lambda: "checkpoint" in group.refresh.reason)
    group.refresh.roll_back(group.now, "by hand")
    began, percentages = group.now, [group.refresh.percentage]
    while group.refresh.active:
        group.tick()
        percentages.append(group.refresh.percentage)
    assert (group.refresh.status, group.new, group.launches) == ("RollbackSuccessful", 0, 4)
    assert sorted({*percentages}, reverse=True) == [50, 25, 0]
    assert percentages == sorted(percentages, reverse=True)
    assert group.now - began < 50  # no checkpoint, no baking
    back = group.refresh.rollback
    assert back
    assert (back.reason, back.percentage, back.to_update, group.refresh.to_update) == ("by hand", 50, 2, 2)
    assert min(group.serving) == 3  # the same preferences
    assert {one.id for one in group.instances if one.live} == {"i-old2", "i-old3", "i-3", "i-4"}


def test_a_rollback_to_the_same_configuration_ends() -> None:
    """Old and new can't be told apart by what they were launched from: a rollback that replaces its own for ever."""
    group = Played(desired=OLD)

    def tick() -> None:
        for one in group.instances:
            one.new = True
        group.tick()

    while group.launches < 2:
        tick()
    group.refresh.roll_back(group.now, "by hand")
    while group.refresh.active:
        tick()
    assert (group.refresh.status, group.launches) == ("RollbackSuccessful", 4)


@pytest.mark.parametrize("before", [0, 1])
def test_a_canary_that_hangs_does_not_hang_the_rollback(before: int) -> None:
    """A rollback that waits an hour for a boot that will never end."""
    group = Played(Preferences(min_healthy=100, max_healthy=110), boot=10**6)
    group.run(lambda: group.launches == before)
    group.refresh.roll_back(group.now, "by hand")
    while group.refresh.active:
        group.tick()
        assert (group.refresh.percentage, group.now < 5) == (0, True)
    assert (group.refresh.status, group.new, group.launches, group.live[-1]) == ("RollbackSuccessful", 0, before, 4)


def test_a_rollback_may_take_its_hours() -> None:
    """Each instance in half an hour, and the rollback of a whole fleet fails at its end."""
    group = Played(Preferences(bake=60), boot=30, second=60)
    group.run(lambda: group.refresh.status == "Baking")
    began = group.now
    group.refresh.roll_back(group.now, "by hand")
    assert (group.ended(), group.new) == ("RollbackSuccessful", 0)
    assert group.now - began > HOUR


def test_what_never_is_healthy_fails_it_after_an_hour() -> None:
    """A release that does not start rolls for ever, one instance at a time."""
    group = Played(failing=lambda one: one.new)
    assert group.ended() == "Failed"
    assert HOUR <= group.now <= HOUR + 60
    assert group.refresh.reason.startswith("The instance refresh made no progress for an hour.")
    assert sum(not one.new and one.live for one in group.instances) == 3  # the rest of the group is untouched
    assert group.launches > 100  # they are replaced meanwhile


def test_up_and_down_is_no_progress() -> None:
    """A refresh that never ends, as one of its instances comes and goes."""
    group = Played(size=2)
    group.instances[0].protected = True
    while group.refresh.active and group.now < 2 * HOUR:
        for one in group.instances:
            one.healthy = not one.new or group.now % 10 != 0
        group.tick()
    assert (group.refresh.status, group.launches > 100) == ("Failed", True)


def test_nothing_more_is_done_in_the_moment_of_failure() -> None:
    """An instance that is launched for a refresh that is none any more."""
    group = Played(Preferences(min_healthy=100, max_healthy=200), failing=lambda one: one.new)
    steps = []
    while group.refresh.active:
        steps.append(group.tick())
    assert steps[-2:] == [Step(8), Step(4)]


def test_auto_rollback_after_an_hour_without_progress() -> None:
    """The same with nobody there."""
    group = Played(Preferences(auto_rollback=True), failing=lambda one: one.new)
    assert (group.ended(), group.new) == ("RollbackSuccessful", 0)
    assert HOUR <= group.now <= HOUR + 60


def test_a_rollback_to_what_does_not_start_either_fails() -> None:
    """The last status of the ten: neither release works, and the watcher waits for a word that never comes."""
    group = Played(Preferences(auto_rollback=True), failing=lambda one: one.id.removeprefix("i-").isdecimal())
    group.run(lambda: group.refresh.status == "RollbackInProgress")
    began = group.now
    assert group.ended() == "RollbackFailed"
    assert HOUR <= group.now - began <= HOUR + 60


@pytest.mark.parametrize(("back", "status"), [(True, "RollbackFailed"), (False, "Failed")])
def test_a_failure_can_be_forced(back: bool, status: str) -> None:
    """Ends that take an hour to come are never tested."""
    group = Played()
    group.run(lambda: group.new == 1)
    if back:
        group.refresh.roll_back(group.now, "by hand")
        group.tick()
    group.refresh.fail(group.now, "because")
    assert (group.refresh.status, group.refresh.reason, group.refresh.ended) == (status, "because", group.now)
    assert group.tick() == Step(4)


def test_a_warm_up_of_more_than_an_hour_is_no_standstill() -> None:
    """A slow app's roll that fails although each of its instances is fine."""
    group = Played(Preferences(warmup=3 * HOUR), 2, second=60)
    assert group.ended() == "Successful"
    assert group.now > 6 * HOUR


@pytest.mark.parametrize(("back", "status"), [(False, "Failed"), (True, "RollbackSuccessful")])
def test_fourteen_days_are_the_most(back: bool, status: str) -> None:
    """A refresh of which nobody remembers that it still runs. A rollback's days are its own."""
    group = Played()
    group.run(lambda: group.new == 1)
    group.refresh.started = group.now - LONGEST
    if back:
        group.refresh.roll_back(group.now, "by hand")
    assert group.ended() == status
    assert back or (group.launches, group.refresh.reason) == (1, "The instance refresh took longer than 14 days.")


@pytest.mark.parametrize("boot", [1, 6])
def test_a_cancel_waits_for_what_is_under_way_and_leaves_what_is_new(boot: int) -> None:
    """A cancel that is taken for a rollback."""
    group = Played(Preferences(min_healthy=50, max_healthy=100), boot=boot)
    group.run(lambda: group.new == 2)
    group.refresh.cancel(group.now)
    seen = []
    while group.refresh.active:
        assert group.tick() == Step(4)
        seen.append(group.refresh.status)
    assert seen == ["Cancelling"] * (max(boot, LEAVING) - 1) + ["Cancelled"]
    assert (group.new, group.serving[-1], group.refresh.forward) == (2, 4, False)


def test_a_cancel_need_not_wait_and_ends_a_rollback_as_well() -> None:
    """A person who wants everything to stop right now."""
    group = Played(boot=5)
    group.run(lambda: group.new == 1)
    group.refresh.roll_back(group.now, "by hand")
    group.tick()
    group.refresh.cancel(group.now, wait=False)
    assert (group.refresh.status, group.refresh.active, group.refresh.ended) == ("Cancelled", False, group.now)
