"""What an operator has the running agent do, and how that went: asked for by a signal, followed in its status."""

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from adf_agent import status
from adf_agent.errors import AgentError
from adf_agent.root import Root, boot_id, started

if TYPE_CHECKING:
    from adf_agent.status import Status

SIGNALS = {"drain": signal.SIGUSR1, "reload": signal.SIGHUP}
LOOK_SECONDS = 0.1  # there is no stop event to heed, and Ctrl-C ends the wait, not what was asked for


def give(root: Root, what: Literal["drain", "reload"]) -> "Status | None":
    """Asks the agent of *root*; returns its status before that, None where none runs. Raises AgentError."""
    found = running(root)
    if found is None or found["agent"].get("mode") != "run":
        return None
    try:
        os.kill(found["agent"]["pid"], SIGNALS[what])
    except ProcessLookupError:
        return None
    except PermissionError as error:
        raise AgentError("this user may not signal the agent", hint=f"sudo adf-agent {what}") from error
    return found


def running(root: Root) -> "Status | None":
    """The status of the agent that runs, None where none does. Raises AgentError."""
    try:
        found = status.read(str(root.status))
    except (OSError, ValueError) as error:
        raise AgentError(f"the status can't be read: {error}", hint=f"See {root.status}.", cause="host") from error
    return found if found and status.alive(found, boot_id(), started) else None


def follow(root: Root, ended: "Callable[[Status], bool]") -> "Status | None":
    """The status as soon as *ended* says so of it; None where the agent ends before."""
    while found := running(root):
        if ended(found):
            return found
        time.sleep(LOOK_SECONDS)
    return None
