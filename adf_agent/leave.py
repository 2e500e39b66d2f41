"""Leaving without cutting a request: deregistered, drained by the load balancer's word, stopped, and the group told."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import structlog

from adf_agent import engine, member, report, undo
from adf_agent.background import Task
from adf_agent.balancer import Balancer
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, ReportError, Stopped, unexpected
from adf_agent.group import Group, Hook
from adf_agent.stages import Stages

Why = Literal["terminated", "warmed", "standby", "spot", "rebalance", "drain", "stop", "reload"]

# Seconds. The longest deregistration delay that a load balancer may have is an hour; stopping and the hook come after.
LONGEST_SECONDS = 3600.0 + 300.0
# For SIGTERM: a load balancer's default deregistration delay (300) and the container's default stop_timeout (30), and
# what the calls take. systemd's TimeoutStopSec and upstart's kill timeout have to be longer than this.
STOP_SECONDS = 345.0
SPOT_SECONDS = 120.0  # the notice comes two minutes before the end
MARGIN_SECONDS = 5.0  # of a budget, for the calls behind the stop
ASK_SECONDS = 20.0  # for Auto Scaling to say what there is to leave, and for Docker to be reached
BLIND_SECONDS = 300.0  # to wait where the load balancer may not be asked: its default deregistration delay
FIRST_SECONDS, GROWTH, POLL_SECONDS = 0.2, 1.5, 2.0
T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True)
class Plan:
    """How to leave. *by_group*: the group itself deregisters what is attached to it, and is waited for."""

    why: Why
    budget: float  # seconds for all of it
    by_group: bool
    hook: bool  # our terminate hook waits at the end of it
    stops: bool  # the container too

    def kept_back(self, stop_timeout: float) -> float:
        """Seconds that the load balancers must leave, so that the container still has its *stop_timeout*."""
        return (stop_timeout if self.stops else 0.0) + MARGIN_SECONDS


def plan(why: Why, target: str | None = None, notice: float | None = None) -> Plan:
    """The plan for *why*, in a group that moves the instance to *target*.

    *notice*, seconds, is how soon a spot instance ends. A stop or a spot notice may come in the middle of a scale-in.
    """
    budget = {"stop": STOP_SECONDS, "spot": SPOT_SECONDS}.get(why, LONGEST_SECONDS)
    to_pool = (target or "").startswith("Warmed:")
    by_group = to_pool or target in ("Terminated", "Standby", "Detached")
    hook = by_group and (target == "Terminated" or to_pool)
    return Plan(why, budget if notice is None else min(budget, notice), by_group, hook, stops=why != "standby")


def prepare(do: Stages, *, grouped: bool) -> None:
    """Makes the clients that leaving takes, of files that an upgrade may replace. Raises AgentError."""
    host, region, settings = do.host, do.launched.identity.region, do.launched.settings
    if grouped:
        host.autoscaling(region)
    if grouped or settings.target_groups:
        host.elbv2(region)
    if settings.load_balancers:  # hardly a group has them attached, and a client is half a megabyte
        host.elb(region)


class Leaving:
    """One way out, by *plan*. Whatever fails on it is named, and the next step taken: the end comes anyway.

    *spent* seconds of the budget are over already. Every step may be taken again, after a crash or in more of a hurry.
    """

    def __init__(self, do: Stages, plan: Plan, stop: threading.Event, *, grouped: bool, spent: float = 0.0) -> None:
        self._do, self._plan, self._grouped = do, plan, grouped
        self._deadline = Deadline(max(MARGIN_SECONDS, plan.budget - spent), stop)
        self._began = time.monotonic()
        self._steps: dict[str, float] = {}
        self._fault: AgentError | None = None

    def run(self) -> AgentError | None:
        """Takes every step within the budget. Returns what a step failed with that nobody expected. Raises Stopped."""
        told, patience = self._do.ledger.state.standing or self._plan.by_group, self._do.recorded_stop_timeout()
        standing = "draining" if self._plan.why == "drain" else "leaving"
        self._do.ledger.note_if_possible(standing=standing)  # before the first step: a crash must not forget it
        log.info("drain.started", why=self._plan.why, budget=self._deadline.seconds, stop_timeout=patience)
        if told:
            self._let_go(patience)
        else:
            self._stop_container(patience)
        self._do.ledger.note_if_possible(standing="drained" if self._plan.why == "drain" else "")
        log.info("drain.finished", why=self._plan.why, seconds=self._seconds())
        return self._fault

    def _let_go(self, patience: float) -> None:
        window = self._deadline.within(max(0.0, self._deadline.remaining() - self._plan.kept_back(patience)))
        left = self._deregister(self._own(window), window)
        place = self._ask("group", self._find, window) if self._grouped else None
        with self._waiting(place) as hook:
            attached = place and self._ask("attached", partial(self._attached, place), window)
            others = attached or []
            left += others if self._plan.by_group else self._deregister(others, window)
            for each in left:
                self._step(f"drained by {each.name}", partial(self._drained, each, window), window)
            self._stop_container(patience)
            if place and hook:
                complete = partial(member.complete, place, [hook], "CONTINUE", self._deadline)
                self._step(f"{hook.name} completed", complete, self._deadline)

    def _own(self, window: Deadline) -> list[Balancer]:
        bound = window.within(ASK_SECONDS)
        own = partial(report.own, self._do.host, self._do.launched)
        return self._try("the settings' load balancers", partial(bound.retry, own), bound) or []

    def _deregister(self, balancers: list[Balancer], window: Deadline) -> list[Balancer]:
        """Those that were left: one that may not be left never lets go."""
        return [
            each
            for each in balancers
            if self._step(f"deregistered from {each.name}", partial(self._deregistered, each, window), window)
        ]

    def _ask(self, what: str, call: Callable[[Deadline], T], window: Deadline) -> T | None:
        """The answer of *call*; who does not answer soon must not have the load balancers' time."""
        bound = window.within(ASK_SECONDS)
        return self._step(what, partial(call, bound), bound)

    def _deregistered(self, balancer: Balancer, window: Deadline) -> bool:
        window.retry(balancer.deregister)
        return True

    def _find(self, window: Deadline) -> Group | None:
        return member.find(self._do.host, self._do.launched.identity, window)

    def _attached(self, place: Group, window: Deadline) -> list[Balancer]:
        return report.attached(self._do.host, self._do.launched, place, self._do.record, window)

    def _drained(self, balancer: Balancer, window: Deadline) -> None:
        """Returns when the load balancer says that it has let go; where it may not be asked, after a while."""
        pause, state = FIRST_SECONDS, "draining"
        while state not in ("out", "idle") and not window.expired():
            try:
                state = window.retry(balancer.ask).state
            except ReportError as error:
                if not error.transient:
                    log.warning("drain.blind", balancer=balancer.name, seconds=BLIND_SECONDS)
                    window.wait(BLIND_SECONDS)
                raise
            if state not in ("out", "idle"):
                window.wait(pause)
            pause = min(pause * GROWTH, POLL_SECONDS)
        if state not in ("out", "idle"):
            hint = "Raise the time behind it, or lower the load balancer's deregistration delay."
            raise ReportError(f"{balancer.name} has not let go in {window.seconds:.0f} s", hint=hint)

    def _stop_container(self, patience: float) -> None:
        if not self._plan.stops:
            return
        seconds = max(1.0, min(patience, self._deadline.remaining() - MARGIN_SECONDS / 2))

        def stop() -> None:
            reached = engine.connect(self._do.host.docker, self._deadline.within(ASK_SECONDS))
            undo.stop(self._do, reached, seconds)

        self._step("container stopped", stop, self._deadline)
        self._do.record.add(container=None)
        if self._plan.why != "stop":  # what comes back after that has the config that it had
            self._do.ledger.note_if_possible(in_service=False)

    @contextmanager
    def _waiting(self, place: Group | None) -> Iterator[Hook | None]:
        """Our terminate hook, kept waiting meanwhile; None where there is none, or not for this."""
        over = threading.Event()
        hook = None
        if place and self._plan.hook:
            hook = self._ask("hook", partial(self._hook, place), self._deadline)
        if place and hook:
            Task(lambda: member.beat(place, hook, over))
        try:
            yield hook
        finally:
            over.set()

    def _hook(self, place: Group, window: Deadline) -> Hook | None:
        wanted = self._do.launched.settings.terminate_hook
        return member.our_hook(place, "terminate", wanted, self._do.record, window)

    def _step(self, what: str, call: Callable[[], T], window: Deadline) -> T | None:
        """As `_try`; when *call* ended is written down."""

        def ended() -> None:
            self._steps[what] = self._seconds()
            log.info("drain.step", step=what, seconds=self._steps[what])
            self._do.record.add(drain={"why": self._plan.why, "steps": self._steps})

        return self._try(what, call, window, ended)

    def _try(
        self, what: str, call: Callable[[], T], window: Deadline, ended: Callable[[], None] = lambda: None
    ) -> T | None:
        """What *call* returns, None where it fails or does not end within *window*. Raises Stopped."""
        try:
            value = Task(call).result(window)
        except Stopped:
            raise
        except TimeoutError:
            self._failed(what, f"not within {window.seconds:.0f} s")
        except AgentError as error:
            self._failed(what, error.sentence, error.hint)
        except Exception as error:  # the boundary of the step's thread: the steps after it come all the same
            log.exception("unexpected", exc_info=error)
            self._fault = unexpected(error)
            self._failed(what, self._fault.sentence, self._fault.hint)
        else:
            ended()
            return value
        return None

    def _failed(self, what: str, reason: str, hint: str = "") -> None:
        self._do.record.degrade(f"drain: {what}: {reason}", hint)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._began, 3)
