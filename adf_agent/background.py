"""One call in a thread of its own, waited for until a deadline and left behind after it."""

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any, Generic, TypeVar

from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, Stopped

T = TypeVar("T")
CLEAR_SECONDS = 12.0  # more than build.CANCEL_SECONDS
LOOK_SECONDS = 0.1  # how soon a set stop event ends a wait; an answer ends it at once


class Task(Generic[T]):
    """*call*, running. Its thread never holds up the process's exit, as an executor's would."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.future: Future[T] = Future()
        context = contextvars.copy_context()  # the log's bound keys
        threading.Thread(target=context.run, args=(self._run, call), daemon=True).start()

    def _run(self, call: Callable[[], T]) -> None:
        try:
            self.future.set_result(call())
        except BaseException as error:  # noqa: BLE001  the thread's one boundary: result() raises it again
            self.future.set_exception(error)

    @property
    def value(self) -> T:
        """What the call returned, once it has."""
        return self.future.result(timeout=0)

    def done(self) -> bool:
        return self.future.done()

    def failed(self) -> bool:
        return self.future.done() and self.future.exception() is not None

    def settled(self, deadline: Deadline) -> T:
        """What the call returned. Raises what it raised, or as `settle`."""
        settle([self], deadline)
        return self.value

    def result(self, deadline: Deadline) -> T:
        """What the call returned or raised. Raises Stopped, or TimeoutError at the deadline; the call then goes on."""
        while not self.future.done():
            deadline.check()
            if deadline.expired():
                raise TimeoutError
            wait([self.future], min(LOOK_SECONDS, deadline.remaining()))
        return self.future.result()


def settle(tasks: Sequence[Task[Any]], deadline: Deadline) -> None:
    """Waits until all *tasks* have ended well. Where one fails, stops the others and raises its error.

    Each task keeps the deadline by itself, as only it can say what it was waiting for; one that doesn't, as Docker or
    AWS hangs, is left behind CLEAR_SECONDS later. Raises Stopped, or AgentError.
    """
    futures = [task.future for task in tasks]
    waiting: set[Future[Any]] = set(futures)
    while waiting and not deadline.stop.is_set():
        done, waiting = wait(waiting, LOOK_SECONDS, FIRST_EXCEPTION)
        if any(future.exception() for future in done):
            deadline.stop.set()
        if waiting and deadline.overdue() > CLEAR_SECONDS:
            deadline.stop.set()
            raise AgentError(
                "the boot's time is over, and what was asked last does not answer",
                hint="See `systemctl status docker`.",
                cause="host",
                transient=True,
            )
    if deadline.stop.is_set():
        done, _ = wait(futures, CLEAR_SECONDS)  # for a build to be taken back, a part of a file to be removed
        errors = [future.exception() for future in futures if future in done]
        raise next((error for error in errors if error and not isinstance(error, Stopped)), Stopped())
