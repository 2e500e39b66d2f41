"""How long something may still take: every wait ends at the deadline, or at once when the stop event is set."""

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

import structlog
import tenacity

from adf_agent.errors import AgentError, Stopped

T = TypeVar("T")
log = structlog.get_logger()
# Who is told of each try that failed, with the seconds until the next one and why: the stage that runs.
retried: ContextVar[Callable[[float, str], object] | None] = ContextVar("retried", default=None)


class Deadline:
    """*seconds* from now, on *clock* (monotonic), or less when *stop* is set."""

    def __init__(self, seconds: float, stop: threading.Event, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.stop = stop
        self._clock = clock
        self._start = clock()

    def within(self, seconds: float) -> "Deadline":
        """A deadline *seconds* from now, this one's end at the latest."""
        return Deadline(min(seconds, self.remaining()), self.stop, self._clock)

    def anew(self, seconds: float) -> "Deadline":
        """A deadline *seconds* from now, however little is left of this one."""
        return Deadline(seconds, self.stop, self._clock)

    def lasting(self, seconds: float) -> "Deadline":
        """A deadline with this one's start, *seconds* after it."""
        other = Deadline(seconds, self.stop, self._clock)
        other._start = self._start
        return other

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._start + self.seconds - self._clock())

    def overdue(self) -> float:
        """Seconds since it passed, never negative."""
        return max(0.0, self._clock() - self._start - self.seconds)

    def expired(self) -> bool:
        return self.remaining() == 0.0

    def check(self) -> None:
        """Raises Stopped where the stop event is set."""
        if self.stop.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Waits *seconds*, less where the deadline comes first. Raises Stopped as soon as the stop event is set."""
        self.stop.wait(min(seconds, self.remaining()))
        self.check()

    def retry(self, call: Callable[[], T]) -> T:
        """The answer of *call*, called again with jitter while it raises a transient AgentError and time is left.

        Raises what *call* raised last, or Stopped.
        """
        self.check()
        passing: list[AgentError] = []

        def attempt() -> T:
            self.check()
            try:
                return call()
            except AgentError as error:
                passing.extend([error] if error.transient and not self.expired() else [])
                raise

        try:
            return tenacity.Retrying(
                retry=tenacity.retry_if_exception(lambda e: isinstance(e, AgentError) and e.transient),
                # 0.2 s at first, as Docker's socket and a throttled table come back soon; 10 s at most, so that a
                # fleet that starts at once spreads out.
                wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
                stop=lambda state: self.stop.is_set() or state.upcoming_sleep >= self.remaining(),
                sleep=tenacity.sleep_using_event(self.stop),
                before_sleep=_say,
                reraise=True,
            )(attempt)
        except AgentError as error:
            self.check()
            if passing and self.expired():  # what stood in the way until then is why
                raise passing[-1] from error
            raise


def _say(attempt: tenacity.RetryCallState) -> None:
    seconds, reason = round(attempt.upcoming_sleep, 2), str(attempt.outcome and attempt.outcome.exception())
    log.warning("retry", attempt=attempt.attempt_number, seconds=seconds, reason=reason)
    if tell := retried.get():
        tell(seconds, reason)
