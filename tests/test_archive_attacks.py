"""Every known way to break out of an archive, or to break who reads it: refused by its name, or taken, and why.

The kinds are those that CPython's tests of its extraction filters and of broken headers know, those of pip's tests of
unpacking, and what else is told of tar files. Plain cases of many are in test_archive.py; here are their variants.
"""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from test_archive import DOCKERFILE, Member, folder, hard_link, inspected, member, packed, sent, symlink

from adf_agent.errors import ReleaseError
from adf_agent.notation import Limits

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
TREE = packed([DOCKERFILE, member("a", b"data")])
OUTSIDE, DOTS, ABSOLUTE = "leaves the build context", r"'\.\.' in its name", "is an absolute name"
KINDS, DOTS_AFTER, CORRUPT = "is both a", r"'\.\.' after a folder's name", "cut short or corrupt"
NO_TARBALL = "is not a tarball"


def raw(
    name: bytes = b"a", kind: bytes = b"0", size: bytes = b"00000000000", magic: bytes = b"ustar\x0000", **at: bytes
) -> bytes:
    """A header as nobody would write it, with a checksum that is right; *at* are other fields, `at_124=b"…"`."""
    header = bytearray(BLOCK)
    fields = {"0": name, "100": b"0000644", "124": size, "136": b"00000000000", "156": kind, "257": magic}
    for place, text in {**fields, **{key.removeprefix("at_"): text for key, text in at.items()}}.items():
        header[int(place) : int(place) + len(text)] = text
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax(name: str = "a", data: bytes = b"data", **headers: str) -> bytes:
    """A member whose extended header says something else than its plain one."""
    return packed([member(name, data, pax_headers={key.replace("_", "."): text for key, text in headers.items()})], 2)[
        : -len(END)
    ]


def records(*lines: bytes, kind: bytes = b"x") -> bytes:
    """An extended header of these very bytes."""
    data = b"".join(lines)
    return raw(b"pax", kind, b"%011o" % len(data)) + data + bytes(-len(data) % BLOCK)


def behind(data: bytes) -> bytes:
    """*data* among the members, after a Dockerfile."""
    return packed([DOCKERFILE])[: -len(END)] + data + END


def of(*members: Member) -> bytes:
    return packed([DOCKERFILE, *members])


