"""Requests, one after the other in several threads, until told to stop: what failed of them is told with its reason."""

import threading
import time
from types import TracebackType
from typing import Self

import requests

THREADS = 4
MOST = 20_000  # requests of a thread
PAUSE = 0.005  # seconds between two of a thread


class Load:
    """A context manager that keeps asking *url* and wants each answer to be 200."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.served = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """No more requests; returns when the last one is answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def serve(self, more: int, seconds: float = 30) -> None:
        """Waits until as many *more* were served."""
        deadline, before = time.monotonic() + seconds, self.served
        while self.served < before + more:
            assert time.monotonic() < deadline, f"{self.served - before} of {more} served, failed: {self.failed[:5]}"
            time.sleep(0.01)

    def _run(self) -> None:
        for _ in range(MOST):
            if self._stop.wait(PAUSE):
                return
            try:
                requests.get(self.url, timeout=10, headers={"Connection": "close"}).raise_for_status()
                self.served += 1
            except requests.RequestException as error:
                self.failed.append(f"{time.time():.3f} {error}")
