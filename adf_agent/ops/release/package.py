"""A release's files: the tarball of a commit, the same bytes wherever it is made, and a description beside it."""

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adf_agent.errors import ReleaseError
from adf_agent.ops.release.repository import Repository
from adf_agent.tarball import members, reading

LEVEL = 6  # gzip's own; fixed, as another gives other bytes. Another version of zlib may do so too
LFS = b"version https://git-lfs.github.com/spec/v1"  # a pointer's begin, of 1,023 bytes at most: git-lfs docs/spec.md
LFS_BYTES = 1024
NAMED = 3  # files in a sentence
Seen = Callable[[int], object]


@dataclass(frozen=True)
class File:
    """A file to be delivered under its name. *type* is its media type, *digest* its SHA-256 (64 hex digits)."""

    path: Path
    type: str
    digest: str
    size: int  # bytes

    @classmethod
    def of(cls, path: Path, kind: str) -> "File":
        with path.open("rb") as file:
            return cls(path, kind, hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)

    @property
    def name(self) -> str:
        return self.path.name

    def open(self, seen: Seen) -> io.FileIO:
        """Its bytes; *seen* is told how many of them have been read, each time that some are."""
        return _Told(self.path, seen)


class _Told(io.FileIO):
    def __init__(self, path: Path, seen: Seen) -> None:
        super().__init__(path)
        self._seen = seen

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size) or b""
        self._seen(self.tell())
        return data


def tarball(chunks: Iterator[bytes], path: Path) -> None:
    """Writes the tar *chunks* to *path*, with gzip that holds neither time nor name."""
    with (
        writing(path.parent),
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=raw, mtime=0) as packed,
    ):
        for chunk in chunks:
            packed.write(chunk)


def check_whole(path: Path, repository: Repository, commit: str) -> None:
    """Raises ReleaseError where files of *commit* lie elsewhere: every instance would boot without them."""
    folders, pointers = set(), []
    with reading(path) as stream:
        for name, member in members(stream):
            if member.isdir():
                folders.add(name)
            elif member.isreg() and member.size < LFS_BYTES and b"".join(stream.payload(member.size)).startswith(LFS):
                pointers.append(name)
    if pointers:
        raise ReleaseError(
            f"{some(pointers, 'file')} of Git LFS would come as pointers, not as what they point to",
            hint="Commit them without LFS, leave them out (export-ignore in .gitattributes), or fetch them in a RUN.",
        )
    if holes := [folder for folder in repository.submodules(commit) if folder in folders]:
        raise ReleaseError(
            f"{some(holes, 'submodule')} would come as an empty folder: git archives none",
            hint="Copy it into the repository (git subtree), or leave it out (export-ignore in .gitattributes).",
        )


def describe(path: Path, **about: Any) -> None:
    """Writes *about* as JSON, for people and programs: the same bytes for the same commit."""
    with writing(path.parent):
        path.write_text(json.dumps(about, indent=2) + "\n")


def some(names: list[str], what: str) -> str:
    """How many there are and the first few: `3 files (a, b, c)`."""
    shown = ", ".join([*(repr(name)[1:-1] for name in names[:NAMED]), *(["…"] if len(names) > NAMED else [])])
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'} ({shown})"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises as ReleaseError what keeps a file from being written to *folder*."""
    try:
        yield
    except OSError as error:
        raise ReleaseError(
            f"the release can't be written to {folder}: {error.strerror or error}",
            hint="See its owner and mode, and the space there (TMPDIR names another folder for what is under way).",
            cause="host",
        ) from error
