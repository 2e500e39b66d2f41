"""A call that may hang, given the time that a command has."""

from collections.abc import Callable
from typing import TypeVar

from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.errors import ReleaseError

T = TypeVar("T")


def attempt(call: Callable[[], T], deadline: Deadline) -> T:
    """The answer of *call*, in a thread of its own: what hangs holds up neither deadline nor stop. Raises Stopped."""
    try:
        return Task(call).result(deadline)
    except TimeoutError as error:
        raise ReleaseError(
            "the release was not finished in time",
            hint="See the network, or give it more time: --timeout; the same command begins again.",
            cause="dependency",
            transient=True,
        ) from error
