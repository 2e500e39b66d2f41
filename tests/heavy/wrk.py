"""wrk (https://github.com/wg/wrk) as the users: so many connections, each asking again as soon as it is answered."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("figures.lua")
ANSWER_SECONDS = 10  # a request that takes longer has failed
END_SECONDS = 30.0


@dataclass(frozen=True)
class Figures:
    """What came of it; times in seconds. *failed*: not connected, cut, too late, or any status but 2xx and 3xx."""

    requests: int
    seconds: float
    failed: int
    p50: float
    p99: float
    longest: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds

    @classmethod
    def parse(cls, text: str) -> "Figures":
        """Of the line that figures.lua prints."""
        [line] = [line for line in text.splitlines() if line.startswith("figures ")]
        requests, micros, failed, *latencies = map(int, line.split()[1:])
        return cls(requests, micros / 1e6, failed, *(each / 1e6 for each in latencies))


@dataclass(frozen=True)
class Users:
    """*connections* to *url*, kept alive or a new one for each request."""

    url: str
    connections: int
    alive: bool

    def ask(self, seconds: int) -> Figures:
        return Figures.parse(self._start(seconds).communicate(timeout=seconds + END_SECONDS)[0])

    @contextmanager
    def asking(self, most: int) -> Iterator[list[Figures]]:
        """For as long as the context lasts, *most* seconds; what came of it is in the list afterwards."""
        figures: list[Figures] = []
        process = self._start(most)
        try:
            yield figures
            assert process.poll() is None, f"it took more than {most} s, or wrk has failed"
            process.send_signal(signal.SIGINT)  # it tells its figures
            figures.append(Figures.parse(process.communicate(timeout=END_SECONDS)[0]))
        finally:
            process.kill()
            process.communicate()

    def _start(self, seconds: int) -> "subprocess.Popen[str]":
        more = [] if self.alive else ["-H", "Connection: close"]
        command = ["wrk", "-t", "1", "-c", str(self.connections), "-d", f"{seconds}s", "-s", str(SCRIPT), *more]
        return subprocess.Popen(
            [*command, "--timeout", f"{ANSWER_SECONDS}s", self.url], stdout=subprocess.PIPE, text=True
        )
