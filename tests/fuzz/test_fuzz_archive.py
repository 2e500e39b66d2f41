"""Release tarballs, whole, broken and malicious: a clean build context, or one sentence."""

import bz2
import gzip
import io
import lzma
import posixpath
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from fuzzing import CANARY, check_refusal, fuzzed, texts
from hypothesis import strategies as st

from adf_agent import archive
from adf_agent.errors import ReleaseError
from adf_agent.notation import Limits
from adf_agent.tarball import LONGEST

Member = tuple[str, bytes, str, bytes, int, int, dict[str, str]]
Change = tuple[int, bytes, bool]
LIMITS = Limits(members=200, bytes=2**20, ratio=250)
MEGABYTES = 160  # an xz stream may ask for 80 of them
SENTENCE = 6 * LONGEST + 1000  # two names at most, each with every character escaped

NAMES = st.sampled_from(
    ["Dockerfile", "adf.toml", ".dockerignore", "app/Dockerfile", "./a", "d/", "a", "d/a", "s"]
) | texts(
    "a", "d", "/", "..", ".", "//", "\0", "\n", "é", "\N{COMBINING ACUTE ACCENT}", "A", "\udcff", "x" * 90, most=6
).map(lambda name: name.replace(CANARY, "c"))
KINDS = st.sampled_from([tarfile.REGTYPE] * 6 + [bytes([kind]) for kind in b"012345678LKSxgMVD\0\xff"])
DATA = st.sampled_from(
    [b"", b"FROM scratch\n", b"*\n!a\n", b"[build]\ndockerfile = 'a'\n", b"[", b"x" * 600]
) | st.binary(max_size=40)
PAX = st.dictionaries(
    st.sampled_from(
        ["path", "linkpath", "size", "mtime", "uid", "GNU.sparse.map", "GNU.sparse.size", "hdrcharset", "a"]
    )
    | st.text(max_size=4),
    st.sampled_from(["0", "-1", "1024", "1e400", "nan", "BINARY", "../x", "/etc/passwd", "0,1", "a\0b"])
    | st.text(max_size=6),
    max_size=2,
)
MODES = st.sampled_from([0o644, 0o4755, 0o7777, 0])
MEMBERS = st.tuples(NAMES, KINDS, NAMES, DATA, MODES, st.sampled_from([0] * 8 + [-1, 1, 512, -512, 2**33]), PAX)
CHANGES = st.lists(st.tuples(st.integers(0, 2**14), st.binary(min_size=1, max_size=12), st.booleans()), max_size=3)
PACKERS: Sequence[Callable[[bytes], bytes]] = (
    bytes,
    lambda data: gzip.compress(data, 1, mtime=0),
    lambda data: bz2.compress(data, 1),
    lambda data: lzma.compress(data, preset=0),
    lambda data: gzip.compress(data[:700], 1, mtime=0) + gzip.compress(data[700:], 1, mtime=0) + bytes(100),
)


def packed(members: Sequence[Member], form: Literal[0, 1, 2]) -> bytes:
    """Header by header; what tarfile will not write is left out."""
    blocks = []
    for name, kind, link, data, mode, more, pax in members:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode, info.size, info.pax_headers = kind, link, mode, len(data) + more, pax
        try:
            header = info.tobuf(form, "utf-8", "surrogateescape")
        except (ValueError, UnicodeError):
            continue
        blocks.append(header + data + bytes(-len(data) % tarfile.BLOCKSIZE))
    return b"".join(blocks) + bytes(2 * tarfile.BLOCKSIZE)


def changed(data: bytes, changes: Sequence[Change]) -> bytes:
    """*data* with bytes overwritten, here and there with a checksum that is right again: else no parser gets far."""
    new = bytearray(data)
    for where, text, is_summed in changes:
        at = where % len(new)
        new[at : at + len(text)] = text
        if is_summed and len(new) >= tarfile.BLOCKSIZE:
            header = min(at - at % tarfile.BLOCKSIZE, len(new) - tarfile.BLOCKSIZE)
            new[header + 148 : header + 156] = b" " * 8
            new[header + 148 : header + 156] = b"%06o\0 " % sum(new[header : header + tarfile.BLOCKSIZE])
    return bytes(new)


FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
DOCKERFILE: Member = ("Dockerfile", tarfile.REGTYPE, "", b"FROM scratch\n", 0o644, 0, {})
TREES = st.lists(MEMBERS, max_size=5).map(lambda members: [DOCKERFILE, *members]) | st.lists(MEMBERS, max_size=5)
TARS = st.builds(changed, st.builds(packed, TREES, FORMATS), CHANGES | st.just([]))
ARCHIVES = st.builds(lambda pack, data: pack(data), st.sampled_from(PACKERS), TARS)
BROKEN = st.builds(changed, ARCHIVES, CHANGES) | st.builds(
    lambda data, size: data[: size % len(data)], ARCHIVES, st.integers(0)
)
HEADS = st.sampled_from([b"", b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0\0\4", b"PK\3\4", b"<html>", b"\x28\xb5\x2f\xfd"])


@fuzzed("archives", ARCHIVES, weight=10, megabytes=MEGABYTES)
def test_an_archive_is_a_clean_context_or_refused(data: bytes) -> None:
    """A release that writes beside its build context would own the host."""
    _checked(data)


@fuzzed(
    "archives",
    BROKEN | st.builds(lambda head, rest: head + rest, HEADS, st.binary(max_size=600)),
    weight=6,
    megabytes=MEGABYTES,
)
def test_broken_bytes_are_refused_or_harmless(data: bytes) -> None:
    """A download with a flipped bit ends as a fault of the agent, or is built without the files behind it."""
    _checked(data)


def _checked(data: bytes) -> None:
    with TemporaryDirectory(prefix="adf-fuzz-", dir="/dev/shm") as folder:
        path = Path(folder, "release")
        path.write_bytes(data)
        try:
            found = archive.inspect(path, LIMITS)
        except ReleaseError as error:
            return check_refusal(error, longest=SENTENCE)
        context = b"".join(archive.context(found))
    with tarfile.open(fileobj=io.BytesIO(context), mode="r:", errorlevel=2) as tar:
        members = tar.getmembers()
    _check_members({info.name: info for info in members}, members)
    assert found.manifest.build.dockerfile in {info.name for info in members}
    return None


def _inside(path: str) -> bool:
    """Whether it is below a folder by whatever name, as text and by its parts."""
    return posixpath.normpath(posixpath.join("/in/side", path)).startswith("/in/side") and not path.startswith("/")


def _check_members(by_name: dict[str, Any], members: Sequence[tarfile.TarInfo]) -> None:
    """All of it stays inside, as a kernel would follow it, and is of a plain kind."""
    for info in members:
        assert _inside(info.name)
        assert not info.issym() or _inside(posixpath.join(posixpath.dirname(info.name), info.linkname))
        assert info.isreg() or info.isdir() or info.issym() or info.islnk()
        assert (info.uid, info.gid, info.uname, info.gname) == (0, 0, "", "")
        above = info.name.rpartition("/")[0]
        while above:
            assert above not in by_name or by_name[above].isdir()
            above = above.rpartition("/")[0]
        assert not info.islnk() or by_name[info.linkname].isreg()
