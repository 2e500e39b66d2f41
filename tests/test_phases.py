"""Which phase follows which: the whole of the agent's decisions, without a clock, an engine or AWS."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from adf_agent import phases
from adf_agent.errors import AgentError, ContainerError, DockerError, HealthError, ReportError, SettingsError
from adf_agent.leave import Why
from adf_agent.notices import Notices
from adf_agent.phases import Phase, Policy, Seen, State, next_state

P = Phase
NOW = 10_000.0
POLICY = Policy(unhealthy_after=600.0)
LEAVES_ON_REBALANCE = Policy(unhealthy_after=600.0, drain_on_rebalance=True)
APP, HOST = HealthError("exited with code 1"), ContainerError("Docker hangs")
NO_SETTINGS = SettingsError("no RELEASE_URL")
UP = (P.SERVING, P.RESTARTING, P.JOINING, P.RELOADING)
LEFT = (P.STARTING, P.BOOTING, *UP, P.STANDBY, P.WARMED, P.HELD)

# One sight for each reason to leave, the one that outranks all after it first.
REASONS: dict[Why, dict[str, Any]] = {
    "stop": {"asked": "stop"},
    "spot": {"spot_time": "2026-01-01T00:00:00Z"},
    "terminated": {"target": "Terminated"},
    "drain": {"asked": "drain"},
    "rebalance": {"rebalance": True},
    "standby": {"target": "Standby"},
    "warmed": {"target": "Warmed:Stopped"},
}
RANKS = list(REASONS)
# A state has one target, and one thing is asked for: these can't be seen together.
PAIRS = [
    (first, second)
    for place, first in enumerate(RANKS)
    for second in RANKS[place + 1 :]
    if not REASONS[first].keys() & REASONS[second].keys()
]


def seen(**facts: Any) -> Seen:
    """What is seen, the facts of notices among the others."""
    told = {name: facts.pop(name) for name in ("target", "spot_time", "rebalance") if name in facts}
    return Seen(notices=Notices(**told), **facts)


def state(phase: Phase, ago: float = 1.0, **more: Any) -> State:
    """In *phase* for *ago* seconds."""
    return State(phase, NOW - ago, **more)


def follows(former: State, policy: Policy = POLICY, **facts: Any) -> State:
    return next_state(former, seen(**facts), policy, NOW)


def after(phase: Phase, **facts: Any) -> Phase:
    return follows(state(phase), **facts).phase


# Leaving


@pytest.mark.parametrize("phase", LEFT)
@pytest.mark.parametrize("why", ["terminated", "stop", "spot", "drain", "rebalance"])
def test_each_phase_that_holds_something_is_left_for_each_of_these_reasons(phase: Phase, why: Why) -> None:
    """An instance that is taken away while it boots, restarts, waits or is held, with its hook left to time out."""
    work = "done" if phase is P.STARTING else "running"
    left = follows(state(phase), LEAVES_ON_REBALANCE, work=work, **REASONS[why])
    assert (left.phase, left.why, left.since) == (P.LEAVING, why, NOW)


@pytest.mark.parametrize("target", ["Standby", "Detached", "Warmed:Stopped", "Warmed:Running", "Warmed:Hibernated"])
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not P.STARTING])
def test_standby_and_the_pool_take_only_what_is_in_service(phase: Phase, target: str) -> None:
    """A launch into the warm pool that ends before its image is built; a standby that is entered over and over."""
    found = follows(state(phase), target=target, held=60.0)
    if phase in UP:
        assert (found.phase, found.why) == (P.LEAVING, "warmed" if target.startswith("Warmed:") else "standby")
    else:
        assert found == state(phase)


@pytest.mark.parametrize("target", ["Terminated", "Warmed:Terminated"])
@pytest.mark.parametrize("phase", [P.WARMED, P.SERVING, P.STANDBY])
def test_the_pools_own_word_for_a_termination_is_one_too(phase: Phase, target: str) -> None:
    """An instance that is terminated in the pool and whose hook waits for its hour."""
    assert follows(state(phase), target=target).why == "terminated"


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_reasons_the_one_that_leaves_less_time_or_choice_counts(first: Why, second: Why) -> None:
    """A spot instance that takes an hour for its drain, as somebody had asked for one; a hook never completed."""
    assert follows(state(P.SERVING), LEAVES_ON_REBALANCE, **REASONS[first], **REASONS[second]).why == first


def test_a_rebalance_recommendation_alone_moves_nobody_unless_that_is_wished() -> None:
    """A fleet that leaves all at once on a mere recommendation."""
    assert follows(state(P.SERVING), rebalance=True) == state(P.SERVING)


@pytest.mark.parametrize("why", RANKS)
@pytest.mark.parametrize("phase", [P.FAILING, P.FAILED, P.STOPPED])
def test_an_end_is_not_left(phase: Phase, why: Why) -> None:
    """A group that is told of the failure over and over, or never to its end."""
    former = state(phase)
    assert follows(former, LEAVES_ON_REBALANCE, **REASONS[why]) == former


@pytest.mark.parametrize("why", RANKS)
@pytest.mark.parametrize("under_way", RANKS)
def test_only_a_more_urgent_reason_begins_a_drain_anew(under_way: Why, why: Why) -> None:
    """A drain that starts again with every look; an hour's drain on a spot instance that has two minutes."""
    former = state(P.LEAVING, why=under_way)
    found = follows(former, LEAVES_ON_REBALANCE, **REASONS[why])
    if why not in ("standby", "warmed") and RANKS.index(why) < RANKS.index(under_way):
        assert (found.phase, found.why, found.since) == (P.LEAVING, why, NOW)
    else:
        assert found == former


