"""What EC2 and Auto Scaling have in mind for this instance, as its metadata service tells: asked again and again."""

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from adf_agent.background import Task
from adf_agent.errors import AgentError, Stopped
from adf_agent.instance import Metadata

TARGET_SECONDS = 2.0  # a scale-in begins to take the instance from its load balancers at once
ALONE_SECONDS = 30.0  # outside a group, which it may be attached to
SPOT_SECONDS = 5.0  # as EC2 recommends: the notice comes two minutes ahead
REBALANCE_SECONDS = 30.0
log = structlog.get_logger()


@dataclasses.dataclass(frozen=True)
class Notices:
    """*target* is the state that the group moves the instance to, None outside a group.

    *spot_time* is when a spot instance ends (ISO 8601), "" without a notice.
    """

    target: str | None = None
    spot_time: str = ""
    rebalance: bool = False


class Watch:
    """Keeps `seen` up to date in a thread of its own, until *stop*; *changed* is called when it has changed.

    A metadata service that fails changes nothing: the last word counts until the next.
    """

    def __init__(
        self,
        metadata: Metadata,
        changed: Callable[[], object],
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seen = Notices()
        self.asked = threading.Event()  # once at least, well or not
        self._metadata, self._changed, self._stop, self._clock = metadata, changed, stop, clock
        self._silent: set[str] = set()
        self._spot: bool | None = None
        self._due: dict[str, float] = {}
        self._task = Task(self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except Exception:  # the thread's boundary: without it no later notice is seen
                log.exception("unexpected")
            self.asked.set()
            self._stop.wait(max(0.05, min(self._due.values()) - self._clock()))

    def _look(self) -> None:
        found = dataclasses.replace(
            self.seen,
            target=self._ask("target", TARGET_SECONDS, self._target, self.seen.target),
            spot_time=self._ask("spot", SPOT_SECONDS, self._spot_time, self.seen.spot_time),
            rebalance=self._ask("rebalance", REBALANCE_SECONDS, self._is_rebalanced, self.seen.rebalance),
        )
        if found != self.seen:
            log.info("notice", **dataclasses.asdict(found))
            self.seen = found
            self._changed()

    def _ask(self, what: str, every: float, call: Callable[[], Any], known: Any) -> Any:
        if self._clock() < self._due.get(what, 0.0):
            return known
        self._due[what] = self._clock() + every
        try:
            answer = call()
        except (AgentError, Stopped) as error:
            if not self._silent:
                log.warning("imds.silent", reason=str(error))
            self._silent.add(what)
            return known
        if what in self._silent:
            self._silent.discard(what)
            if not self._silent:
                log.info("imds.answers")
        return answer

    def _target(self) -> str | None:
        target = self._metadata.lifecycle_target()
        if target is None:
            self._due["target"] += ALONE_SECONDS - TARGET_SECONDS
        return target

    def _spot_time(self) -> str:
        if not self._is_spot():
            return ""
        notice = self._metadata.spot_action()
        return str(notice.get("time") or "at an unknown time") if notice else ""

    def _is_rebalanced(self) -> bool:
        return self._is_spot() and self._metadata.rebalance() is not None

    def _is_spot(self) -> bool:
        if self._spot is None:
            self._spot = self._metadata.is_spot()
        return self._spot
