"""The boot as `adf-agent status` reads it: every stage written down before it starts and when it ends."""

import grp
import json
import os
import threading
import time
from collections.abc import Callable, Iterable
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


class Record:
    """/run/adf-agent/status.json: schema 1, world-readable, no secret and no app output in it."""

    def __init__(self, root: Root, mode: str, wall: Callable[[], float] = time.time) -> None:
        self._root = root
        self._wall = wall
        self._lock = threading.Lock()
        self.mask = Mask()
        self._parts: dict[str, Any] = {
            "schema": SCHEMA,
            "version": __version__,
            "agent": {"pid": os.getpid(), "started": started(os.getpid()), "boot_id": boot_id(), "mode": mode},
            "phase": "booting",
            "since": wall(),
            "degraded": [],
            "stages": [],
        }
        self._write()

    def add(self, **parts: Any) -> None:
        """Sets top-level parts of the record and writes it."""
        with self._lock:
            if parts.get("phase", self._parts["phase"]) != self._parts["phase"]:
                self._parts["since"] = self._wall()
            self._parts.update(parts)
            self._write()

    def degrade(self, *reasons: str) -> None:
        """Adds *reasons* why this instance serves less well than it should."""
        shown = [self.mask(reason) for reason in reasons]
        for reason in shown:
            log.warning("degraded", reason=reason)
        self._append("degraded", *shown)

    def fail(self, error: AgentError) -> None:
        """Writes down why the boot ended; the app's or the build's last lines apart, for fewer eyes."""
        sentence, hint = self.mask(error.sentence), self.mask(error.hint)
        parts = {"stage": error.stage, "cause": error.cause, "sentence": sentence, "hint": hint}
        log.error("boot.failed", **parts, exit_code=error.exit_code)
        with suppress(AgentError):  # a full disk must not hide the reason: /run is in memory
            self._keep(error.log_tail)
        with self._lock:
            for entry in self._parts["stages"]:
                entry.update(state="stopped" if entry["state"] == "running" else entry["state"])
        self.add(phase="failed", error={**parts, "exit_code": error.exit_code, "lines": len(error.log_tail)})

    def _keep(self, lines: Iterable[str]) -> None:
        tail = self.mask("".join(f"{line}\n" for line in lines))
        write(self._root.tail, tail.encode(errors="replace"), 0o640)
        with suppress(KeyError, PermissionError):  # no such group, or not a member of it: the agent and root are left
            os.chown(self._root.tail, -1, grp.getgrnam("adm").gr_gid)

    def stage(self, name: Stage, call: Callable[[], T]) -> T:
        """The value of *call*, with the stage's start, end, seconds and fact recorded and logged."""
        entry: dict[str, Any] = {"name": name, "state": "running", "started": self._wall()}
        self._append("stages", entry)
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

    def _append(self, part: str, *entries: Any) -> None:
        with self._lock:
            self._parts[part].extend(entries)
            self._write()

    def _write(self) -> None:
        write(self._root.status, json.dumps(self._parts, ensure_ascii=False, indent=1).encode(), 0o644)


def _outcome(name: Stage, error: BaseException) -> str:
    """A stage's state after *error*: it was stopped where it, or a stage that it waited for, was."""
    elsewhere = isinstance(error, AgentError) and error.stage not in (name, "agent")
    return "stopped" if elsewhere or isinstance(error, Stopped) else "failed"