@pytest.mark.parametrize(
    ("why", "end"),
    [
        ("stop", P.STOPPED),
        ("standby", P.STANDBY),
        ("warmed", P.WARMED),
        ("terminated", P.DRAINED),
        ("spot", P.DRAINED),
        ("rebalance", P.DRAINED),
        ("drain", P.DRAINED),
    ],
)
@pytest.mark.parametrize("work", ["done", ReportError("the group does not answer"), APP])
def test_leaving_ends_where_its_reason_says_however_it_went(why: Why, end: Phase, work: Any) -> None:
    """An agent that hangs in its drain, as the last call of it failed."""
    former = state(P.LEAVING, why=why)
    assert follows(former, work="running") == former
    assert follows(former, work=work).phase is end


def test_sigterm_in_a_drain_ends_the_agent_after_it() -> None:
    """A shutdown that systemd has to end by force, as the drain before it was another's."""
    leaving = follows(state(P.LEAVING, why="drain"), work="running", asked="stop")
    assert next_state(leaving, seen(asked="stop", work="done"), POLICY, NOW + 1).phase is P.STOPPED
    assert after(P.DRAINED, asked="stop") is P.STOPPED


@pytest.mark.parametrize("why", ["spot", "rebalance", "drain"])
def test_a_drained_instance_that_is_terminated_completes_its_hook(why: Why) -> None:
    """After a spot notice, or a drain by hand, a terminate hook that waits until it times out."""
    found = follows(state(P.DRAINED, why=why), target="Terminated")
    assert (found.phase, found.why) == (P.LEAVING, "terminated")


def test_a_drained_instance_whose_hook_is_completed_stays_drained() -> None:
    """A hook that is asked for again and again until the instance is gone."""
    former = state(P.DRAINED, why="terminated")
    assert follows(former, target="Terminated") == former


# The start


