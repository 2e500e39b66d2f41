"""A tarball with gzip, bzip2, xz or none, read forward once, and the kinds of members that no release needs refused."""

import bz2
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from adf_agent.errors import ReleaseError

CHUNK = 256 * 1024  # bytes read and decompressed at a time
HEADER = 256 * 1024  # bytes of one member's headers: the largest thing in them, an extended attribute, has 64 KiB
XZ_MEMORY = 80 * 1024 * 1024  # bytes; `xz -9` takes 65 MiB to decompress
LONGEST = 4096  # Linux' PATH_MAX
# What decompressors and tarfile raise on bytes that are not what they should be: bz2 knows OSError only, and numbers
# and texts in headers end in ValueError, their nesting in RecursionError.
CORRUPT = (EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.TarError, ValueError, OverflowError, RecursionError)
DECODERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),  # 31: gzip, with its CRC checked
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY),
}
LOOKS_LIKE = {
    b"PK": "It looks like a zip file: make a tar, with gzip, bzip2, xz or none.",
    b"\x28\xb5\x2f\xfd": "It looks like zstd: make a tar with gzip, bzip2, xz or none.",
    b"<": "It looks like a web page: is the URL a download link?",
    b"{": "It looks like JSON, an API's answer: is the URL a download link?",
}
HINT = "Make the release anew, for instance with git archive."
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # the last are bytes that are not UTF-8
Identity = tuple[int, ...]


def identity(file: Path | int) -> Identity:
    """What tells a *file*, open or by its name, from any other that has the name before or after, once it is whole."""
    found = os.stat(file)  # noqa: PTH116  an open one has no path
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Stream:
    """What tarfile reads headers from: forward only, and not more at once than HEADER bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(next(chunks, b""))  # here, as tarfile would take zlib's error for "no tarball"
        self._position = self._header_from = 0
        self.last = b""  # what was read last

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if size < 0 or self._position + size - self._header_from > HEADER:
            refuse(f"a member's headers take more than {HEADER} bytes")
        self.last = b"".join(self._take(size))
        return self.last

    def seek(self, position: int) -> None:
        """Skips to *position*, where the next member's header starts."""
        if position < self._position:
            raise tarfile.StreamError("a member's size goes back")
        for _ in self._take(position - self._position):
            pass
        self.begin()

    def begin(self) -> None:
        """A member's headers begin here or later."""
        self._header_from = self._position

    def payload(self, size: int) -> Iterator[memoryview]:
        """The next *size* bytes. Raises EOFError where there are less."""
        end = self._position + size
        yield from self._take(size)
        self.begin()
        if self._position != end:
            raise EOFError("it ends within a file")

    def drain(self) -> None:
        for _ in self._chunks:  # checksums stand at the end
            pass

    def _take(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    return
            part, self._rest = self._rest[:size], self._rest[size:]
            self._position += len(part)
            size -= len(part)
            yield part


@contextmanager
def reading(
    path: Path, limited: Callable[[Iterator[bytes]], Iterator[bytes]] = iter, known: Identity | None = None
) -> Iterator[Stream]:
    """The unpacked bytes of *path*, through *limited*.

    Raises ReleaseError where they are cut short or corrupt, or the file is not the *known* one.
    """
    with _opened(path, known) as file:
        head = file.read(8)
        file.seek(0)
        new = next((new for magic, new in DECODERS.items() if head.startswith(magic)), None)
        try:
            yield Stream(limited(_decoded(file, new) if new else iter(lambda: file.read(CHUNK), b"")))
        except CORRUPT as error:
            raise ReleaseError(
                f"the release's archive is cut short or corrupt: {error}", hint="Deliver the release again."
            ) from error


def _opened(path: Path, known: Identity | None) -> BinaryIO:
    with suppress(FileNotFoundError):
        file = path.open("rb")
        if known in (None, identity(file.fileno())):
            return file
        file.close()
    hint = f"See what else writes to {path.parent}."
    raise ReleaseError("the release's file is gone, or another one than was verified", hint=hint, cause="host")


def _decoded(file: BinaryIO, new: Callable[[], Any]) -> Iterator[bytes]:
    """What *file* decompresses to, at most CHUNK bytes at a time, of one stream or several."""
    decoder, data = new(), file.read(CHUNK)
    while data or not decoder.eof:
        chunk = decoder.decompress(data, CHUNK)
        if chunk:
            yield chunk
        if decoder.eof:
            data = (decoder.unused_data or file.read(CHUNK)).lstrip(b"\0")  # padded to a block
            decoder = new() if data else decoder
        elif len(chunk) == CHUNK:  # there may be more in it
            data = getattr(decoder, "unconsumed_tail", b"")  # zlib's; the others keep theirs
        else:
            data = file.read(CHUNK)
            if not data and not chunk:
                raise EOFError("it ends before its compression does")


def members(stream: Stream) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Each member and its plain name. Raises ReleaseError on a kind of member or a name that no release needs."""
    try:
        tar = tarfile.TarFile(fileobj=cast("BinaryIO", stream), encoding="utf-8", errors="surrogateescape")
    except tarfile.ReadError as error:
        hint = next((hint for magic, hint in LOOKS_LIKE.items() if stream.last.lstrip().startswith(magic)), HINT)
        raise ReleaseError(f"the release is not a tarball: {error}", hint=hint) from error
    while member := tar.next():
        stream.begin()
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers every one
        if sum(len(key) + len(value) for key, value in tar.pax_headers.items()) > HEADER:
            refuse("its global headers are too large")
        name = plain(member.name)
        if member.issparse() or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            refuse(f"{name!r} is {_what(member)}")
        end = member.offset_data + member.size + -member.size % tarfile.BLOCKSIZE
        if member.size < 0 or (member.isreg() and end != tar.offset) or not (name or member.isdir()):
            raise tarfile.ReadError("a header makes no sense")
        yield name, member
    if stream.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes a broken header for the end
        raise tarfile.ReadError("its end is missing")
    stream.drain()


def plain(name: str) -> str:
    """*name* with neither `.` nor empty parts."""
    if len(name) > LONGEST or UNPRINTABLE.search(name):
        refuse(f"a name is too long, has control characters or is not UTF-8: {name[:80]!r}")
    parts = name.split("/")
    if not parts[0] and name:
        refuse(f"{name!r} is an absolute name")
    if ".." in parts:
        refuse(f"{name!r} has '..' in its name")
    return "/".join(part for part in parts if part not in ("", "."))


def _what(member: tarfile.TarInfo) -> str:
    if member.issparse():
        return "a sparse file: make the archive without --sparse"
    return "a named pipe" if member.isfifo() else "a device" if member.isdev() else f"of unknown type {member.type!r}"


def refuse(sentence: str) -> NoReturn:
    """Raises the ReleaseError of an archive that holds what it must not."""
    raise ReleaseError(f"the release's archive is refused: {sentence}", hint=HINT)
