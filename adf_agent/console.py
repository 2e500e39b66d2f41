"""How a command speaks and ends: errors as a sentence and a hint, on standard error, and their exit codes."""

import errno
import signal
import sys
import threading
from collections.abc import Callable

from adf_agent.errors import AgentError, Stopped

UNWRITABLE = {errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT}


def ended(command: str, call: Callable[[], int], extra: str = "", hide: Callable[[str], str] = str) -> int:
    """The exit code of *call*, which is *command*'s; its modules may be in the package's *extra*.

    Errors are said as *hide* shows them.
    """
    try:
        return _answered(command, call)
    except AgentError as error:
        explain(command, *map(hide, filter(None, [error.sentence, error.hint])))
        return error.exit_code
    except Stopped:
        explain(command, "stopped")
        return 128 + signal.SIGINT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        sys.stderr.close()  # somebody's `head`; nothing is left to say, and Python would complain at its exit
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith(__package__):
            raise
        explain(command, f"{error.name} is missing: install the extra `{extra}`", f"pip install 'adf-agent[{extra}]'")
        return 1


def _answered(command: str, call: Callable[[], int]) -> int:
    """The exit code of *call*, once standard output has taken its answer."""
    try:
        code = call()
        if sys.stdout:  # none where it is closed
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename:
            raise
        explain(command, f"the answer can't be written: {error.strerror}", "What was to be done is done.")
        sys.stdout = None  # Python would try again at its exit
        return 1
    return code


def explain(command: str, sentence: str, *hints: str) -> None:
    """To standard error: standard output is for a command's answer."""
    print(f"{command}: {sentence}", *hints, sep="\n  → ", file=sys.stderr, flush=True)


def stopping() -> threading.Event:
    """An event that Ctrl-C, SIGTERM and a terminal's end set; a second one changes nothing.

    An event, not an exception: what was started is known when it is taken away. Below `nohup` a terminal may end.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.set())
    return stop
