"""What a release tarball may hold, and the tarball as a clean Docker build context.

Nothing is unpacked: `inspect` reads the file once and refuses what a release has no business to hold, `context` reads
it again and writes the tar that Docker gets. Memory does not grow with the file.
"""

import itertools
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from adf_agent import dockerignore, manifest
from adf_agent.errors import ReleaseError, Withheld
from adf_agent.manifest import Manifest
from adf_agent.notation import Limits
from adf_agent.tarball import (
    CHUNK,
    LONGEST,
    UNPRINTABLE,
    Identity,
    Stream,
    identity,
    members,
    plain,
    reading,
    refuse,
)

KEPT = 4 * 1024 * 1024  # bytes of text files and hard links' names that are remembered
RATIO_FROM = 100_000_000  # bytes unpacked: a small file of zeros is no attack
Kind = Literal["file", "folder", "symlink"]


@dataclass(frozen=True)
class Archive:
    """A release tarball that passed: *top* is the folder that all is in ("" for none), *unpacked* the files' bytes.

    *ignore* holds `.dockerignore`'s patterns, `!` before those that take files in again.
    """

    path: Path
    top: str
    members: int
    unpacked: int
    manifest: Manifest
    ignore: tuple[str, ...]
    file: Identity | None = field(default=None, compare=False)  # what was read: nothing else is what passed


def inspect(path: Path, limits: Limits, known: Identity | None = None) -> Archive:
    """The archive at *path*, the *known* file where one is, read to its end.

    Raises ReleaseError, one sentence for each thing that it may not hold.
    """
    known = known or identity(path)
    with reading(path, lambda chunks: _limited(chunks, known[2], limits), known) as stream:
        contents = _Contents(limits)
        for name, member in members(stream):
            contents.add(name, member, stream)
    return replace(contents.archive(path), file=known)


def context(archive: Archive) -> Iterator[bytes]:
    """An uncompressed tar for the builder, in chunks of CHUNK bytes or somewhat more.

    The top folder is stripped and ignored files are left out, the Dockerfile and its .dockerignore never; owners are
    root, times and modes are kept. Raises ReleaseError where the file is no more what `inspect` saw.
    """
    batch = bytearray()
    for part in _parts(archive):
        batch += part
        if len(batch) >= CHUNK:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch) + bytes(2 * tarfile.BLOCKSIZE)


def _parts(archive: Archive) -> Iterator[bytes | memoryview]:
    left_out = _left_out(archive.ignore, archive.manifest)
    cut = len(archive.top) + 1 if archive.top else 0
    with reading(archive.path, known=archive.file) as stream:
        for path, member in members(stream):
            name = path[cut:]
            if not name or left_out(name):
                continue
            yield _clean(name, cut, member).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            if member.isreg():
                yield from stream.payload(member.size)
                yield bytes(-member.size % tarfile.BLOCKSIZE)


def _clean(name: str, cut: int, member: tarfile.TarInfo) -> tarfile.TarInfo:
    clean = tarfile.TarInfo(name)
    clean.type = tarfile.REGTYPE if member.isreg() else member.type
    clean.size = member.size if member.isreg() else 0
    clean.mode = stat.S_IMODE(member.mode)
    clean.mtime = int(member.mtime) if 0 <= member.mtime < 8**11 else 0  # what a plain header can hold
    clean.linkname = plain(member.linkname)[cut:] if member.islnk() else member.linkname
    return clean


