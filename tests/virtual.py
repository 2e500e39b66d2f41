"""Virtual time: threads whose waits cost none, so that an hour of a thousand agents takes seconds."""

import _thread
import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self
from unittest.mock import patch

STACK_BYTES = 256 * 1024  # of a thread: there are thousands


class _Turn:
    """A thread that waits for its turn to run. *woken* is None until it is its turn, False where its time ran out."""

    def __init__(self) -> None:
        self.woken: bool | None = None
        self.baton = _thread.allocate_lock()
        self.baton.acquire()


class VirtualTime:
    """A context manager. Within it, the threads that `threading` starts, and this one, run in virtual time.

    One of them runs at a time, from one wait to the next: a wait of its own (`sleep`), or any on a Condition, Event or
    Future that was made within. Once all of them wait, the clock moves on to the first whose time is over. So the same
    program does the same every time, and no code needs to know of it, but that the clock is a value of this: `clock()`.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.running = 0  # threads that have not ended
        self._ready: deque[_Turn] = deque()
        self._timers: list[tuple[float, int, _Turn]] = []
        self._order = itertools.count()
        self._stack = ExitStack()

    def __call__(self) -> float:
        """Seconds since the beginning."""
        return self.now

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(threading.stack_size, threading.stack_size(STACK_BYTES))
            for name, substitute in (("Condition", self._condition()), ("Thread", self._thread())):
                stack.enter_context(patch.object(threading, name, substitute))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def sleep(self, seconds: float) -> None:
        self.wait(_Turn(), seconds)

    def wait(self, turn: _Turn, seconds: float | None) -> None:
        """Lets the others run until somebody wakes *turn*, or *seconds* have passed."""
        if seconds is not None:
            heapq.heappush(self._timers, (self.now + max(0.0, seconds), next(self._order), turn))
        self._pass_on()
        turn.baton.acquire()

    def wake(self, turn: _Turn) -> None:
        turn.woken = True
        self._ready.append(turn)

    def start(self, call: Callable[[], object]) -> None:
        """Has a thread of its own *call*, which must not raise, as soon as this one waits."""
        turn = _Turn()
        self.running += 1
        self.wake(turn)
        _thread.start_new_thread(self._run, (turn, call))

    def _run(self, turn: _Turn, call: Callable[[], object]) -> None:
        turn.baton.acquire()
        try:
            call()
        finally:
            self.running -= 1
            self._pass_on()

    def _pass_on(self) -> None:
        """The next one's turn."""
        while not self._ready:
            assert self._timers, "every thread waits, and none for a time"
            when, _, turn = heapq.heappop(self._timers)
            if turn.woken is None:
                self.now, turn.woken = when, False
                self._ready.append(turn)
        self._ready.popleft().baton.release()

    def _condition(self) -> type:
        clock = self

        class Condition(threading.Condition):
            def wait(self, timeout: float | None = None) -> bool:
                turn, waiting = _Turn(), self.__dict__.setdefault("waiting", deque())
                waiting.append(turn)
                saved = self._release_save()  # type: ignore[attr-defined]
                clock.wait(turn, timeout)
                self._acquire_restore(saved)  # type: ignore[attr-defined]
                if not turn.woken:
                    waiting.remove(turn)
                return bool(turn.woken)

            def notify(self, n: int = 1) -> None:
                waiting: deque[_Turn] = self.__dict__.get("waiting", deque())
                for turn in [each for each in waiting if each.woken is None][:n]:
                    waiting.remove(turn)
                    clock.wake(turn)

            def notify_all(self) -> None:
                self.notify(len(self.__dict__.get("waiting", ())))

        return Condition

    def _thread(self) -> type:
        clock = self

        class Thread:
            def __init__(self, *, target: Callable[..., object], args: Any = (), daemon: bool = True) -> None:
                assert daemon
                self._call = lambda: target(*args)

            def start(self) -> None:
                clock.start(self._call)

        return Thread
