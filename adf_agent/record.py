"""The boot as `adf-agent status` reads it: every stage written down before it starts and when it ends."""

import grp
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import structlog

from adf_agent import __version__
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
        self._reasons: dict[str, str] = {}
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
            "stages": [],
        }
        self._save()

    def add(self, **parts: Any) -> None:
        """Sets top-level parts of the record and writes it."""
        with self._lock:
            if parts.get("phase", self._parts["phase"]) != self._parts["phase"]:
                self._parts["since"] = self._wall()
            self._parts.update(parts)
            self._write()

    def listen(self, listener: Listener) -> None:
        """Hands every later state of the record to *listener*, which must neither block nor change it."""
        self._listeners.append(listener)

    @property
    def phase(self) -> str:
        return str(self._parts["phase"])

    def degrade(self, *reasons: str) -> None:
        """Adds *reasons* why this instance serves less well than it should, for good."""
        for reason in reasons:
            self.trouble(reason, reason)

    def trouble(self, what: str, reason: str) -> None:
        """Degrades by *reason* for as long as *what* lasts; with "" it is over."""
        shown = self.mask(reason)
        with self._lock:
            former = self._reasons.get(what, "")
            if shown == former:
                return
            self._reasons[what] = shown
            self._parts["degraded"] = list(filter(None, self._reasons.values()))
            self._write()
        log.warning("degraded", reason=shown) if shown else log.info("mended", reason=former)

    def begin(self) -> None:
        """The stages of a new beginning follow; those of the former are over."""
        self.add(stages=[], error=None, drain=None)

    def fail(self, error: AgentError, phase: str = "failed") -> None:
        """Writes down why the boot ended; the app's or the build's last lines apart, for fewer eyes."""
        sentence, hint = self.mask(error.sentence), self.mask(error.hint)
        parts = {"stage": error.stage, "cause": error.cause, "sentence": sentence, "hint": hint}
        log.error("boot.failed", **parts, exit_code=error.exit_code)
        self.keep(error.log_tail)
        with self._lock:
            for entry in self._parts["stages"]:
                entry.update(state="stopped" if entry["state"] == "running" else entry["state"])
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
        entry: dict[str, Any] = {"name": name, "state": "running", "started": self._wall()}
        with self._lock:
            self._parts["stages"].append(entry)
            self._write()
        began = time.monotonic()
        with structlog.contextvars.bound_contextvars(stage=name):
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

    def _save(self) -> None:
        write(self._root.status, json.dumps(self._parts, ensure_ascii=False, indent=1).encode(), 0o644)

    def _write(self) -> None:
        try:
            self._save()
        except AgentError as error:
            log.warning("status.not_written", reason=error.sentence)  # a full disk must not end what serves
        for listener in self._listeners:
            listener(self._parts)


def _outcome(name: Stage, error: BaseException) -> str:
    """A stage's state after *error*: it was stopped where it, or a stage that it waited for, was."""
    elsewhere = isinstance(error, AgentError) and error.stage not in (name, "agent")
    return "stopped" if elsewhere or isinstance(error, Stopped) else "failed"