class _Contents:
    """What the members seen so far amount to."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # By the name's hash, keyed and 64 bits wide: 200,000 names of PATH_MAX would not fit into memory.
        self._kinds: dict[int, Kind] = {}
        self._members = self._unpacked = self._kept = 0
        self._top: str | None = None
        self._beside_top = ""  # a symlink that leaves the context if the top folder is stripped
        self._links: list[tuple[str, str]] = []
        self._texts: dict[str, bytes] = {}

    def add(self, name: str, member: tarfile.TarInfo, stream: "Stream") -> None:
        self._members += 1
        if self._members > self._limits.members:
            raise _beyond(f"{self._limits.members} members")
        if not name:  # the archive's root, "./"
            return
        if member.islnk():
            self._check_hard_link(name, member)
        elif member.issym():
            self._check_symlink(name, member.linkname)
        kind: Kind = "folder" if member.isdir() else "symlink" if member.issym() else "file"
        self._claim(name, kind)
        top = name.partition("/")[0] if "/" in name or kind == "folder" else ""
        self._top = top if self._top in (None, top) else ""
        self._texts.pop(name, None)
        if member.isreg():
            self._unpacked += member.size
            if name.endswith(".dockerignore") or name in (manifest.NAME, f"{top}/{manifest.NAME}"):
                self._keep(name, member.size)
                self._texts[name] = b"".join(stream.payload(member.size))

    def archive(self, path: Path) -> Archive:
        top = self._top or ""
        if top and self._beside_top:
            refuse(f"symlink {self._beside_top!r} leaves the build context")
        inside = f"{top}/" if top else ""
        about = Manifest.parse(self._text(inside + manifest.NAME) or b"")
        dockerfile = about.build.dockerfile
        if self._kinds.get(hash(inside + dockerfile)) != "file":
            raise ReleaseError(
                f"the release has no {dockerfile} (a regular file, looked for at {inside + dockerfile!r})",
                hint=f"Name it in {manifest.NAME}, [build] dockerfile, or put it there.",
            )
        texts = (self._text(f"{inside}{name}") for name in _ignore_files(about))
        ignore = dockerignore.patterns(next((text for text in texts if text is not None), b""))
        left_out = _left_out(ignore, about)
        for name, target in self._links:
            if left_out(target[len(inside) :]) and not left_out(name[len(inside) :]):
                refuse(f"{name!r} is a hard link to {target!r}, which .dockerignore leaves out")
        return Archive(path, top, self._members, self._unpacked, about, ignore)

    def _claim(self, name: str, kind: Kind) -> None:
        """Gives *name* its one kind, and the folders above it theirs: nothing can then lie beneath a symlink."""
        while self._kinds.setdefault(hash(name), kind) == kind:
            name, _, _ = name.rpartition("/")
            if not name or self._kinds.get(hash(name)) == "folder":
                break
            kind = "folder"
        else:
            refuse(f"{name!r} is both a {self._kinds[hash(name)]} and a {kind}")
        if len(self._kinds) > self._limits.members:
            raise _beyond(f"{self._limits.members} members")

    def _check_hard_link(self, name: str, member: tarfile.TarInfo) -> None:
        target = plain(member.linkname)
        if target == name or self._kinds.get(hash(target)) != "file":
            refuse(f"hard link {name!r} is to {member.linkname!r}, which is no earlier regular file of the archive")
        self._keep(name, len(name) + len(target))
        self._links.append((name, target))

    def _check_symlink(self, name: str, target: str) -> None:
        if not target or UNPRINTABLE.search(target) or len(target) > LONGEST:
            refuse(f"symlink {name!r} has a target that is empty, too long or not printable")
        parts = [part for part in target.split("/") if part not in ("", ".")]
        below = list(itertools.dropwhile(lambda part: part == "..", parts))
        if ".." in below:  # what it means depends on where the part before it leads
            refuse(f"symlink {name!r} to {target!r} has '..' after a folder's name")
        up, depth = len(parts) - len(below), name.count("/")
        if target.startswith("/") or up > depth:
            refuse(f"symlink {name!r} to {target!r} leaves the build context")
        if up and up == depth:
            self._beside_top = name

    def _keep(self, name: str, size: int) -> None:
        self._kept += size
        if self._kept > KEPT:
            refuse(f"{name!r} is too large to be read, or too many like it are there")

    def _text(self, name: str) -> bytes | None:
        if name not in self._texts and hash(name) in self._kinds:
            refuse(f"{name!r} is not a regular file")
        return self._texts.get(name)


def _limited(chunks: Iterator[bytes], packed: int, limits: Limits) -> Iterator[bytes]:
    unpacked = 0
    for chunk in chunks:
        unpacked += len(chunk)
        if unpacked > limits.bytes:
            raise _beyond(f"{limits.bytes} bytes unpacked")
        if unpacked > max(RATIO_FROM, packed * limits.ratio):
            raise _beyond(f"{limits.ratio} times its compressed size")
        yield chunk


def _left_out(ignore: tuple[str, ...], about: Manifest) -> Callable[[str], bool]:
    always = (about.build.dockerfile, *_ignore_files(about))
    matches = dockerignore.left_out(ignore)
    return lambda name: name not in always and matches(name)


def _ignore_files(about: Manifest) -> tuple[str, str]:
    """The Dockerfile's own has precedence, as in BuildKit: https://docs.docker.com/build/concepts/context/ ."""
    return f"{about.build.dockerfile}.dockerignore", ".dockerignore"


def _beyond(limit: str) -> ReleaseError:
    return Withheld(
        f"the release's archive is refused: it holds more than {limit}",
        hint="Leave out of the release what it does not need, or raise ADF_ARCHIVE_LIMIT in agent.env.",
    )
