"""`adf-agent run`: one loop that sees, decides by `phases.next_state`, and sets each phase's work going."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Literal

import structlog

from adf_agent import hold, leave, phases, serving
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, unexpected
from adf_agent.host import Host
from adf_agent.notices import Watch
from adf_agent.notify import Notify
from adf_agent.phases import Phase, Policy, Seen, State
from adf_agent.record import Record
from adf_agent.serving import Service
from adf_agent.state import Ledger
from adf_agent.vitals import ExitWatch, Vitals
from adf_agent.works import CLOSE_SECONDS, Works

TICK_SECONDS = 1.0  # for what nobody wakes the loop for: the watchdog, the clock
END_SECONDS = 30.0  # for a work that is called off to take back what it did: more than undo.UNDO_SECONDS
JITTER = 0.5  # of ADF_UNHEALTHY_AFTER at most: what all instances feel at once must not replace all at once
REBALANCE = "EC2 recommends a rebalance: this spot instance is at an elevated risk of being interrupted"
Order = Literal["", "stop", "drain", "reload"]
log = structlog.get_logger()


class Work:
    """What a phase has to do, in a thread of its own, once the *former* work, called off, has ended."""

    def __init__(
        self, call: Callable[[threading.Event], Service | None], former: "Work | None", ended: Callable[[], object]
    ) -> None:
        self.stop = threading.Event()
        if former:
            former.stop.set()
        self.task = Task(partial(self._run, call, former))
        self.task.future.add_done_callback(lambda _: ended())

    def _run(self, call: Callable[[threading.Event], Service | None], former: "Work | None") -> Service | None:
        if former:
            with suppress(Exception):  # the boundary of its thread: `outcome` has told it, and this is another work
                former.task.result(Deadline(END_SECONDS, self.stop))
        return call(self.stop)

    def outcome(self) -> Service | AgentError | Literal["running"] | None:
        """What it came to: a service, or None where there is none; or why it failed."""
        if not self.task.done():
            return "running"
        error = self.task.future.exception()
        if error is None:
            return self.task.value
        if isinstance(error, AgentError):
            return error
        log.error("unexpected", exc_info=error)
        return unexpected(error)


class Supervisor:
    """The life of the agent on one instance. Clients, service manager and clock are handed in.

    *orders* may be put by a signal's handler, at any time; the empty one only wakes the loop.
    """

    def __init__(
        self,
        host: Host,
        record: Record,
        ledger: Ledger,
        notify: Notify,
        orders: "SimpleQueue[Order]",
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host, self._record, self._ledger, self._notify, self._clock = host, record, ledger, notify, clock
        self._orders = orders
        self._asked: Order = ""
        self._stopping = False
        self._end, self._exit_end = threading.Event(), threading.Event()
        self._watch = Watch(host.metadata(Deadline(0, self._end)), self._wake, self._end)
        self._works = Works(host, record, ledger, self._watch, patience)
        self._vitals: Vitals | None = None
        self._exit: ExitWatch | None = None
        self._telling: Work | None = None  # that the instance is unhealthy
        self._policy = Policy()
        self._state = State(Phase.STARTING, clock())
        self._work: Work | None = Work(self._works.start, None, self._wake)

    def run(self) -> int:
        """Until the end. Returns the exit code: 0 where it left as it was told, else that of what it failed with."""
        try:
            while self._state.phase not in phases.ENDS:
                self._wait()
                seen = self._see()
                rebalance = REBALANCE if seen.notices.rebalance else ""
                self._record.trouble("rebalance", rebalance, "To leave before it is: adf-agent drain")
                state = phases.next_state(self._state, seen, self._policy, self._clock())
                if state != self._state:
                    former, self._state = self._state, state
                    self._enter(state, former)
        finally:
            self._end.set()
            self._exit_end.set()
            self._works.close(CLOSE_SECONDS)
        error = self._state.error
        return error.exit_code if error else 0

    def _wake(self) -> None:
        self._orders.put("")

    def _wait(self) -> None:
        self._notify.feed()
        with suppress(Empty):
            order = self._orders.get(timeout=TICK_SECONDS)
            while True:
                self._stopping = self._stopping or order == "stop"
                self._asked = order or self._asked
                order = self._orders.get_nowait()

    def _see(self) -> Seen:
        outcome = self._work.outcome() if self._work else "running"
        if isinstance(outcome, Service):
            self._look_after(outcome)
        do, member = self._works.do, self._works.member
        return Seen(
            work=outcome if isinstance(outcome, AgentError | str) else "served" if outcome else "done",
            notices=self._watch.seen,
            asked="stop" if self._stopping else self._asked,
            exited=self._exit is not None and self._exit.exited,
            host=self._vitals.host if self._vitals else "",
            held=hold.left(self._host.root) or self._policy_holds(),
            known=do is not None and serving.is_known(do),
            standing=self._ledger.state.standing,
            grouped=member is None or member.grouped,
        )

    def _policy_holds(self) -> float:
        """Seconds that a failed boot is kept by ADF_ON_FAILURE=hold: they begin with the failure."""
        do = self._works.do if self._state.phase is Phase.BOOTING else None
        return hold.DEFAULT_SECONDS if do and do.launched.settings.on_failure == "hold" else 0.0

    def _look_after(self, service: Service) -> None:
        if self._vitals is None:
            self._vitals = Vitals(self._host, self._record, self._wake, self._end)
        if self._vitals.service is not service:
            self._exit_end.set()
            self._exit_end = threading.Event()
            self._vitals.service, self._exit = service, ExitWatch(service, self._wake, self._exit_end)

    def _enter(self, state: State, former: State) -> None:
        """Writes down the state that was just entered, and sets its work going."""
        if state.unhealthy and not former.unhealthy:
            self._telling = Work(self._works.report_unhealthy, None, self._wake)
        if former.unhealthy and not state.unhealthy and self._telling:
            self._telling.stop.set()
            self._record.trouble("unhealthy", "")
        if former.restarts and not state.restarts:
            self._record.trouble("app", "")
        if (state.phase, state.since) == (former.phase, former.since):
            return
        log.info("phase", phase=state.phase, former=former.phase, why=state.why)
        if former.phase is Phase.STARTING and state.phase is not Phase.FAILING:
            self._notify.ready()
        if former.phase in (Phase.STARTING, Phase.RELOADING):
            self._follow_settings()
        self._consume(state, former)
        self._write_down(state, former)
        call = self._call(state)
        self._work = Work(call, self._work, self._wake) if call else None

    def _call(self, state: State) -> Callable[[threading.Event], Service | None] | None:
        works = self._works
        calls: dict[Phase, Callable[[threading.Event], Service | None]] = {
            Phase.STARTING: works.start,
            Phase.BOOTING: works.boot,
            Phase.RESTARTING: partial(works.again, state),
            Phase.JOINING: partial(works.again, state),
            Phase.RELOADING: works.reload,
            Phase.LEAVING: partial(works.leave, state),
            Phase.FAILING: lambda _: works.give_up(state),
        }
        return calls.get(state.phase)

    def _follow_settings(self) -> None:
        """Settings are read: from here on it is known how long app and host may fail."""
        if do := self._works.do:
            settings, instance_id = do.launched.settings, do.launched.identity.instance_id
            structlog.contextvars.bind_contextvars(instance=instance_id, release=settings.release)  # for later threads
            after = settings.unhealthy_after * (1 + random.uniform(0, JITTER))  # noqa: S311  no secret
            held = hold.DEFAULT_SECONDS if settings.on_failure == "hold" else 0.0
            self._policy = Policy(after + held, settings.rebalance == "drain")

    def _consume(self, state: State, former: State) -> None:
        """What was asked for is being done."""
        if state.phase is Phase.LEAVING:  # a reload would undo it
            self._asked = ""
        if self._asked == "reload" and state.phase in (Phase.RELOADING, Phase.STARTING):
            self._asked = ""
        if state.phase is Phase.LEAVING and self._vitals:
            self._vitals.service = None
            self._exit_end.set()
        if state.phase is Phase.LEAVING and state.why == "stop":
            self._notify.stopping(leave.STOP_SECONDS + CLOSE_SECONDS)
        if state.phase is Phase.HELD and not hold.left(self._host.root):
            hold.begin(self._host.root, hold.DEFAULT_SECONDS)
        late = state.phase is Phase.JOINING and former.phase is Phase.SERVING  # a group that it was attached to
        if late or state.phase in (Phase.STARTING, Phase.STOPPED):
            self._ledger.note_if_possible(standing="")

    def _write_down(self, state: State, former: State) -> None:
        if state.phase in (Phase.RESTARTING, Phase.RELOADING, Phase.STARTING) or former.phase is Phase.STANDBY:
            self._record.begin()
        failed = state.error if state.phase in (Phase.RESTARTING, Phase.JOINING) else None
        if failed and failed.log_tail:  # else those that the app ended with stay
            self._record.keep(failed.log_tail)
        self._record.trouble("service", failed.sentence if failed else "", failed.hint if failed else "")
        if state.error and state.phase in (Phase.HELD, Phase.FAILING) and former.phase is not Phase.HELD:
            self._record.fail(state.error, "held" if state.phase is Phase.HELD else "failed")
        elif state.phase is not Phase.FAILED:
            shown = {Phase.STARTING: Phase.BOOTING, Phase.FAILING: Phase.FAILED}.get(state.phase, state.phase)
            self._record.add(phase=str(shown), restarts=state.restarts)