@pytest.mark.parametrize(
    ("facts", "phase", "why"),
    [
        ({"work": "running"}, P.STARTING, None),
        ({"work": "running", "asked": "drain"}, P.LEAVING, "drain"),
        ({"work": "running", "asked": "drain", "standing": "drained"}, P.LEAVING, "drain"),
        ({"work": "running", "asked": "drain", "standing": "joined"}, P.STARTING, None),
        ({"work": "running", "asked": "reload"}, P.STARTING, None),
        ({"work": "running", "target": "Terminated"}, P.STARTING, None),
        ({"work": "running", "spot_time": "2026-01-01T00:00:00Z"}, P.STARTING, None),
        ({"work": "running", "standing": "draining"}, P.STARTING, None),
        ({"work": "running", "asked": "stop"}, P.LEAVING, "stop"),
        ({"work": "done"}, P.BOOTING, None),
        ({"work": "done", "known": True}, P.JOINING, None),
        ({"work": "done", "known": True, "standing": "joined"}, P.JOINING, None),
        ({"work": "done", "known": True, "standing": "leaving"}, P.JOINING, None),
        ({"work": "done", "standing": "drained"}, P.DRAINED, None),
        ({"work": "done", "known": True, "standing": "drained"}, P.DRAINED, None),
        ({"work": "done", "known": True, "standing": "draining"}, P.LEAVING, "drain"),
        ({"work": "done", "standing": "draining", "target": "Terminated"}, P.LEAVING, "terminated"),
        ({"work": "done", "standing": "drained", "target": "Terminated"}, P.LEAVING, "terminated"),
        ({"work": "done", "standing": "draining", "asked": "stop"}, P.LEAVING, "stop"),
        ({"work": "done", "target": "Standby"}, P.BOOTING, None),
        ({"work": "done", "target": "Standby", "known": True}, P.LEAVING, "standby"),
        ({"work": "done", "target": "Warmed:Stopped", "known": True}, P.LEAVING, "warmed"),
        ({"work": "done", "target": "Warmed:Stopped"}, P.BOOTING, None),
        ({"work": NO_SETTINGS}, P.FAILING, None),
        ({"work": NO_SETTINGS, "asked": "stop"}, P.FAILING, None),
        ({"work": NO_SETTINGS, "target": "Terminated"}, P.FAILING, None),
        ({"work": NO_SETTINGS, "held": 60.0}, P.HELD, None),
    ],
    ids=str,
)
def test_a_start_goes_on_with_what_was_left(facts: dict[str, Any], phase: Phase, why: Why | None) -> None:
    """A drained instance that serves again after a crash; one that leaves without settings, and tells nobody."""
    found = follows(state(P.STARTING), **facts)
    assert (found.phase, found.why) == (phase, why)


@pytest.mark.parametrize("standing", ["joined", "draining", "drained"])
@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not P.STARTING])
def test_only_a_start_looks_at_how_the_last_run_ended(phase: Phase, standing: Any) -> None:
    """An instance in service that drains itself, as its ledger tells of its own drain."""
    assert follows(state(phase), standing=standing, known=True, held=60.0) == state(phase)


@pytest.mark.parametrize(
    ("facts", "phase"),
    [
        ({"work": "running"}, P.BOOTING),
        ({"work": "served"}, P.SERVING),
        ({"work": "done"}, P.WARMED),
        ({"work": APP}, P.FAILING),
        ({"work": DockerError("no engine")}, P.FAILING),
        ({"work": APP, "held": 0.1}, P.HELD),
        ({"work": "running", "held": 60.0}, P.BOOTING),
        ({"work": "running", "asked": "reload"}, P.BOOTING),
        ({"work": "running", "exited": True}, P.BOOTING),
        ({"work": "running", "host": "no space left"}, P.BOOTING),
    ],
    ids=str,
)
def test_a_boot_ends_in_service_warmed_failing_or_held(facts: dict[str, Any], phase: Phase) -> None:
    """A release that never was in service here and is restarted for ever, where it should be replaced."""
    assert after(P.BOOTING, **facts) is phase


def test_a_boot_that_failed_keeps_its_reason_to_the_end() -> None:
    """An exit code 0 after a failed boot, on which systemd and a deploy script rely."""
    held = follows(state(P.BOOTING), work=APP, held=10.0)
    assert follows(held, held=0.1) == held
    failing = follows(held, held=0.0)
    assert follows(failing, work="running") == failing
    failed = follows(failing, work=ReportError("the group does not answer"))
    assert [each.phase for each in (held, failing, failed)] == [P.HELD, P.FAILING, P.FAILED]
    assert {each.error for each in (held, failing, failed)} == {APP}


