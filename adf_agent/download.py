"""A release's bytes: one file, hashed as they come; resumed only where it is proven to be the same object."""

import errno
import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Protocol, TypeVar

from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.errors import ReleaseError
from adf_agent.tarball import Identity, identity

T = TypeVar("T")
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
    file: Identity = field(compare=False)  # what has these bytes, whatever takes its name later
    prehash: bytes = b""  # BLAKE2b-512, which a signature is of, where it is asked for


def fetch(source: Source, path: Path, deadline: Deadline, *, signed: bool = False) -> Fetched:
    """Downloads *source* to *path* (mode 0600), retried until the deadline. Raises ReleaseError, leaving no file."""
    deadline.check()  # a boot that was left behind takes no later one's file away
    part = _Part(path, signed=signed)
    try:
        deadline.retry(lambda: _attempt(part.attempt(source, deadline), part.late, deadline))
        return part.whole()
    except BaseException:
        part.discard()
        raise
    finally:
        part.close()


def discard(path: Path, known: Identity) -> None:
    """Removes *path* where it is the *known* file still; by its first two numbers it is known while it is open."""
    with suppress(FileNotFoundError):
        if identity(path)[: len(known)] == known:
            path.unlink()


def read(source: Source, most: int, what: str, deadline: Deadline) -> bytes:
    """The bytes of *source*, *what* it is to people, which is small: *most* bytes. Raises ReleaseError."""

    def late() -> ReleaseError:
        return broken(f"{what} was not there in time")

    return deadline.retry(lambda: _attempt(lambda: _read(source, most, what), late, deadline))


def _read(source: Source, most: int, what: str) -> bytes:
    body, data = source.open(0, ""), b""
    with closing(body.chunks):
        for chunk in body.chunks:
            data += chunk
            if len(data) > most:
                raise ReleaseError(f"{what} holds more than {most} bytes", hint="See that the right file lies there.")
    if body.total not in (None, len(data)):
        raise broken(f"it broke off after {len(data)} of {body.total} bytes")
    return data


def _attempt(call: Callable[[], T], late: Callable[[], ReleaseError], deadline: Deadline) -> T:
    """In a thread of its own: a server that is silent, or sends a byte a second, holds up neither deadline nor stop."""
    try:
        return Task(call).result(deadline)
    except TimeoutError as error:
        raise late() from error


class _Part:
    """What has come so far, in a file that is opened once: what is left behind writes to it, and to no later one."""

    def __init__(self, path: Path, *, signed: bool) -> None:
        self._path, self._signed = path, signed
        self._proof = ""
        self._begin()
        with _writing(path):
            path.unlink(missing_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def attempt(self, source: Source, deadline: Deadline) -> Callable[[], None]:
        """One attempt, with a descriptor of its own: closed under a thread, its number could be another file's."""
        with _writing(self._path):
            file = os.fdopen(os.dup(self._descriptor), "r+b", buffering=0)

        def take() -> None:
            with file:
                self._take(file, source, deadline)

        return take

    def _take(self, file: FileIO, source: Source, deadline: Deadline) -> None:
        body = source.open(self.size if self._proof else 0, self._proof)
        with closing(body.chunks), _writing(self._path):
            if body.offset != self.size:
                file.truncate(0)
                self._begin()
            file.seek(self.size)
            self._proof = body.proof
            for chunk in body.chunks:
                self._add(file, chunk)
                deadline.check()
                if body.total is not None and self.size > body.total:
                    raise ReleaseError(
                        f"the release is longer than the {body.total} bytes that it says",
                        hint="Deliver it whole before an instance boots it.",
                    )
                if deadline.expired() and self.size != body.total:
                    raise self.late()
        if body.total is not None and self.size != body.total:
            raise broken(f"it broke off after {self.size} of {body.total} bytes")

    def _begin(self) -> None:
        self.size, self.hash = 0, hashlib.sha256()
        self.prehash = hashlib.blake2b() if self._signed else None

    def _add(self, file: FileIO, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:  # a disk that is nearly full takes a part of it, without an error
            rest = rest[file.write(rest) :]
        self.hash.update(chunk)
        if self.prehash:
            self.prehash.update(chunk)
        self.size += len(chunk)

    def whole(self) -> Fetched:
        prehash = self.prehash.digest() if self.prehash else b""
        return Fetched(self.hash.hexdigest(), self.size, identity(self._descriptor), prehash)

    def discard(self) -> None:
        discard(self._path, identity(self._descriptor)[:2])

    def close(self) -> None:
        os.close(self._descriptor)

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
