"""Requests that never stop: what a roll must not lose one of."""

import http.client
import threading
from typing import Self
from urllib.parse import urlsplit

THREADS = 2
PAUSE = 0.02  # seconds between two requests of a thread
MOST = 100_000  # of each thread: a loop that is bounded, though nobody ends it
ANSWER_SECONDS = 10.0


class Traffic:
    """A context manager: `GET /` of *url*, each on a connection of its own, counted as served (200) or failed."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc
        self.answers: dict[str, int] = {}  # by what was answered, less the instance's id
        self.failed: list[str] = []  # why
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, name="traffic") for _ in range(THREADS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def served(self) -> int:
        return sum(self.answers.values())

    def _run(self) -> None:
        for _ in range(MOST):
            if self._stop.wait(PAUSE):
                return
            connection = http.client.HTTPConnection(self._address, timeout=ANSWER_SECONDS)
            try:
                connection.request("GET", "/", headers={"Connection": "close"})
                response = connection.getresponse()
                self._count(response.status, response.read().decode(errors="replace").strip())
            except (OSError, http.client.HTTPException) as error:
                self._count(0, f"{type(error).__name__}: {error}")
            finally:
                connection.close()

    def _count(self, status: int, said: str) -> None:
        with self._lock:
            if status == http.client.OK:
                answer = said.rpartition(" on ")[0] or said
                self.answers[answer] = self.answers.get(answer, 0) + 1
            else:
                self.failed.append(said if not status else f"HTTP {status}: {said[:80]}")