# In service


@pytest.mark.parametrize(
    ("phase", "facts", "expected"),
    [
        (P.SERVING, {}, P.SERVING),
        (P.SERVING, {"exited": True}, P.RESTARTING),
        (P.SERVING, {"exited": True, "asked": "reload"}, P.RESTARTING),
        (P.SERVING, {"exited": True, "asked": "stop"}, P.LEAVING),
        (P.SERVING, {"asked": "reload"}, P.RELOADING),
        (P.SERVING, {"target": "InService"}, P.SERVING),
        (P.SERVING, {"target": "InService", "grouped": False}, P.JOINING),
        (P.SERVING, {"grouped": False}, P.SERVING),
        (P.SERVING, {"host": "no space left"}, P.SERVING),
        (P.RESTARTING, {"work": "running"}, P.RESTARTING),
        (P.RESTARTING, {"work": "served"}, P.SERVING),
        (P.RESTARTING, {"work": APP}, P.RESTARTING),
        (P.RESTARTING, {"exited": True}, P.RESTARTING),
        (P.RESTARTING, {"asked": "reload"}, P.RELOADING),
        (P.JOINING, {"asked": "reload"}, P.RELOADING),
        (P.RELOADING, {"asked": "reload"}, P.RELOADING),
        (P.HELD, {"asked": "reload", "held": 60.0}, P.STARTING),
        (P.HELD, {"held": 60.0}, P.HELD),
        (P.JOINING, {"work": "served"}, P.SERVING),
        (P.JOINING, {"work": APP}, P.RESTARTING),
        (P.JOINING, {"target": "InService", "grouped": False}, P.JOINING),
        (P.RELOADING, {"work": "running", "exited": True}, P.RELOADING),
        (P.RELOADING, {"work": "served"}, P.SERVING),
        (P.RELOADING, {"work": "done"}, P.SERVING),
        (P.RELOADING, {"work": APP}, P.RESTARTING),
        (P.STANDBY, {}, P.STANDBY),
        (P.STANDBY, {"target": "Standby"}, P.STANDBY),
        (P.STANDBY, {"target": "InService"}, P.JOINING),
        (P.STANDBY, {"asked": "reload"}, P.STANDBY),
        (P.STANDBY, {"exited": True}, P.STANDBY),
        (P.WARMED, {"target": "Warmed:Running"}, P.WARMED),
        (P.WARMED, {"target": "InService"}, P.STARTING),
        (P.WARMED, {"asked": "reload"}, P.WARMED),
        (P.DRAINED, {}, P.DRAINED),
        (P.DRAINED, {"target": "InService"}, P.DRAINED),
        (P.DRAINED, {"asked": "drain"}, P.DRAINED),
        (P.DRAINED, {"asked": "reload"}, P.STARTING),
        (P.DRAINED, {"asked": "stop"}, P.STOPPED),
    ],
    ids=str,
)
def test_a_phase_is_followed_by(phase: Phase, facts: dict[str, Any], expected: Phase) -> None:
    """An instance that comes back on nobody's word, or does not on somebody's."""
    assert after(phase, **facts) is expected


@pytest.mark.parametrize(("spot_time", "phase"), [("2026-01-01T00:00:00Z", P.DRAINED), ("", P.STARTING)])
def test_a_spot_instance_that_was_hibernated_comes_back_when_its_notice_is_gone(spot_time: str, phase: Phase) -> None:
    """An instance that wakes up, is paid for, and serves nobody."""
    assert follows(state(P.DRAINED, why="spot"), spot_time=spot_time).phase is phase
    assert follows(state(P.DRAINED, why="drain"), spot_time=spot_time).phase is P.DRAINED


