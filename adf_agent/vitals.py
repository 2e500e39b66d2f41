"""How host and app are while they serve: engine and probe answer, the disk has room, the container runs."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from adf_agent import container, probing
from adf_agent.background import Task
from adf_agent.engine import ANSWER_SECONDS, FAULTS
from adf_agent.errors import AgentError, ContainerError
from adf_agent.host import Host
from adf_agent.record import Record
from adf_agent.serving import Service

HOST_SECONDS = 10.0  # between two looks at the host
LEAST_FREE_BYTES = 16 << 20  # with less, neither the app's log nor the agent's state can be written
ENGINE_SECONDS = 0.5  # between two tries to reach an engine that broke off
log = structlog.get_logger()


class ExitWatch:
    """Sees by Docker's own wait that *service*'s container has ended; *changed* is called then.

    A wait that is broken off says that the engine went away, not that the app did: the container is looked at again.
    """

    def __init__(self, service: Service, changed: Callable[[], object], stop: threading.Event) -> None:
        self.exited = False
        self._service, self._changed, self._stop = service, changed, stop
        Task(self._run)

    def _run(self) -> None:
        name = self._service.container.id
        while not self._stop.is_set():
            try:
                container.wait_for_exit(self._service.client, name)
                ended = not container.running(self._service.client, name)  # a wait may have begun before its start
            except ContainerError as error:
                if error.transient:
                    self._stop.wait(ENGINE_SECONDS)
                    continue
                ended = True  # somebody removed it
            if ended and not self._stop.is_set():
                log.warning("container.ended", container=name[:12])
                self.exited = True
                self._changed()
                return


class Vitals:
    """Looks at the host, and while there is a *service* at the app, in a thread of its own until *stop*.

    `host` says what is wrong with the host, "" for nothing. An app that does not answer its probe is degraded and no
    more: overload, and the outage of what it depends on, look the same from here.
    """

    def __init__(self, host: Host, record: Record, changed: Callable[[], object], stop: threading.Event) -> None:
        self.host = ""
        self.service: Service | None = None
        self._host, self._record, self._changed, self._stop = host, record, changed, stop
        self._client: Any = None  # Docker's, with a patience of its own
        self._due, self._bad = 0.0, 0
        Task(self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            service = self.service
            try:
                self._look(service)
            except (AgentError, OSError) as error:
                log.warning("vitals.not_seen", reason=str(error))
            self._stop.wait(service.manifest.health.interval if service else HOST_SECONDS)

    def _look(self, service: Service | None) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + HOST_SECONDS
            self._look_at_host()
        if service:
            self._look_at_app(service)

    def _look_at_host(self) -> None:
        engine = self._engine()
        found = engine or self._disk()
        hint = "sudo journalctl -u docker -n 50" if engine else f"df -h {self._host.root.var}"
        if found != self.host:
            self.host = found
            self._changed()
            self._record.trouble("host", found, hint)

    def _engine(self) -> str:
        try:
            self._client = self._client or self._host.docker(ANSWER_SECONDS)
            self._client.ping()
        except FAULTS as error:
            return f"Docker does not answer ({type(error).__name__})"
        return ""

    def _disk(self) -> str:
        folder = self._host.root.var
        return f"{folder} has no space left" if free(folder) < LEAST_FREE_BYTES else ""

    def _look_at_app(self, service: Service) -> None:
        wishes = service.manifest.health
        answer = probing.asker(service.client, service.container, service.probe, wishes.timeout)()
        former, self._bad = self._bad, 0 if answer.healthy else self._bad + 1
        turned = former >= wishes.unhealthy_threshold if answer.healthy else self._bad == wishes.unhealthy_threshold
        if turned:
            trouble = "" if answer.healthy else f"the app does not answer its probe: {answer.text}"
            self._record.trouble("probe", trouble, "adf-agent logs")
            self._record.probed(service.probe, answer.text, healthy=answer.healthy)


def free(folder: Path) -> int:
    """Bytes free for this user where *folder* lies."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize
