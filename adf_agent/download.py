"""A release's bytes: one file, hashed as they come; resumed only where it is proven to be the same object."""

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adf_agent.deadline import Deadline
from adf_agent.errors import ReleaseError

CHUNK = 1 << 20  # bytes; large enough that Python's share of a download is small


@dataclass(frozen=True)
class Body:
    """An object's bytes from *offset* on. *total* is the whole object's size, None where nobody says.

    *proof* identifies this very object when more of it is asked for; empty where nothing does.
    """

    chunks: Iterator[bytes]
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
        deadline.retry(lambda: part.take(source, deadline))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        part.close()
    return Fetched(part.hash.hexdigest(), part.size)


class _Part:
    """What has come so far."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)
        self._proof = ""
        self.size = 0
        self.hash = hashlib.sha256()

    def take(self, source: Source, deadline: Deadline) -> None:
        body = source.open(self.size if self._proof else 0, self._proof)
        if body.offset != self.size:
            self._start_over()
        self._proof = body.proof
        for chunk in body.chunks:
            self._add(chunk)
            deadline.check()
            if deadline.expired() and self.size != body.total:
                raise broken(f"it was not finished in time, but {self.size} bytes of it")
        if body.total is not None and self.size != body.total:
            raise broken(f"it broke off after {self.size} of {body.total} bytes")

    def _start_over(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size, self.hash = 0, hashlib.sha256()

    def _add(self, chunk: bytes) -> None:
        try:
            self._file.write(chunk)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise ReleaseError(
                "the disk is full" if full else f"the release can't be written: {error.strerror}",
                hint=f"Give the instance a larger volume; the release is kept in {Path(self._file.name).parent}."
                if full
                else "See the state folder and its file system.",
                cause="host",
            ) from error
        self.hash.update(chunk)
        self.size += len(chunk)

    def close(self) -> None:
        self._file.close()


def broken(why: str) -> ReleaseError:
    """A download that may go well the next time."""
    return ReleaseError(
        f"the download failed: {why}",
        hint="See that the server is up and can be reached.",
        cause="dependency",
        transient=True,
    )