@pytest.mark.parametrize(("phase", "facts"), [(P.WARMED, {"target": "InService"}), (P.DRAINED, {"asked": "reload"})])
def test_a_new_start_knows_nothing_of_what_went_before(phase: Phase, facts: dict[str, Any]) -> None:
    """An instance that leaves the pool and waits a minute for its first start, as its last life's restarts count."""
    former = state(phase, why="drain", restarts=9, error=APP)
    assert follows(former, **facts) == State(P.STARTING, NOW)


@pytest.mark.parametrize("phase", [P.RESTARTING, P.JOINING, P.RELOADING])
@pytest.mark.parametrize(
    ("error", "expected", "troubled"),
    [
        (APP, P.RESTARTING, NOW),
        (HOST, P.RESTARTING, NOW),
        (DockerError("no engine"), P.RESTARTING, NOW),
        (AgentError("unexpected"), P.RESTARTING, NOW),
        (ReportError("throttled"), P.JOINING, None),
        (ReportError("it does not find it healthy", cause="settings"), P.JOINING, None),
    ],
    ids=str,
)
def test_what_others_do_to_it_is_no_trouble_of_the_instances(
    phase: Phase, error: AgentError, expected: Phase, troubled: float | None
) -> None:
    """A fleet that is replaced, as the API of its load balancers was down for ten minutes."""
    found = follows(state(phase, restarts=3), work=error)
    assert (found.phase, found.since, found.restarts, found.troubled) == (expected, NOW, 4, troubled)
    assert found.error is error
    assert follows(found, work="served").error is None


def test_each_failure_is_a_state_of_its_own() -> None:
    """A restart that fails and is not begun again, for nothing seems to have changed."""
    former = state(P.RESTARTING, restarts=3, troubled=NOW - 20)
    found = follows(former, work=HOST)
    assert (found.phase, found.since, found.troubled) == (P.RESTARTING, NOW, NOW - 20)


@pytest.mark.parametrize(
    ("restarts", "seconds"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (7, 32), (8, 60), (50, 60), (5000, 60)]
)
def test_the_first_restart_is_at_once_and_the_pause_has_an_end(restarts: int, seconds: float) -> None:
    """A single crash that costs seconds, and a database that is back while its apps sleep on; an overflow at night."""
    assert phases.pause(restarts) == seconds


# The unhealthy clock


@pytest.mark.parametrize("phase", UP)
@pytest.mark.parametrize(("ago", "held", "unhealthy"), [(599.9, 0, False), (600.0, 0, True), (9999.0, 0.1, False)])
def test_trouble_in_service_is_the_groups_business_when_it_lasts(
    phase: Phase, ago: float, held: float, unhealthy: bool
) -> None:
    """A dead app that stays for ever, or one that is replaced while a person looks into it."""
    host = "" if phase is not P.SERVING else "Docker does not answer"
    found = follows(state(phase, troubled=NOW - ago), held=held, host=host)
    assert (found.phase, found.unhealthy) == (phase, unhealthy)


def test_an_instance_that_was_held_is_replaced_as_soon_as_it_is_let_go() -> None:
    """A failing instance that stays another ten minutes, or for good, after its hold."""
    held = follows(state(P.RESTARTING, troubled=NOW - 9999), held=1.0)
    assert not held.unhealthy
    assert follows(held).unhealthy


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in UP])
def test_what_is_not_in_service_is_not_reported(phase: Phase) -> None:
    """An instance on standby, whose operator broke it on purpose, that is replaced under his hands."""
    found = follows(state(phase, troubled=NOW - 9999, unhealthy=True), host="no space left", held=60.0)
    assert (found.phase, found.troubled, found.unhealthy) == (phase, None, False)


@pytest.mark.parametrize("phase", UP)
def test_a_host_fault_starts_the_clock_in_each_phase_in_service(phase: Phase) -> None:
    """An instance whose Docker hangs: its app can't be restarted or drained, and nobody is told."""
    found = follows(state(phase, ago=5000), host="Docker does not answer")
    assert (found.troubled, found.unhealthy) == (NOW, False)
    assert next_state(found, seen(host="Docker does not answer"), POLICY, NOW + 600).unhealthy


