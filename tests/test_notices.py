"""What is seen of the metadata service's notices, when it is asked, and what its faults change: nothing."""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import structlog

from adf_agent.deadline import Deadline
from adf_agent.instance import Metadata
from adf_agent.notices import Notices, Watch
from adf_agent.sandbox.imds import SILENCE, Fault, Imds

TARGET = "/latest/meta-data/autoscaling/target-lifecycle-state"
LIFE_CYCLE = "/latest/meta-data/instance-life-cycle"
SPOT = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
TOKEN = "/latest/api/token"
ENDS = {"action": "terminate", "time": "2026-01-01T00:02:00Z"}
PATIENCE = 20.0  # seconds that a test waits for what takes milliseconds


class Time(threading.Event):
    """The stop event of a watch, and its clock: time passes only while the watch waits, and then all at once.

    At each time of *plan* (seconds) what stands there is done; the watch is stopped at *end*.
    """

    def __init__(self, end: float, plan: Mapping[float, Callable[[], object]]) -> None:
        super().__init__()
        self.now, self._end, self._plan = 0.0, end, sorted(plan.items(), key=lambda entry: entry[0])

    def clock(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        while self._plan and self._plan[0][0] <= self.now:
            self._plan.pop(0)[1]()
        if self.now >= self._end:
            self.set()
        return self.is_set()


class Story:
    """A watch over *imds* for *seconds* that take none, while things happen by *plan*."""

    def __init__(self, imds: Imds, seconds: float, plan: Mapping[float, Callable[[], object]] | None = None) -> None:
        self.changes: list[tuple[float, Notices]] = []
        over, started = threading.Event(), threading.Event()
        self.time = Time(seconds, {**(plan or {}), seconds: over.set})
        metadata = Metadata(imds.endpoint, Deadline(0, threading.Event()))

        def changed() -> None:
            started.wait(PATIENCE)
            self.changes.append((self.time.now, self.watch.seen))

        with structlog.testing.capture_logs() as logs:
            self.watch = Watch(metadata, changed, self.time, self.time.clock)
            started.set()
            assert over.wait(PATIENCE)
        self.events = [log["event"] for log in logs]

    @property
    def seen(self) -> Notices:
        return self.watch.seen


def becomes(imds: Imds, **facts: Any) -> Callable[[], object]:
    return lambda: vars(imds.instance).update(facts)


def fails(imds: Imds, *faults: Fault) -> Callable[[], object]:
    """From then on *faults*; without one all is well."""

    def set_faults() -> None:
        imds.faults = list(faults)

    return set_faults


@pytest.fixture
def grouped(imds: Imds) -> Imds:
    """An instance in service in a group."""
    imds.instance.target_lifecycle_state = "InService"
    return imds


@pytest.fixture
def spot(grouped: Imds) -> Imds:
    grouped.instance.life_cycle = "spot"
    return grouped


@pytest.fixture
def watch_stops() -> Iterator[threading.Event]:
    """A stop event for a watch by the real clock, set after the test."""
    stop = threading.Event()
    yield stop
    stop.set()


def test_the_first_look_is_at_once(spot: Imds, watch_stops: threading.Event) -> None:
    """A start that goes on with a boot, though the group has the instance on its way out."""
    spot.instance.target_lifecycle_state = "Terminated"
    news = threading.Semaphore(0)
    watch = Watch(Metadata(spot.endpoint, Deadline(0, watch_stops)), news.release, watch_stops)
    assert watch.asked.wait(PATIENCE)
    assert watch.seen == Notices("Terminated")
    assert news.acquire(timeout=PATIENCE)


class Broken(Metadata):
    """One that ends its first question in a way that nobody expected."""

    asked = 0

    def lifecycle_target(self) -> str | None:
        self.asked += 1
        if self.asked == 1:
            raise ZeroDivisionError
        return super().lifecycle_target()


def test_a_fault_that_nobody_expected_ends_no_watch(spot: Imds, watch_stops: threading.Event) -> None:
    """An instance that serves on for months, and hears of no scale-in and no spot notice."""
    spot.instance.target_lifecycle_state = "Terminated"
    news = threading.Semaphore(0)
    with structlog.testing.capture_logs() as logs:
        watch = Watch(Broken(spot.endpoint, Deadline(0, watch_stops)), news.release, watch_stops)
        assert news.acquire(timeout=PATIENCE)
    assert watch.seen == Notices("Terminated")
    assert [log["event"] for log in logs] == ["unexpected", "notice"]


@pytest.mark.parametrize(
    ("facts", "expected", "seconds"),
    [
        ({"target_lifecycle_state": "Terminated"}, Notices("Terminated"), 2),
        ({"target_lifecycle_state": "Warmed:Stopped"}, Notices("Warmed:Stopped"), 2),
        ({"spot_action": ENDS}, Notices("InService", ENDS["time"]), 5),
        ({"rebalance": {"noticeTime": "2026-01-01T00:00:00Z"}}, Notices("InService", "", rebalance=True), 30),
    ],
    ids=["target", "pool", "spot", "rebalance"],
)
def test_each_notice_is_told_in_its_time(spot: Imds, facts: dict[str, Any], expected: Notices, seconds: float) -> None:
    """Two minutes' notice of which half is over before it is read."""
    story = Story(spot, 100, {31.0: becomes(spot, **facts)})
    assert [notices for _, notices in story.changes] == [Notices("InService"), expected]
    assert story.changes[0][0] == 0
    assert story.changes[1][0] <= 31 + seconds


def test_what_has_not_changed_is_not_told(spot: Imds) -> None:
    """A loop, and its log, that are woken every two seconds for nothing."""
    story = Story(spot, 100)
    assert len(story.changes) == 1
    assert story.events.count("notice") == 1


def test_it_is_asked_as_often_as_is_said(spot: Imds) -> None:
    """A metadata service that drops packets of whoever asks too often, and the app's credentials with them."""
    Story(spot, 119)
    asked = {path: spot.requests[path] for path in (TARGET, SPOT, REBALANCE, LIFE_CYCLE, TOKEN)}
    assert asked == {TARGET: 60, SPOT: 24, REBALANCE: 4, LIFE_CYCLE: 1, TOKEN: 1}
    assert spot.connections == 1


def test_an_instance_that_is_not_spot_is_never_asked_for_spot(grouped: Imds) -> None:
    """Requests every five seconds, for the life of each instance, whose answer is always 404."""
    Story(grouped, 119)
    asked = (grouped.requests[LIFE_CYCLE], grouped.requests[SPOT], grouped.requests[REBALANCE])
    assert asked == (1, 0, 0)


@pytest.mark.parametrize("life_cycle", ["on-demand", "spot"])
def test_outside_a_group_the_target_is_asked_for_rarely(imds: Imds, life_cycle: str) -> None:
    """A service that drops packets of who asks too often; one that is asked once and never again."""
    imds.instance.life_cycle = life_cycle
    Story(imds, 299)
    assert 8 <= imds.requests[TARGET] <= 11


@pytest.mark.parametrize("life_cycle", ["on-demand", "spot"])
def test_an_instance_that_is_attached_later_learns_of_it(imds: Imds, life_cycle: str) -> None:
    """An instance taken into a group by hand, whose termination then cuts its requests."""
    imds.instance.life_cycle = life_cycle
    attached = becomes(imds, target_lifecycle_state="InService")
    story = Story(imds, 300, {100.0: attached, 200.0: becomes(imds, target_lifecycle_state="Terminated")})
    assert [(notices.target, at <= limit) for (at, notices), limit in zip(story.changes, (131, 203), strict=True)] == [
        ("InService", True),
        ("Terminated", True),
    ]


def test_one_that_leaves_its_group_is_asked_rarely_from_then_on(grouped: Imds) -> None:
    """A detached instance that asks every two seconds for the rest of its life, or goes by the group's last word."""
    story = Story(grouped, 100, {60.0: becomes(grouped, target_lifecycle_state=None)})
    assert [notices.target for _, notices in story.changes] == ["InService", None]
    assert 31 <= grouped.requests[TARGET] <= 34


def test_a_token_that_is_gone_is_no_outage(spot: Imds) -> None:
    """After six hours each agent of a fleet warns of a metadata service that is well."""
    story = Story(spot, 60, {31.0: spot.revoke_tokens, 32.5: becomes(spot, target_lifecycle_state="Terminated")})
    assert story.seen.target == "Terminated"
    assert "imds.silent" not in story.events
    assert spot.requests[TOKEN] == 2


@pytest.mark.parametrize(
    "fault",
    [Fault(503), Fault(429), Fault(403), Fault(500, path=TARGET), Fault(200, path=SPOT, body=b"no JSON")],
    ids=str,
)
@pytest.mark.parametrize("life_cycle", ["on-demand", "spot"])
def test_a_service_that_fails_changes_nothing_and_is_heard_again(imds: Imds, fault: Fault, life_cycle: str) -> None:
    """A drain of the whole fleet for an answer that did not come; a termination after it that nobody sees."""
    imds.instance.target_lifecycle_state, imds.instance.life_cycle = "Standby", life_cycle
    well, terminated = fails(imds), becomes(imds, target_lifecycle_state="Terminated")
    story = Story(imds, 120, {10.5: fails(imds, fault), 70.5: well, 72.5: terminated})
    assert [notices.target for _, notices in story.changes] == ["Standby", "Terminated"]
    assert story.changes[1][0] <= 75


@pytest.mark.parametrize("life_cycle", ["on-demand", "spot"])
def test_an_outage_is_said_once_and_its_end_once(imds: Imds, life_cycle: str) -> None:
    """A log that tells of an outage and of its end every 5 s, as a question that isn't asked counts as answered."""
    imds.instance.target_lifecycle_state, imds.instance.life_cycle = "InService", life_cycle
    story = Story(
        imds, 200, {10.5: fails(imds, Fault(503)), 70.5: fails(imds), 130.5: fails(imds, Fault(503, times=3))}
    )
    told = [event for event in story.events if event.startswith("imds.")]
    assert told == ["imds.silent", "imds.answers"] * 2


def test_one_path_that_fails_is_no_end_of_the_outage_when_another_answers(spot: Imds) -> None:
    """The log of a fleet with two lines every two seconds, as one path of three fails."""
    story = Story(spot, 200, {10.5: fails(spot, Fault(503, path=TARGET)), 130.5: fails(spot)})
    assert [event for event in story.events if event.startswith("imds.")] == ["imds.silent", "imds.answers"]


def test_a_service_that_is_silent_is_waited_for_no_longer_than_its_time_out(grouped: Imds) -> None:
    """A watch that hangs at one lost packet, and sees no notice any more."""
    silent = fails(grouped, Fault(SILENCE, times=1, path=TARGET))
    story = Story(grouped, 20, {3.5: silent, 5.5: becomes(grouped, target_lifecycle_state="Terminated")})
    assert [notices.target for _, notices in story.changes] == ["InService", "Terminated"]


@pytest.mark.parametrize("fault", [Fault(503), Fault(403)], ids=str)
def test_the_first_look_counts_however_it_went(imds: Imds, fault: Fault) -> None:
    """A start that waits for notices from a metadata service that has none."""
    imds.faults = [fault]
    story = Story(imds, 10)
    assert story.watch.asked.is_set()
    assert (story.seen, story.changes) == (Notices(), [])


def test_whether_it_is_spot_is_asked_until_it_is_known(spot: Imds) -> None:
    """A spot instance whose first question failed, and that takes itself for on-demand until it is cut off."""
    spot.instance.spot_action = ENDS
    story = Story(spot, 20, {0.0: fails(spot, Fault(503, path=LIFE_CYCLE)), 7.0: fails(spot)})
    assert story.seen.spot_time == ENDS["time"]


def test_a_notice_without_a_time_is_one_all_the_same(spot: Imds) -> None:
    """A notice in a form that nobody expected, taken for none: requests are cut two minutes later."""
    spot.instance.spot_action = {"action": "terminate"}
    assert Story(spot, 10).seen != Notices("InService")