A = member("d/x", b"data")
# What it is: the bytes, and a part of the sentence that refuses them.
REFUSED: dict[str, tuple[bytes, str]] = {
    # names
    "absolute, with two slashes": (of(member("//etc/passwd")), ABSOLUTE),
    "absolute after a prefix field": (behind(raw(b"passwd", at_345=b"/etc")), ABSOLUTE),
    "absolute folder": (of(folder("/etc/")), ABSOLUTE),
    "parent in the prefix field": (behind(raw(b"x", at_345=b"../..")), DOTS),
    "parent with double slashes": (of(member("a//..//..//x")), DOTS),
    "parent behind a dot": (of(member("./../x")), DOTS),
    "parent within, and back (pip)": (of(member("dir/../file2")), DOTS),
    "two dots alone as a folder (pip)": (of(folder("..")), DOTS),
    "two dots with a slash": (of(folder("../")), DOTS),
    "symlink above the top (sly relative 0)": (of(symlink("../moo", "..//tmp/moo")), DOTS),
    "symlink through a folder (sly relative 2)": (
        of(folder("tmp/"), symlink("tmp/../../moo", "tmp/../..//tmp/moo")),
        DOTS,
    ),
    "parent by GNU's long name": (of(member("x" * 120 + "/../../../x")), DOTS),
    "parent by an extended header": (behind(pax(path="../x")), DOTS),
    "parent by a global header": (records(b"13 path=../x\n", kind=b"g") + TREE, DOTS),
    "carriage return": (of(member("a\rb")), "control characters"),
    "backspace": (of(member("a\bb")), "control characters"),
    "delete": (of(member("a\x7f")), "control characters"),
    "NUL in a long name": (behind(records(b"12 path=a\0b\n") + raw()), "control characters"),
    "Latin-1": (behind(raw(b"caf\xe9")), "not UTF-8"),
    "overlong UTF-8 of a slash": (behind(raw(b"..\xc0\xafx")), "not UTF-8"),
    "half of a surrogate pair": (behind(raw(b"\xed\xa0\x80")), "not UTF-8"),
    "name of 4,097 bytes": (of(member("x" * 4097)), "too long"),
    "no name": (behind(raw(b"", size=b"00000000004") + b"data".ljust(BLOCK, b"\0")), CORRUPT),
    "dot as a file": (of(member(".", b"x")), CORRUPT),
    # symlinks
    "parent through a link to itself": (
        of(symlink("current", "."), symlink("parent", "current/.."), member("parent/evil")),
        DOTS_AFTER,
    ),
    "parent beneath a link (parent symlink 2)": (of(symlink("current", "."), symlink("current/parent", "..")), KINDS),
    "nested traversal (pip)": (
        of(folder("."), symlink("redir", "."), symlink("redir/up", ".."), member("redir/up/x")),
        KINDS,
    ),
    "link outside, then a member (pip)": (of(symlink("outside", ".."), member("outside/x")), OUTSIDE),
    "link far outside (pip)": (of(symlink("bad-link", "../../../../pwn")), OUTSIDE),
    "absolute link, then a member": (of(symlink("parent", "/tmp"), member("parent/evil")), OUTSIDE),
    "link to the root with slashes": (of(symlink("a", "//")), OUTSIDE),
    "link out by a name with a trailing slash": (of(symlink("a/", "..")), OUTSIDE),
    "link that is too long for the kernel": (of(symlink("a", "b/" * 2049)), "too long"),
    "link by PATH_MAX (realpath overflow)": (
        of(*(symlink(f"d{i}", "x" * 247) for i in range(3)), symlink("e", "d0/../x")),
        DOTS_AFTER,
    ),
    "link and folder of one name": (of(symlink("a", "d"), folder("a/")), KINDS),
    "link that replaces the folder above": (of(member("a/b/x"), symlink("a/b", "c")), KINDS),
    "link by an extended header": (
        behind(
            packed([member("a", kind=tarfile.SYMTYPE, to="b", pax_headers={"linkpath": "../../x"})], 2)[: -len(END)]
        ),
        OUTSIDE,
    ),
    "link with data": (of(member("a", b"x" * BLOCK, kind=tarfile.SYMTYPE, to="b")), CORRUPT),
    "link with NUL": (behind(records(b"16 linkpath=a\0b\n") + raw(kind=b"2")), "not printable"),
    # hard links
    "hard link to an absolute name": (of(hard_link("a", "/tmp/foo")), ABSOLUTE),
    "hard link through a link": (of(symlink("s", "d"), A, hard_link("a", "s/x")), "no earlier regular file"),
    "hard link to a link that leads out (2025-4330)": (
        of(symlink("d/s", "../x"), hard_link("s", "d/s")),
        "no earlier regular file",
    ),
    "hard link to what comes later (chains)": (of(hard_link("l", "t/x"), member("t/x")), "no earlier regular file"),
    "hard link to a hard link to nothing": (of(hard_link("a", "b"), hard_link("b", "a")), "no earlier regular file"),
    "hard link to a device": (of(member("n", kind=tarfile.CHRTYPE), hard_link("a", "n")), "is a device"),
    "hard link with dots": (of(A, hard_link("a", "d/../d/x")), DOTS),
    "hard link to nothing, by name": (of(hard_link("a", "")), "no earlier regular file"),
    "hard link to a name beneath a file": (of(member("f"), hard_link("a", "f/x")), "no earlier regular file"),
    # kinds
    "device by numbers": (of(member("sda", kind=tarfile.BLKTYPE, devmajor=8, devminor=0)), "is a device"),
    "pipe (pip, CPython)": (of(member("foo", kind=tarfile.FIFOTYPE)), "named pipe"),
    "socket, as star writes it": (behind(raw(kind=b"s")), "unknown type"),
    "GNU dump of a folder": (of(member("a", kind=b"D")), "unknown type"),
    "GNU volume label": (of(member("a", kind=b"V")), "unknown type"),
    "Solaris access list": (behind(raw(kind=b"A")), "unknown type"),
    "old GNU sparse with a map": (behind(raw(kind=b"S", at_386=b"00000000000\x0000000000777\0")), "sparse"),
    "sparse 1.0": (
        behind(
            pax(
                GNU_sparse_major="1",
                GNU_sparse_minor="0",
                GNU_sparse_realsize="99",
                data=b"1\n0\n4\n".ljust(BLOCK, b"\0"),
            )
        ),
        "sparse",
    ),
    "sparse 1.0 that has no map": (behind(pax(GNU_sparse_major="1", GNU_sparse_minor="0", data=b"x" * BLOCK)), CORRUPT),
    "sparse 0.0 that is odd": (
        behind(records(b"22 GNU.sparse.size=10\n", b"24 GNU.sparse.offset=x\n") + raw()),
        "sparse|corrupt",
    ),
    # headers and sizes
    "size of base 256 below zero (2025-8194)": (behind(raw(size=b"\xff" * 12)), CORRUPT),
    "size of base 256 beyond all": (behind(raw(size=b"\x80" + b"\x7f" * 11)), CORRUPT),
    "size below zero by an extended header": (behind(pax(size="-512")), CORRUPT),
    "size other than the plain one's": (behind(pax(size="4096", data=bytes(BLOCK))), CORRUPT),
    "size that is no number": (behind(raw(size=b"one hundred")), CORRUPT),
    "size that a global header gives": (records(b"12 size=999\n", kind=b"g") + TREE, CORRUPT),
    "record of no length": (behind(records(b"0 path=a\n") + raw()), CORRUPT),
    "record longer than its header": (behind(records(b"999 path=a\n") + raw()), "corrupt|missing"),
    "record without =": (behind(records(b"10 patha\n\n\n") + raw()), "corrupt|missing"),
    "record with a length below zero": (behind(records(b"-9 path=a\n") + raw()), "corrupt|missing"),
    "record that ends too soon": (behind(records(b"5 path=a\n") + raw()), "corrupt|missing"),
    "extended header at the end": (behind(records(b"10 path=b\n")), "corrupt|missing"),
    "long name at the end": (
        behind(raw(b"././@LongLink", b"L", b"00000000010") + b"b".ljust(BLOCK, b"\0")),
        "corrupt|missing",
    ),
    "extended headers one in another": (
        behind(records(b"10 path=b\n") * 700 + raw()),
        "headers take more than|corrupt",
    ),
    "extended header of 300 KB": (
        behind(records(b"307214 comment=" + b"x" * 307198 + b"\n") + raw()),
        "headers take more than",
    ),
    "checksum that is wrong": (TREE[: BLOCK * 2] + b"b" + TREE[BLOCK * 2 + 1 :], "its end is missing"),
    "checksum that is no number": (behind(raw()[:148] + b"zzzzzzzz" + raw()[156:]), "its end is missing"),
    # one name, several kinds
    "file, then a folder": (of(member("a"), folder("a/")), KINDS),
    "folder, then a file": (of(folder("a/"), member("a")), KINDS),
    "file with a trailing slash, then beneath it": (of(member("a/", b"x"), member("a/b")), "is both a|corrupt"),
    # ends
    "no end": (TREE[: -len(END)], "its end is missing"),
    "only zeros": (END, "no Dockerfile"),
    "gzip of nothing": (gzip.compress(b""), NO_TARBALL),
    "gzip, cut in its header": (gzip.compress(TREE)[:7], "cut short|not a tarball"),
    "gzip with garbage behind it": (gzip.compress(TREE) + b"garbage", CORRUPT),
    "gzip with another file behind it": (gzip.compress(TREE) + b"PK\3\4" + bytes(99), CORRUPT),
    "gzip and zip at once (pip's polyglot)": (gzip.compress(TREE) + b"PK\5\6" + bytes(18), CORRUPT),
    "gzip with a wrong length at its end": (gzip.compress(TREE)[:-4] + struct.pack("<I", 1), CORRUPT),
    "gzip in gzip": (gzip.compress(gzip.compress(TREE)), NO_TARBALL),
    "bzip2 with garbage behind it": (bz2.compress(TREE) + b"garbage", CORRUPT),
    "xz with garbage behind it": (lzma.compress(TREE) + b"garbage!", CORRUPT),
    "lzma alone, which has no checksum": (lzma.compress(TREE, lzma.FORMAT_ALONE), NO_TARBALL),
    "compress (.Z)": (b"\x1f\x9d\x90" + bytes(600), NO_TARBALL),
    "cpio": (b"070701" + b"0" * 600, NO_TARBALL),
    "ar, as of a .deb": (b"!<arch>\n" + bytes(600), NO_TARBALL),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(600), NO_TARBALL),
}