@pytest.mark.parametrize(
    ("ago", "troubled", "restarts"), [(59.9, NOW - 100, 5), (60.0, None, 0)], ids=["not yet", "at last"]
)
def test_only_a_minute_in_service_clears_what_was(ago: float, troubled: float | None, restarts: int) -> None:
    """An app that lives for seconds between its crashes, and is never replaced."""
    found = follows(state(P.SERVING, ago, troubled=NOW - 100, restarts=5))
    assert (found.troubled, found.restarts, found.unhealthy) == (troubled, restarts, False)


def test_one_that_was_reported_and_recovers_may_be_reported_again() -> None:
    """The second failure of an instance, which nobody is told of, as it was told of the first."""
    well = follows(state(P.SERVING, 60, troubled=NOW - 700, unhealthy=True))
    assert not well.unhealthy
    again = next_state(well, seen(exited=True), POLICY, NOW + 100)
    assert (again.unhealthy, again.troubled, again.restarts) == (False, NOW + 100, 1)
    assert next_state(again, seen(), POLICY, NOW + 700).unhealthy


def test_an_app_that_serves_again_is_not_reported_for_what_is_over() -> None:
    """An outage of 9 min 50 s: each app recovers, and the fleet is replaced within its first minute."""
    assert not follows(state(P.SERVING, ago=20, troubled=NOW - 600)).unhealthy


def test_a_host_that_flickers_is_troubled_all_the_while() -> None:
    """A Docker that answers every second ping: the clock is cleared at each, with no good minute between."""
    now, current = NOW, state(P.SERVING, ago=5000)
    for beat in range(120):
        now += 10
        host = "Docker does not answer" if beat % 2 else ""
        current = next_state(current, seen(host=host), POLICY, now)
    assert current.unhealthy


class Life:
    """The loop on one instance with a clock of its own: its app is up from a start until *ends* says."""

    def __init__(self, ends: Callable[[float], float], policy: Policy, chance: random.Random) -> None:
        self.now, self.state = 0.0, State(P.SERVING, -3600.0)
        self._ends, self._policy, self._chance = ends, policy, chance
        self._down = ends(0.0)
        self._started = 0.0
        self.unhealthy: list[float] = []  # when it was

    def live(self, seconds: float) -> None:
        while self.now < seconds:
            self.now += 1
            found = self._seen()
            former, self.state = self.state, next_state(self.state, found, self._policy, self.now)
            if self.state.unhealthy:
                self.unhealthy.append(self.now)
            if self.state.phase is P.RESTARTING and self.state.since != former.since:
                spread = self._chance.uniform(0.75, 1.25)  # works.SPREAD
                self._started = self.now + phases.pause(self.state.restarts) * spread
                self._down = self._ends(self._started)

    def _seen(self) -> Seen:
        """A restarted app is healthy after three seconds, where it lives as long."""
        if self.state.phase is P.SERVING:
            return seen(exited=self.now >= self._down)
        if self.now < min(self._down, self._started + 3):
            return seen(work="running")
        return seen(work=APP if self._down <= self._started + 3 else "served")


def lives(ends: Callable[[float], float], seconds: float, count: int) -> Iterator[Life]:
    """*count* lives of that length, each with the jitter that `supervise` gives its policy."""
    chance = random.Random(4711)  # noqa: S311  no secret
    for _ in range(count):
        life = Life(ends, Policy(unhealthy_after=600 * chance.uniform(1, 1.5)), chance)
        life.live(seconds)
        yield life


@pytest.mark.parametrize("lasts", [0.0, 1.0, 20.0], ids=["at once", "before it is healthy", "after 20 s in service"])
def test_a_database_that_is_out_for_five_minutes_replaces_no_instance(lasts: float) -> None:
    """A fleet that is replaced at once for the outage of what all its instances depend on."""

    def ends(started: float) -> float:
        return max(60.0, started + lasts) if started < 360 else float("inf")

    for life in lives(ends, 1800, count=25):
        assert life.unhealthy == []
        assert (life.state.phase, life.state.restarts, life.state.troubled) == (P.SERVING, 0, None)


