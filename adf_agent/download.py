"""A release's bytes: one file, hashed as they come; resumed only where it is proven to be the same object."""

import errno
import hashlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol

from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.errors import ReleaseError

CHUNK = 1 << 20  # bytes; large enough that Python's share of a download is small


@dataclass(frozen=True)
class Body:
    """An object's bytes from *offset* on. *total* is the whole object's size, None where nobody says.

    *proof* identifies this very object when more of it is asked for; empty where nothing does. Close *chunks*.
    """

    chunks: Generator[bytes]
    offset: int
    total: int | None
    proof: str


class Source(Protocol):
    def open(self, offset: int, proof: str) -> Body:
        """The bytes from *offset* where the object is still the one of *proof*, else all. Raises ReleaseError."""


@dataclass(frozen=True)
class Fetched:
    digest: str  # SHA-256, 64 hex digits
    size: int  # bytes


def fetch(source: Source, path: Path, deadline: Deadline) -> Fetched:
    """Downloads *source* to *path* (mode 0600), retried until the deadline. Raises ReleaseError, leaving no file."""
    part = _Part(path)
    try:
        deadline.retry(lambda: _attempt(part, source, deadline))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Fetched(part.hash.hexdigest(), part.size)


def _attempt(part: "_Part", source: Source, deadline: Deadline) -> None:
    """In a thread of its own: a server that is silent, or sends a byte a second, holds up neither deadline nor stop."""
    try:
        Task(lambda: part.take(source, deadline)).result(deadline)
    except TimeoutError as error:
        raise part.late() from error


class _Part:
    """What has come so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._proof = ""
        self.size = 0
        self.hash = hashlib.sha256()
        with _writing(path):
            path.unlink(missing_ok=True)
            path.touch(0o600, exist_ok=False)

    def take(self, source: Source, deadline: Deadline) -> None:
        body = source.open(self.size if self._proof else 0, self._proof)
        # Opened anew, never created: an attempt that was left behind finds its file gone, and nobody else's.
        with closing(body.chunks), _writing(self._path), self._path.open("r+b", buffering=0) as file:
            if body.offset != self.size:
                file.truncate(0)
                self.size, self.hash = 0, hashlib.sha256()
            file.seek(self.size)
            self._proof = body.proof
            for chunk in body.chunks:
                self._add(file, chunk)
                deadline.check()
                if deadline.expired() and self.size != body.total:
                    raise self.late()
        if body.total is not None and self.size != body.total:
            raise broken(f"it broke off after {self.size} of {body.total} bytes")

    def _add(self, file: FileIO, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:  # a disk that is nearly full takes a part of it, without an error
            rest = rest[file.write(rest) :]
        self.hash.update(chunk)
        self.size += len(chunk)

    def late(self) -> ReleaseError:
        return broken(f"it was not finished in time, but {self.size} bytes of it")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ReleaseError(
            "the disk is full" if full else f"the release can't be written: {error.strerror}",
            hint=f"Give the instance a larger volume; the release is kept in {path.parent}."
            if full
            else "See the state folder and its file system.",
            cause="host",
        ) from error


def broken(why: str) -> ReleaseError:
    """A download that may go well the next time."""
    return ReleaseError(
        f"the download failed: {why}",
        hint="See that the server is up and can be reached.",
        cause="dependency",
        transient=True,
    )
