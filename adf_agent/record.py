"""The boot as `adf-agent status` reads it: every stage written down before it starts and when it ends."""

import grp
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog

from adf_agent import __version__, history
from adf_agent.deadline import retried
from adf_agent.errors import AgentError, Stage, Stopped
from adf_agent.mask import Mask
from adf_agent.root import Root, boot_id, started
from adf_agent.state import write

SCHEMA = 1
log = structlog.get_logger()


class HasFact(Protocol):
    @property
    def fact(self) -> str:
        """A few words on what the stage came to, for the status screen; no secret."""


T = TypeVar("T", bound=HasFact)
Listener = Callable[[Mapping[str, Any]], object]


class Record:
    """/run/adf-agent/status.json: schema 1, world-readable, no secret and no app output in it."""

    def __init__(self, root: Root, mode: str, wall: Callable[[], float] = time.time) -> None:
        self._root = root
        self._wall = wall
        self._lock = threading.Lock()
        self._troubles: dict[str, dict[str, Any]] = {}
        # Not by the wall clock, which is often set while a machine boots; what comes before the first stage counts.
        self._began = started(os.getpid()) / os.sysconf("SC_CLK_TCK")
        self._listeners: list[Listener] = []
        self.mask = Mask()
        self.tail = ""  # the last lines that were kept
        self._parts: dict[str, Any] = {
            "schema": SCHEMA,
            "version": __version__,
            "agent": {"pid": os.getpid(), "started": started(os.getpid()), "boot_id": boot_id(), "mode": mode},
            "phase": "booting",
            "since": wall(),
            "degraded": [],
            "troubles": [],
            "stages": [],
        }
        self._write()

    def add(self, **parts: Any) -> None:
        """Sets top-level parts of the record and writes it."""
        with self._lock:
            former, phase = self._parts["phase"], parts.get("phase", self._parts["phase"])
            if phase != former:
                self._parts["since"] = self._wall()
            self._parts.update(parts)
            self._write()
            if former == "booting" != phase and self._has_booted(phase):
                seconds = self._at()
                history.keep(self._root, {**self._parts, "began": self._wall() - seconds, "seconds": seconds})

    def _has_booted(self, phase: str) -> bool:
        """Whether that was a boot, and not the adoption of what an earlier one has started."""
        return phase in ("failed", "held") or any(stage["name"] == "image" for stage in self._parts["stages"])

    def listen(self, listener: Listener) -> None:
        """Hands every later state of the record to *listener*, which must neither block nor change it."""
        self._listeners.append(listener)

    def part(self, name: str) -> Any:
        """A top-level part of the record, None where there is none."""
        return self._parts.get(name)

    @property
    def phase(self) -> str:
        return str(self._parts["phase"])

    def degrade(self, reason: str, hint: str = "") -> None:
        """Adds a *reason* why this instance serves less well than it should, for good."""
        self.trouble(reason, reason, hint)

    def trouble(self, what: str, reason: str, hint: str = "") -> None:
        """Degrades by *reason* for as long as *what* lasts; with "" it is over. *hint*: the next command, or step."""
        shown = self.mask(reason)
        with self._lock:
            former = self._troubles.pop(what, None)
            if shown:
                since = former["since"] if former else self._wall()
                self._troubles[what] = {"reason": shown, "since": since, "hint": self.mask(hint)}
            if shown == (former["reason"] if former else ""):
                return
            troubles = list(self._troubles.values())
            self._parts.update(troubles=troubles, degraded=[each["reason"] for each in troubles])
            self._write()
        log.warning("degraded", reason=shown) if shown else log.info("mended", reason=former and former["reason"])

    def probed(self, probe: object, answer: str, *, healthy: bool) -> None:
        """Writes down the *answer* of the *probe*, whose path may hold a token, as the answer may that names it."""
        self.add(probe={"probe": self.mask(str(probe)), "answer": self.mask(answer), "healthy": healthy})

    def begin(self) -> None:
        """The stages of a new beginning follow; those of the former are over."""
        self._began = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.add(stages=[], error=None, drain=None)

    def fail(self, error: AgentError, phase: str = "failed") -> None:
        """Writes down why the boot ended; the app's or the build's last lines apart, for fewer eyes."""
        sentence, hint = self.mask(error.sentence), self.mask(error.hint)
        parts = {"stage": error.stage, "cause": error.cause, "sentence": sentence, "hint": hint}
        log.error("boot.failed", **parts, exit_code=error.exit_code)
        self.keep(error.log_tail)
        with self._lock:
            for entry in self._parts["stages"]:
                if entry["state"] == "running":
                    entry.update(state="stopped", seconds=round(self._at() - entry["at"], 3))
        self.add(phase=phase, error={**parts, "exit_code": error.exit_code, "lines": len(error.log_tail)})

    def keep(self, lines: Iterable[str]) -> None:
        """Keeps the app's or the build's last *lines*, masked, for root and adm; not on a full disk."""
        self.tail = self.mask("".join(f"{line}\n" for line in lines))
        try:
            write(self._root.tail, self.tail.encode(errors="replace"), 0o640)
        except AgentError as error:  # it must not hide the reason: /run is in memory
            log.warning("last_lines.not_written", reason=error.sentence)
            return
        with suppress(KeyError, PermissionError):  # no such group, or not a member of it: the agent and root are left
            os.chown(self._root.tail, -1, grp.getgrnam("adm").gr_gid)

    def stage(self, name: Stage, call: Callable[[], T]) -> T:
        """The value of *call*, with the stage's start, end, seconds and fact recorded and logged."""
        entry: dict[str, Any] = {"name": name, "state": "running", "started": self._wall(), "at": self._at()}
        with self._lock:
            self._parts["stages"].append(entry)
            self._write()
        began = time.monotonic()
        with structlog.contextvars.bound_contextvars(stage=name), _told(partial(self._retried, entry)):
            log.info("stage.started")
            try:
                value = call()
            except BaseException as error:
                self._end(entry, _outcome(name, error), "", began)  # fail() says why, once
                raise
            self._end(entry, "done", value.fact, began)
        return value

    def _end(self, entry: dict[str, Any], state: str, fact: str, began: float) -> None:
        parts = {"state": state, "seconds": round(time.monotonic() - began, 3), "fact": self.mask(fact)}
        log.info("stage.finished", **parts)
        with self._lock:
            entry.update(parts)
            self._write()

    def _retried(self, entry: dict[str, Any], seconds: float, reason: str) -> None:
        """Adds a try that failed to the stage's *entry*: how many, how long they were waited for, and why the last."""
        former = entry.get("retries", {"number": 0, "seconds": 0.0})
        number, waited = former["number"] + 1, round(former["seconds"] + seconds, 2)
        with self._lock:
            entry["retries"] = {"number": number, "seconds": waited, "reason": self.mask(reason)}
            self._write()

    def _at(self) -> float:
        """Seconds since this beginning: the first is that of the process."""
        return round(time.clock_gettime(time.CLOCK_BOOTTIME) - self._began, 3)

    def _write(self) -> None:
        data = json.dumps(self._parts, ensure_ascii=False, indent=1).encode(errors="replace")
        try:
            write(self._root.status, data, 0o644)
        except AgentError as error:
            if not _overwritten(self._root.status, data):
                log.warning("status.not_written", reason=error.sentence)  # a full disk must not end what serves
        for listener in self._listeners:
            listener(self._parts)


def _overwritten(path: Path, data: bytes) -> bool:
    """Whether *data* took the place that *path* has on a full disk, for a status that goes on telling the truth.

    A reader that comes between finds it torn, and looks again.
    """
    with suppress(OSError), path.open("r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_blocks * 512 >= len(data):  # in units of 512 bytes (stat(2)): none is needed
            file.write(data)
            file.truncate()
            return True
    return False


@contextmanager
def _told(tell: Callable[[float, str], object]) -> Iterator[None]:
    """What is tried again meanwhile is told to *tell*."""
    token = retried.set(tell)
    try:
        yield
    finally:
        retried.reset(token)


def _outcome(name: Stage, error: BaseException) -> str:
    """A stage's state after *error*: it was stopped where it, or a stage that it waited for, was."""
    elsewhere = isinstance(error, AgentError) and error.stage not in (name, "agent")
    return "stopped" if elsewhere or isinstance(error, Stopped) else "failed"