@pytest.mark.parametrize(("data", "sentence"), REFUSED.values(), ids=REFUSED)
def test_is_refused_by_its_name(tmp_path: Path, data: bytes, sentence: str) -> None:
    """A release that writes beside its build context, or that two readers read differently, owns the host."""
    with pytest.raises(ReleaseError, match=sentence) as caught:
        inspected(tmp_path, data)
    assert caught.value.hint
    assert caught.value.sentence.isprintable()


def zipped() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("../outside_file.txt", "x")
    return data.getvalue()


def test_a_zip_is_refused_whatever_is_in_it(tmp_path: Path) -> None:
    """A zip with `..` in it, as in pip's tests: who reads no zips is not fooled by one."""
    with pytest.raises(ReleaseError, match="not a tarball") as caught:
        inspected(tmp_path, zipped())
    assert "zip" in caught.value.hint


# What it is: the bytes, the names that the builder gets, and why that is harmless.
TAKEN: dict[str, tuple[bytes, set[str], str]] = {
    "root as a folder": (of(folder("/")), set(), "it is the archive's own, as `./` is, and is not sent"),
    "size of a folder": (
        behind(raw(b"d/", b"5", b"00000001000") + raw(b"b")),
        {"d", "b"},
        "headers are written anew: the builder sees a folder of no size, whatever it would make of another",
    ),
    "setuid, setgid, sticky": (
        of(member("a", mode=0o7777)),
        {"a"},
        "a Dockerfile can set them as well: it is the image's own affair",
    ),
    "no rights at all": (of(member("a", mode=0)), {"a"}, "nothing is unpacked here, and the builder is root"),
    "rights beyond any": (behind(raw(at_100=b"7777777")), {"a"}, "only the twelve bits of a mode are passed on"),
    "owner that does not fit": (behind(raw(at_108=b"\xff" * 8)), {"a"}, "owners are not passed on"),
    "time before 1970": (behind(pax(mtime="-99")), {"a"}, "it becomes 1970: a plain header holds no other"),
    "time beyond all": (behind(pax(mtime="1e300")), {"a"}, "likewise"),
    "link to a link (chains)": (
        of(symlink("a", "b"), symlink("b", "c"), member("c")),
        {"a", "b", "c"},
        "each stays inside",
    ),
    "links in a loop": (
        of(symlink("a", "b"), symlink("b", "a")),
        {"a", "b"},
        "nobody follows them but what the image runs",
    ),
    "link to itself": (of(symlink("a", "a")), {"a"}, "likewise"),
    "link to the folder itself": (of(symlink("a", ".")), {"a"}, "nothing may lie beneath it"),
    "link to nothing": (of(symlink("a", "b")), {"a"}, "it stays inside"),
    "link within (deep symlink)": (of(A, symlink("l/s", "../d/x")), {"d/x", "l/s"}, "it stays inside"),
    "hard link to an earlier file": (of(A, hard_link("l", "d/x")), {"d/x", "l"}, "both are the release's own"),
    "hard link to a hard link": (of(A, hard_link("l", "d/x"), hard_link("m", "l")), {"d/x", "l", "m"}, "likewise"),
    "one file twice": (of(A, member("d/x", b"later")), {"d/x"}, "the last one counts, for us as for the builder"),
    "one folder twice": (of(folder("d"), folder("d/")), {"d"}, "a folder is a folder"),
    "capitals": (of(member("A"), member("a")), {"A", "a"}, "the builder's file system knows them apart"),
    "one name in two forms of Unicode": (of(member("\u00e9"), member("e\u0301")), {"\u00e9", "e\u0301"}, "likewise"),
    "names from right to left": (
        of(member("a\u202egpj.sh")),
        {"a\u202egpj.sh"},
        "it is shown escaped where it is shown at all",
    ),
    "backslashes (..\\..\\x)": (of(member("..\\..\\x")), {"..\\..\\x"}, "no separator on Linux: one file of that name"),
    "a drive's letter": (of(member("C:x")), {"C:x"}, "likewise"),
    "blanks and dots": (of(member(" . / .. ")), {" . / .. "}, "likewise: neither is `..`"),
    "three dots": (of(member(".../x")), {".../x"}, "a name like any other"),
    "a dash first": (
        of(member("--checkpoint-action=exec=sh")),
        {"--checkpoint-action=exec=sh"},
        "no command gets names as arguments",
    ),
    "empty parts": (of(member("a//b/./c")), {"a/b/c"}, "they mean nothing, and are taken out"),
    "name of 4,096 bytes": (
        of(member("x" * 4096)),
        {"x" * 4096},
        "the builder refuses it by itself if its file system does",
    ),
    "old file type with a slash (v7)": (
        behind(raw(b"d/", b"\0")),
        {"d"},
        "it was a folder before POSIX, and is read as one",
    ),
    "contiguous file": (of(member("a", b"x", kind=b"7")), {"a"}, "a plain file everywhere but on one old system"),
    "extended header of no use": (
        behind(pax(comment="x", SCHILY_xattr_security_capability="x")),
        {"a"},
        "they are not passed on",
    ),
    "charset of its own": (behind(pax(hdrcharset="BINARY")), {"a"}, "a name must still be UTF-8"),
    "name by an extended header": (
        behind(pax("b", path="a")),
        {"a"},
        "the name that counts is the name that is checked and sent",
    ),
    "NUL in a plain name": (behind(raw(b"a\0/../../x")), {"a"}, "a plain name ends at its NUL, for every reader"),
    "another archive behind the end": (
        TREE + of(member("../x")),
        {"a"},
        "what is behind the end is read for its checksum only, and not sent",
    ),
    "garbage behind the end": (TREE + b"garbage" * 99, {"a"}, "likewise"),
    "zip behind the end": (
        TREE + b"PK\5\6" + bytes(18),
        {"a"},
        "likewise: it is a tar by its first bytes, whatever its name",
    ),
    "two gzip streams": (
        gzip.compress(TREE[:900]) + gzip.compress(TREE[900:]),
        {"a"},
        "pigz writes such; all of it is one archive",
    ),
    "two whole archives, gzipped": (
        gzip.compress(TREE) + gzip.compress(of(member("../x"))),
        {"a"},
        "the second is behind the end",
    ),
    "gzip with a name and a comment": (
        b"\x1f\x8b\x08\x18" + bytes(6) + b"../../x\0<script>\0" + gzip.compress(TREE, mtime=0)[10:],
        {"a"},
        "nobody reads them",
    ),
    "gzip padded with zeros": (gzip.compress(TREE) + bytes(BLOCK), {"a"}, "tapes are"),
    "bzip2": (bz2.compress(TREE), {"a"}, "checked as a tar of any compression is"),
    "xz": (lzma.compress(TREE), {"a"}, "likewise"),
}