@pytest.mark.parametrize("lasts", [0.0, 3.5, 20.0, 59.0])
def test_an_app_that_comes_up_and_falls_again_is_replaced_in_the_end(lasts: float) -> None:
    """A crash loop that is never replaced, as each of its starts counts as recovery."""
    for life in lives(lambda started: started + lasts, 1800, count=15):
        assert life.unhealthy
        assert 600 <= life.unhealthy[0] <= 600 * 1.5 + 120


@pytest.mark.parametrize("lasts", [300.0, 3600.0])
def test_an_app_that_crashes_now_and_then_is_restarted_at_once_each_time(lasts: float) -> None:
    """A leak that ends the app once an hour, until its pauses are a minute and its instance is replaced."""
    for life in lives(lambda started: started + lasts, 10_000, count=1):
        assert life.unhealthy == []
        assert life.state.restarts <= 1


# All of it


ERRORS = [APP, HOST, NO_SETTINGS, ReportError("throttled", transient=True)]
SEEN = st.builds(
    Seen,
    work=st.sampled_from(["running", "served", "done", *ERRORS]),
    notices=st.builds(
        Notices,
        target=st.sampled_from([None, "", "InService", "Standby", "Detached", "Terminated", "Warmed:Running"])
        | st.text(max_size=5),
        spot_time=st.sampled_from(["", "soon"]),
        rebalance=st.booleans(),
    ),
    asked=st.sampled_from(["", "stop", "drain", "reload"]),
    exited=st.booleans(),
    host=st.sampled_from(["", "no space left"]),
    held=st.sampled_from([0.0, 60.0]),
    known=st.booleans(),
    standing=st.sampled_from(["", "joining", "joined", "leaving", "draining", "drained"]),
    grouped=st.booleans(),
)
POLICIES = st.builds(Policy, unhealthy_after=st.sampled_from([0.0, 600.0]), drain_on_rebalance=st.booleans())


@examples(deadline=None, max_examples=50)  # milliseconds say nothing on a busy machine
@given(
    phase=st.sampled_from(Phase),
    policy=POLICIES,
    sights=st.lists(st.tuples(st.sampled_from([0.1, 30.0, 700.0]), SEEN), max_size=30),
)
def test_whatever_is_seen_a_phase_follows_and_an_end_is_one(
    phase: Phase, policy: Policy, sights: list[tuple[float, Seen]]
) -> None:
    """An agent that dies of what nobody thought of, or rises again after its end."""
    now, current = NOW, State(phase, NOW, "drain" if phase is P.LEAVING else None, APP if phase is P.HELD else None)
    for seconds, sight in sights:
        now += seconds
        former, current = current, next_state(current, sight, policy, now)
        assert former.phase not in phases.ENDS or current == former
        assert current.phase in Phase
        assert former.since <= current.since <= now
        assert current.phase is former.phase or current.since == now
        assert current.phase is not P.LEAVING or current.why
        assert current.phase not in (P.FAILING, P.HELD) or current.error or former.phase is current.phase
        assert not current.unhealthy or former.phase in UP or current.phase in UP


@examples(deadline=None, max_examples=50)
@given(policy=POLICIES, sights=st.lists(SEEN, max_size=30))
def test_who_is_asked_to_stop_and_whose_work_ends_comes_to_an_end(policy: Policy, sights: list[Seen]) -> None:
    """A shutdown that hangs until systemd kills the agent, with the app in it."""
    current = State(P.STARTING, NOW)
    for number, sight in enumerate(sights, 1):
        current = next_state(current, sight, policy, NOW + number)
    for number in range(100, 105):
        current = next_state(current, seen(asked="stop", work="done"), policy, NOW + number)
    assert current.phase in phases.ENDS
