"""An operator's own command that judges the canary, beside the roll that goes on."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Self

from adf_agent.ops.rolling.canary import Checked

CHUNK = 65536  # bytes that are shown at a time; a flood is not shown whole


class Check:
    """A context manager; *command*, "" for none, is a shell's. What still runs at the end of it is killed."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__; a pipe would stall what is not read
        self._shown = 0  # bytes of it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._said.close()
        if not self._process:
            return
        with suppress(ProcessLookupError):  # all of its group has ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def start(self, environment: Mapping[str, str]) -> None:
        """Starts it, if there is one, with *environment* added to ours, in a group of its own: Ctrl-C is for us."""
        if not self._command:
            return
        self._process = subprocess.Popen(  # noqa: S602  the operator's own words are a shell's
            self._command,
            shell=True,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def result(self) -> Checked:
        if not self._command:
            return "none"
        code = self._process.poll() if self._process else None
        return "running" if code is None else "failed" if code else "passed"

    def output(self) -> str:
        """What it has printed since the last time."""
        said = os.pread(self._said.fileno(), CHUNK, self._shown)
        self._shown += len(said)
        return said.decode(errors="replace")


def told(ids: Sequence[str], release: str) -> dict[str, str]:
    """What a check is told by its environment: the canaries' instance ids, with blanks between, and the release."""
    return {"ADF_CANARY": " ".join(ids), "ADF_RELEASE": release}