@pytest.mark.parametrize(("data", "names", "why"), TAKEN.values(), ids=TAKEN)
def test_is_taken_as_it_is_harmless(tmp_path: Path, data: bytes, names: set[str], why: str) -> None:
    """A release that is refused for what no builder minds keeps a fleet from its update."""
    found = sent(inspected(tmp_path, data))
    assert {*found} == {"Dockerfile", *names}, why
    for info in found.values():
        assert (info.uid, info.gid, info.uname, info.gname, info.pax_headers.keys() <= {"path", "linkpath"}) == (
            0,
            0,
            "",
            "",
            True,
        )
        assert 0 <= info.mtime < 8**11
        assert not info.mode & ~0o7777


ZEROS = packed([DOCKERFILE, member("zeros", bytes(110_000_000))])
BOMBS: dict[str, tuple[Callable[[], bytes], Limits, str]] = {
    "ratio, bzip2": (lambda: bz2.compress(ZEROS, 9), Limits(), "250 times its compressed size"),
    "ratio, xz": (lambda: lzma.compress(ZEROS, preset=0), Limits(), "250 times its compressed size"),
    "ratio, behind the end": (
        lambda: gzip.compress(TREE + bytes(110_000_000), 9),
        Limits(),
        "250 times its compressed size",
    ),
    "ratio, in two streams": (
        lambda: gzip.compress(TREE[:900]) + gzip.compress(TREE[900:] + bytes(110_000_000), 9),
        Limits(),
        "250 times",
    ),
    "ratio, in a header": (
        lambda: gzip.compress(raw(b"././@LongLink", b"L", b"%011o" % 110_000_000) + bytes(110_000_000), 9),
        Limits(),
        "headers take more than",
    ),
    "many empty members": (
        lambda: gzip.compress(packed([DOCKERFILE, *(member(f"{i}") for i in range(5000))])),
        Limits(members=4000),
        "more than 4000 members",
    ),
    "one member again and again": (
        lambda: packed([DOCKERFILE, *[member("a")] * 5000]),
        Limits(members=4000),
        "more than 4000 members",
    ),
    "its root again and again": (
        lambda: packed([DOCKERFILE, *[folder("./")] * 5000]),
        Limits(members=4000),
        "more than 4000 members",
    ),
    "bytes": (
        lambda: packed([DOCKERFILE, member("a", bytes(3_000_000))]),
        Limits(bytes=2_000_000),
        "more than 2000000 bytes",
    ),
    "bytes of headers": (
        lambda: packed([DOCKERFILE, *[member("x" * 3000)] * 900]),
        Limits(bytes=2_000_000),
        "more than 2000000 bytes",
    ),
    "names of hard links": (
        lambda: packed([DOCKERFILE, member("a" * 4000), *(hard_link(f"{i}", "a" * 4000) for i in range(2000))]),
        Limits(),
        "too many like it",
    ),
}


@pytest.mark.parametrize(("make", "limits", "sentence"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_and_memory_stays_small(
    tmp_path: Path, make: Callable[[], bytes], limits: Limits, sentence: str
) -> None:
    """A release of a few kilobytes fills the memory or the disk of every instance at once."""
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(ReleaseError, match=sentence):
            inspected(tmp_path, data, limits)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()
