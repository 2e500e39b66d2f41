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

Order = Literal["drain", "reload"]
SIGNALS = {"drain": signal.SIGUSR1, "reload": signal.SIGHUP}
# In which phases it is of use; in the others it would be lost, or wait for somebody else's word.
PHASES = {
    "drain": ("booting", "in service", "restarting", "joining", "reloading", "standby", "warmed", "held", "drained"),
    "reload": ("in service", "restarting", "joining", "reloading", "drained", "held"),
}
ENDED = ("warmed", "standby", "drained", *status.ENDED)
LOOK_SECONDS = 0.1  # there is no stop event to heed, and Ctrl-C ends the wait, not what was asked for


def give(root: Root, order: Order) -> "Status | None":
    """Has the agent of *root* do it, and waits for its end: the status then; None where no agent runs.

    Raises AgentError where it can't be done or did not end well.
    """
    before = running(root)
    if before is None or before["agent"].get("mode") != "run":
        return None
    phase = before.get("phase")
    if phase not in PHASES[order]:
        raise AgentError(f"the agent is {phase}: there is nothing to {order} now", hint="See `adf-agent status`.")
    if order == "drain" and phase == "drained":
        return before
    try:
        os.kill(before["agent"]["pid"], SIGNALS[order])
    except ProcessLookupError:
        return None
    except PermissionError as error:
        raise AgentError("this user may not signal the agent", hint=f"sudo adf-agent {order}") from error
    return _ended(order, follow(root, lambda now: _is_over(order, now, before)))


def _is_over(order: Order, now: "Status", before: "Status") -> bool:
    if order == "reload" and now.get("reload") != before.get("reload"):
        return True
    moved = (now.get("phase"), now.get("since")) != (before.get("phase"), before.get("since"))
    # A reload tells its end by itself, but where it begins all over again.
    anew = order == "reload" and before.get("phase") in ("drained", "held")
    return moved and now.get("phase") in (("in service", *ENDED) if anew else ENDED)


def _ended(order: Order, now: "Status | None") -> "Status":
    if now is None:
        raise AgentError(f"the agent ended before the {order}", hint="See `adf-agent status`.")
    told = (now.get("reload") or {}) if order == "reload" else {}
    error, hint = told.get("error"), told.get("hint") or "See `adf-agent status`."
    if now.get("phase") in status.ENDED or (order == "drain" and now.get("phase") != "drained"):
        error = f"the {order} came to: {now.get('phase')}"
    if error:
        raise AgentError(error, hint=hint)
    return now


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
