"""An operator's word that a failing instance be kept for a person: until when, told by a file."""

import contextlib
import time

from adf_agent.errors import AgentError
from adf_agent.root import Root
from adf_agent.state import write

DEFAULT_SECONDS = 7200.0  # under `ADF_ON_FAILURE=hold`: long enough for a person to come, and to prolong it


def uptime() -> float:
    """Seconds since the machine's boot, its suspensions included: no change of the wall clock moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def begin(root: Root, seconds: float) -> None:
    """Keeps a failing instance for *seconds* from now. Raises AgentError."""
    try:
        write(root.hold, f"{uptime() + seconds:.0f}\n".encode(), 0o644)
    except AgentError as error:
        if isinstance(error.__cause__, PermissionError):
            raise AgentError(error.sentence, hint=f"sudo adf-agent hold {seconds:.0f}s", cause="host") from error
        raise


def end(root: Root) -> None:
    """Lets go. Raises AgentError."""
    try:
        root.hold.unlink(missing_ok=True)
    except OSError as error:
        raise AgentError(f"{root.hold} can't be removed: {error.strerror}", hint="sudo adf-agent hold --off") from error


def left(root: Root) -> float:
    """Seconds that a failing instance is kept yet; 0 where nobody asked for it."""
    with contextlib.suppress(OSError, ValueError):
        return max(0.0, float(root.hold.read_text()) - uptime())
    return 0.0
