"""What a boot that failed takes back: the container that it has started, and no other."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from adf_agent import container, engine
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.engine import Engine
from adf_agent.errors import AgentError
from adf_agent.stages import Stages

STOP_SECONDS = 10.0  # for a container that never was in service: no request is in it
UNDO_SECONDS = 15.0  # for all that is undone after a failure, also where Docker hangs
log = structlog.get_logger()


@contextmanager
def on_failure(do: Stages, docker: Task[Engine]) -> Iterator[None]:
    """Takes the container away where what is done meanwhile fails, within a time of its own; but under `hold`.

    One that an agent started and left in a crash goes too; one that has been in service stays.
    """
    try:
        yield
    except BaseException as error:
        if not former_serves(do) and not (do.is_held() and isinstance(error, AgentError)):
            undo(do, docker)
        raise


def former_serves(do: Stages) -> bool:
    """Whether what runs is a container that had been in service before this boot: no failure takes it away."""
    return do.ledger.state.in_service and do.ledger.state.standing == "joined"


def undo(do: Stages, docker: Task[Engine] | None) -> None:
    """Stops and removes the container, whatever state it is in; where Docker hangs, the log says that it stays."""
    window = Deadline(UNDO_SECONDS, threading.Event())

    def removed() -> None:
        ready = docker is not None and docker.done() and not docker.failed()
        reached = docker.value if docker and ready else engine.connect(do.host.docker, window)
        stop(do, reached, STOP_SECONDS)

    try:
        Task(removed).result(window)
    except (AgentError, TimeoutError) as error:  # why the boot failed is what counts
        log.warning("container.not_removed", container=do.container_name(), reason=str(error))
    do.ledger.note_if_possible(in_service=False)
    do.record.add(container=None)


def stop(do: Stages, reached: Engine, timeout: float) -> None:
    """Stops and removes the container, also one that a crash left without a note."""
    for name in filter(None, (do.ledger.state.container_id, do.container_name())):
        container.stop(reached.client, name, timeout)
