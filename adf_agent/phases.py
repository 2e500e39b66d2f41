"""The agent's phases, from its start to its end, and what leads from one to the next: decided purely."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from adf_agent.errors import AgentError
from adf_agent.leave import Why
from adf_agent.notices import Notices
from adf_agent.state import Standing

GOOD_SECONDS = 60.0  # in service without trouble, after which the trouble before counts no more
LONGEST_PAUSE = 60.0  # seconds between two restarts


class Phase(StrEnum):
    """Each is left when its work ends, or by what is seen meanwhile. The texts are those of the record."""

    STARTING = "starting"  # work: the settings; shown as booting
    BOOTING = "booting"  # work: the other stages
    SERVING = "in service"
    RESTARTING = "restarting"  # work: the container that ended runs again, and is healthy
    JOINING = "joining"  # work: as above, where balancers or group don't know of it
    RELOADING = "reloading"  # work: leaves, and comes back with new config
    LEAVING = "draining"  # work: deregistered, drained, stopped, the hook completed
    STANDBY = "standby"
    WARMED = "warmed"
    DRAINED = "drained"
    HELD = "held"
    FAILING = "failing"  # work: the group is told
    FAILED = "failed"
    STOPPED = "stopped"


P = Phase
ENDS = (P.FAILED, P.STOPPED)
UP = (P.SERVING, P.RESTARTING, P.JOINING, P.RELOADING)  # in service here, or soon again
STAYING = (P.STARTING, P.BOOTING, *UP, P.STANDBY, P.WARMED, P.HELD)  # what may be left by a notice
GONE = ("Terminated", "Warmed:Terminated")
# The less time there is, the more urgent.
URGENCY: tuple[Why, ...] = ("stop", "spot", "terminated", "drain", "rebalance", "standby", "warmed")
AFTER: dict[Why, Phase] = {"stop": P.STOPPED, "standby": P.STANDBY, "warmed": P.WARMED}  # else DRAINED


@dataclass(frozen=True)
class Policy:
    """What the settings say, durations in seconds; *unhealthy_after* with this instance's own jitter in it."""

    unhealthy_after: float = 600.0
    drain_on_rebalance: bool = False


@dataclass(frozen=True)
class Seen:
    """What the loop sees at one time. *work* is how the phase's work stands, or what it failed with."""

    work: Literal["running", "served", "done"] | AgentError = "running"
    notices: Notices = Notices()  # noqa: RUF009  frozen
    asked: Literal["", "stop", "drain", "reload"] = ""
    exited: bool = False  # the container has ended
    host: str = ""  # what is wrong with the host
    held: float = 0.0  # seconds that a failing instance is kept yet
    known: bool = False  # the release has been in service since the machine's boot
    standing: Standing = ""
    grouped: bool = True  # the group was told of the service, where there is one


@dataclass(frozen=True)
class State:
    """Times are monotonic seconds: *troubled* since when app or host fail in service, *hurt* when the host last did."""

    phase: Phase
    since: float
    why: Why | None = None
    error: AgentError | None = None
    restarts: int = 0  # in a row, and what else was tried in vain
    troubled: float | None = None
    hurt: float = 0.0
    unhealthy: bool = False  # the group is to replace the instance

    def to(self, phase: Phase, now: float, **changes: Any) -> "State":
        return replace(self, phase=phase, since=now, **changes)


def next_state(state: State, seen: Seen, policy: Policy, now: float) -> State:
    """The state that follows *state*, itself where nothing has changed."""
    if why := _why_leave(state, seen, policy):
        return state.to(P.LEAVING, now, why=why)
    return _troubled(_NEXT[state.phase](state, seen, now), seen, policy, now)


def pause(restarts: int) -> float:
    """Seconds before a restart, the first one being at once; without jitter."""
    return 0.0 if restarts <= 1 else min(LONGEST_PAUSE, 2.0 ** min(restarts - 2, 6))


def _why_leave(state: State, seen: Seen, policy: Policy) -> Why | None:
    """The most urgent reason that holds, None to stay, or to go on leaving."""
    starting = state.phase is P.STARTING
    if starting and seen.work != "done":  # without settings nobody can be told
        if seen.asked == "drain" and seen.work == "running" and seen.standing in ("", "drained"):
            return "drain"
        return "stop" if seen.asked == "stop" and seen.work == "running" else None
    up = state.phase in UP or (starting and seen.known)
    reasons = [why for why in URGENCY if _holds(why, seen, policy, up=up, starting=starting)]
    if state.phase in STAYING:
        return next(iter(reasons), None)
    if state.phase is P.LEAVING and state.why:  # every step may be taken twice, and this one has less time
        return next((why for why in reasons if URGENCY.index(why) < URGENCY.index(state.why)), None)
    if state.phase is P.DRAINED and "terminated" in reasons and state.why != "terminated":  # its hook waits
        return "terminated"
    return None


def _holds(why: Why, seen: Seen, policy: Policy, *, up: bool, starting: bool) -> bool:
    target = seen.notices.target or ""
    return {
        "stop": seen.asked == "stop",
        "spot": bool(seen.notices.spot_time),
        "terminated": target in GONE,
        "drain": seen.asked == "drain" or (starting and seen.standing == "draining"),
        "rebalance": seen.notices.rebalance and policy.drain_on_rebalance,
        "standby": up and target in ("Standby", "Detached"),
        "warmed": up and target.startswith("Warmed:"),
    }[why]


def _starting(state: State, seen: Seen, now: float) -> State:
    if isinstance(seen.work, AgentError):
        return _fail(state, seen, seen.work, now)
    if seen.work == "running":
        return state
    if seen.standing == "drained":
        return state.to(P.DRAINED, now)
    return state.to(P.JOINING if seen.known else P.BOOTING, now)


def _booting(state: State, seen: Seen, now: float) -> State:
    if isinstance(seen.work, AgentError):
        return _fail(state, seen, seen.work, now)
    if seen.work == "running":
        return state
    return state.to(P.SERVING if seen.work == "served" else P.WARMED, now)


def _fail(state: State, seen: Seen, error: AgentError, now: float) -> State:
    return state.to(P.HELD if seen.held else P.FAILING, now, error=error)


def _serving(state: State, seen: Seen, now: float) -> State:
    if seen.exited:
        return state.to(P.RESTARTING, now, restarts=state.restarts + 1, troubled=_first(state.troubled, now))
    if seen.asked == "reload":
        return state.to(P.RELOADING, now)
    if seen.notices.target == "InService" and not seen.grouped:
        return state.to(P.JOINING, now)
    return state


def _again(state: State, seen: Seen, now: float) -> State:
    """After a restart or the like. What a dependency does to it is no trouble of this instance's."""
    if isinstance(seen.work, AgentError):
        ours = seen.work.stage != "report"
        troubled = _first(state.troubled, now) if ours else state.troubled
        phase = P.RESTARTING if ours else P.JOINING
        return state.to(phase, now, restarts=state.restarts + 1, troubled=troubled, error=seen.work)
    if seen.work != "running":
        return state.to(P.SERVING, now, error=None)
    if seen.asked == "reload" and state.phase is not P.RELOADING:  # it may bring the cure
        return state.to(P.RELOADING, now)
    return state


def _first(since: float | None, now: float) -> float:
    return now if since is None else since


def _standby(state: State, seen: Seen, now: float) -> State:
    return state.to(P.JOINING, now) if seen.notices.target == "InService" else state


def _from_start(state: State, seen: Seen, now: float) -> State:
    if seen.asked == "stop":
        return state.to(P.STOPPED, now)
    if state.phase is P.WARMED:
        back = seen.notices.target == "InService"
    else:  # a spot instance that was hibernated goes on where it was
        back = seen.asked == "reload" or (state.why == "spot" and not seen.notices.spot_time)
    return State(P.STARTING, now) if back else state


def _leaving(state: State, seen: Seen, now: float) -> State:
    if seen.work == "running":
        return state
    error = seen.work if isinstance(seen.work, AgentError) else None  # what nobody expected: a step's fault is named
    return state.to(AFTER.get(state.why or "stop", P.DRAINED), now, error=error)


def _held(state: State, seen: Seen, now: float) -> State:
    if seen.asked == "reload":  # a person has mended something
        return State(P.STARTING, now)
    return state if seen.held else state.to(P.FAILING, now)


def _failing(state: State, seen: Seen, now: float) -> State:
    return state if seen.work == "running" else state.to(P.FAILED, now)


def _stays(state: State, seen: Seen, now: float) -> State:  # noqa: ARG001  as the others
    return state


_NEXT = {
    P.STARTING: _starting,
    P.BOOTING: _booting,
    P.SERVING: _serving,
    P.RESTARTING: _again,
    P.JOINING: _again,
    P.RELOADING: _again,
    P.LEAVING: _leaving,
    P.STANDBY: _standby,
    P.WARMED: _from_start,
    P.DRAINED: _from_start,
    P.HELD: _held,
    P.FAILING: _failing,
    P.FAILED: _stays,
    P.STOPPED: _stays,
}


def _troubled(state: State, seen: Seen, policy: Policy, now: float) -> State:
    """*state* with the time that app or host have failed in service; past the policy's, the group shall know."""
    if state.phase not in UP:
        return replace(state, troubled=None, unhealthy=False)
    if seen.host:
        state = replace(state, troubled=_first(state.troubled, now), hurt=now)
    elif state.phase is P.SERVING:  # what serves again is not reported for what is over, unless it soon fails again
        well = now - max(state.since, state.hurt) >= GOOD_SECONDS
        return replace(state, troubled=None, unhealthy=False, restarts=0) if well else state
    if state.troubled is None or now - state.troubled < policy.unhealthy_after or seen.held:
        return state
    return replace(state, unhealthy=True)
