"""What a release's archive may hold, and the build context that is made of it."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adf_agent import archive, dockerignore
from adf_agent.errors import ReleaseError
from adf_agent.notation import Limits
from adf_agent.tarball import HEADER

Member = tuple[tarfile.TarInfo, bytes]
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, to: str = "", **more: object) -> Member:
    """A header and the bytes behind it."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), to
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def symlink(name: str, to: str) -> Member:
    """A symlink's header."""
    return member(name, kind=tarfile.SYMTYPE, to=to)


def hard_link(name: str, to: str) -> Member:
    """A hard link's header."""
    return member(name, kind=tarfile.LNKTYPE, to=to)


def folder(name: str) -> Member:
    """A folder's header."""
    return member(name, kind=tarfile.DIRTYPE, mode=0o755)


DOCKERFILE = member("Dockerfile", b"FROM scratch\n")


def packed(members: Iterable[Member], form: Literal[0, 1, 2] = tarfile.GNU_FORMAT) -> bytes:
    """A tar of *members*, header by header, so that it may be as broken as an attacker likes."""
    blocks = [
        info.tobuf(form, "utf-8", "surrogateescape") + data + bytes(-len(data) % tarfile.BLOCKSIZE)
        for info, data in members
    ]
    return b"".join(blocks) + bytes(2 * tarfile.BLOCKSIZE)


def inspected(folder: Path, data: bytes, limits: Limits | None = None) -> archive.Archive:
    """What `inspect` says of a file with these bytes."""
    path = folder / "release.tar"
    path.write_bytes(data)
    return archive.inspect(path, limits or Limits())


def sent(release: archive.Archive) -> dict[str, tarfile.TarInfo]:
    """The members of the context, by name."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(archive.context(release)))) as tar:
        return {info.name: info for info in tar.getmembers()}


ATTACKS = {
    "absolute name": ([member("/etc/passwd")], "absolute name"),
    "parent": ([member("../x")], r"'\.\.' in its name"),
    "parent within": ([member("a/../../x")], r"'\.\.' in its name"),
    "parent at the end": ([folder("a/..")], r"'\.\.' in its name"),
    "absolute symlink": ([symlink("a", "/etc")], "leaves the build context"),
    "symlink out": ([symlink("a", "../x")], "leaves the build context"),
    "symlink out from below": ([symlink("d/e/a", "../../../x")], "leaves the build context"),
    "symlink to the parent": ([symlink("a", "..")], "leaves the build context"),
    "symlink down and out": ([symlink("a", "d/../../x")], r"'\.\.' after a folder's name"),
    "symlink with dots between": ([symlink("d/a", ".././../x")], "leaves the build context"),
    "symlink to nothing": ([symlink("a", "")], "empty"),
    "symlink with a control character": ([symlink("a", "b\nc")], "not printable"),
    "through a symlink": ([symlink("a", "."), member("a/x")], "both a symlink and a folder"),
    "through a symlink, later": ([member("a/x"), symlink("a", "d")], "both a folder and a symlink"),
    "through a symlink, deep": ([symlink("a", "d"), member("a/b/c/x")], "both a symlink and a folder"),
    "through a chain": ([symlink("a", "b"), symlink("b", "c"), member("b/x")], "both a symlink and a folder"),
    "symlink over a folder": ([folder("a"), symlink("a", "d")], "both a folder and a symlink"),
    "symlink over a file": ([member("a"), symlink("a", "d")], "both a file and a symlink"),
    "file over a symlink": ([symlink("a", "d"), member("a")], "both a symlink and a file"),
    "file as a folder": ([member("a"), member("a/x")], "both a file and a folder"),
    "hard link out": ([hard_link("a", "../x")], r"'\.\.' in its name"),
    "absolute hard link": ([hard_link("a", "/etc/passwd")], "absolute name"),
    "hard link to nothing": ([hard_link("a", "x")], "no earlier regular file"),
    "hard link forward": ([hard_link("a", "x"), member("x")], "no earlier regular file"),
    "hard link to itself": ([member("a"), hard_link("a", "a")], "no earlier regular file"),
    "hard link to a symlink": ([symlink("s", "x"), hard_link("a", "s")], "no earlier regular file"),
    "hard link to a folder": ([folder("d"), hard_link("a", "d")], "no earlier regular file"),
    "hard link through a symlink": ([member("d/x"), symlink("s", "d"), hard_link("a", "s/x")], "no earlier regular"),
    "character device": ([member("a", kind=tarfile.CHRTYPE)], "is a device"),
    "block device": ([member("a", kind=tarfile.BLKTYPE)], "is a device"),
    "named pipe": ([member("a", kind=tarfile.FIFOTYPE)], "named pipe"),
    "multi-volume": ([member("a", kind=b"M")], "unknown type"),
    "sparse": ([member("a", kind=tarfile.GNUTYPE_SPARSE)], "sparse"),
    "newline": ([member("a\nb")], "control characters"),
    "escape sequence": ([member("a\x1b[2J")], "control characters"),
    "not UTF-8": ([member("a\udcff")], "not UTF-8"),
    "long name": ([member("a/" * 2100 + "b")], "too long"),
    "long name's header of 1 GB": ([member("././@LongLink", kind=b"L", size=2**30)], "headers take more than"),
    "headers without end": ([member("././@LongLink", b"x", kind=b"L")] * 600, "headers take more than|recursion"),
    "negative size of headers": ([member("././@LongLink", kind=b"L", size=-(2**20))], "headers take more than"),
    "negative size": ([member("a", size=-512)], "cut short or corrupt"),
    "size beyond the file": ([member("a", size=2**40)], "cut short or corrupt"),
    "much text": ([member(f"{i}.dockerignore", bytes(2**20)) for i in range(5)], "too large to be read"),
}


@pytest.mark.parametrize(("members", "sentence"), ATTACKS.values(), ids=ATTACKS)
def test_refuses_an_attack_by_its_name(tmp_path: Path, members: list[Member], sentence: str) -> None:
    """A release that writes beside its build context, or a bomb, would own the host."""
    with pytest.raises(ReleaseError, match=sentence):
        inspected(tmp_path, packed([DOCKERFILE, *members]))


PAX_ATTACKS = {
    "NUL in a name": ({"path": "a\0b"}, "control characters"),
    "absolute name": ({"path": "/etc/passwd"}, "absolute name"),
    "parent": ({"path": "a/../../x"}, r"'\.\.' in its name"),
    "sparse 0.1": ({"GNU.sparse.map": "0,1", "GNU.sparse.size": "99"}, "sparse"),
    "sparse 0.0": ({"GNU.sparse.size": "99"}, "sparse"),
    "sparse map that is none": ({"GNU.sparse.map": "x"}, "cut short or corrupt"),
    "long header": ({"comment": "x" * HEADER}, "headers take more than"),
    "size of its own": ({"size": "-1024"}, "cut short or corrupt"),
}


@pytest.mark.parametrize(("headers", "sentence"), PAX_ATTACKS.values(), ids=PAX_ATTACKS)
def test_refuses_an_attack_in_a_pax_header(tmp_path: Path, headers: dict[str, str], sentence: str) -> None:
    """Extended headers outrank what a check of the plain ones would see."""
    with pytest.raises(ReleaseError, match=sentence):
        inspected(tmp_path, packed([DOCKERFILE, member("a", b"data", pax_headers=headers)], tarfile.PAX_FORMAT))


def test_refuses_global_headers_that_add_up(tmp_path: Path) -> None:
    """Ten thousand global headers of 100 KB each would fill the memory."""
    headers = [tarfile.TarInfo.create_pax_global_header({f"k{i}": "x" * 90_000}) for i in range(4)]
    data = b"".join(header + packed([member(f"f{i}")])[:512] for i, header in enumerate(headers))
    with pytest.raises(ReleaseError, match="global headers"):
        inspected(tmp_path, data + packed([DOCKERFILE]))


def test_a_symlink_beside_the_top_folder_leaves_the_context(tmp_path: Path) -> None:
    """With the top folder stripped, `app/a -> ../x` points beside the context."""
    members = [member("app/Dockerfile"), symlink("app/d/a", "../../x")]
    with pytest.raises(ReleaseError, match="leaves the build context"):
        inspected(tmp_path, packed(members))
    assert inspected(tmp_path, packed([DOCKERFILE, *members])).top == ""


@pytest.mark.parametrize("name", ["a", "adf.toml"])
def test_a_size_that_all_files_inherit_is_not_theirs(tmp_path: Path, name: str) -> None:
    """What is checked would not be what is sent."""
    inherited = tarfile.TarInfo.create_pax_global_header({"size": "2000"})
    with pytest.raises(ReleaseError, match="cut short or corrupt"):
        inspected(tmp_path, inherited + packed([DOCKERFILE, member(name, b"# 1"), member("b")]))


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (Limits(members=9), "more than 9 members"),
        (Limits(bytes=30_000), "more than 30000 bytes"),
    ],
)
def test_stops_at_a_limit(tmp_path: Path, limits: Limits, sentence: str) -> None:
    """A release with everything in it fills the disk of a whole fleet."""
    members = [DOCKERFILE, *(member(f"a/b/{i}", b"x" * 1000) for i in range(20))]
    with pytest.raises(ReleaseError, match=sentence):
        inspected(tmp_path, packed(members), limits)


def test_folders_that_names_imply_count_as_members(tmp_path: Path) -> None:
    """One member a thousand folders deep costs a thousand folders."""
    with pytest.raises(ReleaseError, match="more than 100 members"):
        inspected(tmp_path, packed([DOCKERFILE, member("d/" * 1000 + "x")]), Limits(members=100))


def test_refuses_a_bomb_and_stays_small(tmp_path: Path) -> None:
    """A 300 KB file of zeros becomes gigabytes."""
    bomb = gzip.compress(packed([DOCKERFILE, member("zeros", bytes(120_000_000))]), 9)
    tracemalloc.start()
    try:
        with pytest.raises(ReleaseError, match=r"250 times its compressed size"):
            inspected(tmp_path, bomb)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_an_xz_dictionary_beyond_the_memory_is_refused(tmp_path: Path) -> None:
    """A file of 100 bytes may ask for a dictionary of 1 GB."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**28}]
    with pytest.raises(ReleaseError, match=r"[Mm]emory"):
        inspected(tmp_path, lzma.compress(packed([DOCKERFILE]), filters=filters))


NO_TARBALLS = {
    "web page": (b"\n<!DOCTYPE html><html>" + bytes(600), "web page"),
    "short web page": (b"<html>not found</html>", "web page"),
    "packed web page": (gzip.compress(b"<html>" + bytes(600)), "web page"),
    "zip": (b"PK\x03\x04" + bytes(600), "zip"),
    "JSON": (b'{"message": "Not Found"}', "JSON"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(600), "zstd"),
    "empty": (b"", "git archive"),
    "text": (b"hello " * 200, "git archive"),
}


@pytest.mark.parametrize(("data", "hint"), NO_TARBALLS.values(), ids=NO_TARBALLS)
def test_says_what_it_got_in_place_of_a_tarball(tmp_path: Path, data: bytes, hint: str) -> None:
    """A wrong link gives a log-in page with status 200."""
    with pytest.raises(ReleaseError, match="not a tarball") as caught:
        inspected(tmp_path, data)
    assert hint in caught.value.hint


TREE = packed([DOCKERFILE, *(member(f"f{i}", os.urandom(700)) for i in range(3))])


@pytest.mark.parametrize("form", PACKERS)
def test_a_part_never_passes_for_the_whole(tmp_path: Path, form: str) -> None:
    """An engine takes a context that is cut between two members and builds silently without the rest."""
    whole = PACKERS[form](TREE)
    inspected(tmp_path, whole)
    end = len(TREE) - 2 * tarfile.BLOCKSIZE if form == "plain" else len(whole) - 1
    for length in [*range(9, end, 97), end]:
        with pytest.raises(ReleaseError, match=r"cut short|not a tarball"):
            inspected(tmp_path, whole[:length])


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz"])
def test_the_checksum_at_the_end_counts(tmp_path: Path, form: str) -> None:
    """Bytes changed on the way are seen by nobody who stops reading at the last member."""
    data = bytearray(PACKERS[form](TREE + bytes(20_000)))
    data[-6] ^= 1
    with pytest.raises(ReleaseError, match="cut short or corrupt"):
        inspected(tmp_path, bytes(data))


def test_a_broken_header_is_not_the_end(tmp_path: Path) -> None:
    """The tarfile module takes a header with a wrong checksum for the archive's end."""
    data = bytearray(TREE)
    data[TREE.index(b"f1" + bytes(8))] ^= 1  # the name in its header; the members' bytes are random
    with pytest.raises(ReleaseError, match="its end is missing"):
        inspected(tmp_path, bytes(data))


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, len(TREE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_broken_bytes_pass_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    """A traceback in place of a sentence tells nobody what to do."""
    data = bytearray(TREE)
    for position, value in changes:
        data[position] = value
        header = position - position % 512  # with a good checksum, or the parser behind it is never reached
        data[header + 148 : header + 156] = b" " * 8
        data[header + 148 : header + 156] = b"%06o\0 " % sum(data[header : header + 512])
    try:
        release = inspected(tmp_path_factory.mktemp("broken"), bytes(data))
    except ReleaseError:
        return
    assert "Dockerfile" in sent(release)


MISSING = {
    "none": ([member("README")], "no Dockerfile"),
    "symlink": ([symlink("Dockerfile", "d"), member("d")], "no Dockerfile"),
    "folder": ([folder("Dockerfile")], "no Dockerfile"),
    "too deep": ([member("a/Dockerfile"), member("b/x")], "no Dockerfile"),
    "elsewhere": ([DOCKERFILE, member("adf.toml", b'[build]\ndockerfile = "docker/web"')], "no docker/web"),
    "manifest is a symlink": ([DOCKERFILE, symlink("adf.toml", "d"), member("d")], "'adf.toml' is not a regular file"),
    "manifest is a link": ([DOCKERFILE, hard_link("adf.toml", "Dockerfile")], "'adf.toml' is not a regular file"),
    "manifest becomes a link": (
        [DOCKERFILE, member("adf.toml"), hard_link("adf.toml", "Dockerfile")],
        "'adf.toml' is not a regular file",
    ),
    "ignore is a symlink": ([DOCKERFILE, symlink(".dockerignore", "d")], "'.dockerignore' is not a regular file"),
    "bad manifest": ([DOCKERFILE, member("adf.toml", b"[buidl]")], "unknown section 'buidl'"),
    "bad pattern": ([DOCKERFILE, member(".dockerignore", b"a\n[z-a]\n")], r"'\[z-a\]' is not a pattern"),
    "link to what is left out": (
        [DOCKERFILE, member("x"), hard_link("y", "x"), member(".dockerignore", b"x")],
        "which .dockerignore leaves out",
    ),
}


@pytest.mark.parametrize(("members", "sentence"), MISSING.values(), ids=MISSING)
def test_a_release_that_can_not_be_built_is_refused_at_once(
    tmp_path: Path, members: list[Member], sentence: str
) -> None:
    """A build that fails after minutes of download and context says less than one sentence before it."""
    with pytest.raises(ReleaseError, match=sentence):
        inspected(tmp_path, packed(members))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A release's files, as a user has them."""
    root = tmp_path / "source"
    for name, text in {
        "Dockerfile": "FROM scratch\n",
        ".dockerignore": "*.log\n",
        "adf.toml": "[container]\npublish = [8000]\n",
        "app.log": "noise",
        "src/original": "twice",
        "src/" + "long/" * 30 + "ünï.py": "print()\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "src/run").symlink_to("../Dockerfile")
    (root / "src/copy").hardlink_to(root / "src/original")
    return root


def git(tree: Path, *arguments: str) -> None:
    """Git, as somebody who has no settings."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=tree, check=True, capture_output=True)


MADE_BY = {
    "git": ["git", "archive", "--format=tar", "HEAD"],
    "git with a prefix": ["git", "archive", "--format=tar.gz", "--prefix=app-1.0/", "HEAD"],
    "tar of a folder": ["tar", "--exclude=.git", "-c", "--directory=..", "source"],
    "tar of the current folder": ["tar", "--exclude=.git", "-cz", "."],
    "tar, bzip2": ["tar", "--exclude=.git", "-cj", "."],
    "tar, xz": ["tar", "--exclude=.git", "-cJ", "."],
    "tar, pax": ["tar", "--exclude=.git", "-c", "--format=pax", "."],
    "tar, oldest form with what fits": [
        "tar",
        "--exclude=.git",
        "-c",
        "--format=v7",
        "Dockerfile",
        ".dockerignore",
        "adf.toml",
    ],
}


@pytest.mark.parametrize("command", MADE_BY.values(), ids=MADE_BY)
def test_takes_what_people_make(tree: Path, command: list[str]) -> None:
    """A release made with the usual tools, in their usual forms, is refused."""
    git(tree, "init")
    git(tree, "add", ".")
    git(tree, "commit", "-m", "release")
    made = subprocess.run(command, cwd=tree, check=True, capture_output=True).stdout
    release = inspected(tree.parent, made)
    assert release.manifest.container.publish[0].container == 8000
    assert release.ignore == ("*.log",)
    names = {name for name, info in sent(release).items() if not info.isdir()}
    everything = {"Dockerfile", ".dockerignore", "adf.toml"}
    everything |= {"src/run", "src/copy", "src/original", "src/" + "long/" * 30 + "ünï.py"}
    assert names == (everything if "--format=v7" not in command else everything & set(command))


def test_the_context_unpacks_to_what_was_packed(tree: Path) -> None:
    """A byte, a mode or a link lost on the way makes an image that nobody tested."""
    (tree / "src/tool").write_bytes(os.urandom(1_000_001))
    (tree / "src/tool").chmod(0o4755)
    os.utime(tree / "src/tool", (1, 1_700_000_000))
    made = subprocess.run(["tar", "-cz", "."], cwd=tree, check=True, capture_output=True).stdout
    release = inspected(tree.parent, made)
    chunks = list(archive.context(release))
    assert max(map(len, chunks)) < 2**20
    unpacked = tree.parent / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-xp"], cwd=unpacked, input=b"".join(chunks), check=True)
    assert (unpacked / "src/tool").read_bytes() == (tree / "src/tool").read_bytes()
    assert (unpacked / "src/tool").stat().st_mode == (tree / "src/tool").stat().st_mode
    assert (unpacked / "src/tool").stat().st_mtime == 1_700_000_000
    assert (unpacked / "src/run").readlink() == Path("../Dockerfile")
    assert (unpacked / "src/copy").samefile(unpacked / "src/original")
    assert not (unpacked / "app.log").exists()


def test_owners_and_extended_headers_stay_behind(tmp_path: Path) -> None:
    """An image would own files to the user id of whoever made the release."""
    info = member("a", b"x", uid=1000, gid=1000, uname="ann", gname="ann", pax_headers={"SCHILY.xattr.user.a": "b"})
    context = sent(inspected(tmp_path, packed([DOCKERFILE, info], tarfile.PAX_FORMAT)))
    assert [context["a"].uid, context["a"].gid, context["a"].uname, context["a"].gname] == [0, 0, "", ""]
    assert context["a"].pax_headers == {}


@pytest.mark.parametrize(
    ("names", "top"),
    [
        (["app/Dockerfile"], "app"),
        (["./app/Dockerfile", "./app/x"], "app"),
        (["./Dockerfile", "./a/x"], ""),
        (["Dockerfile"], ""),
        (["app/a/Dockerfile", "app/Dockerfile"], "app"),
        (["a/x", "b/x", "Dockerfile"], ""),
    ],
)
def test_strips_a_folder_that_all_is_in(tmp_path: Path, names: list[str], top: str) -> None:
    """GitHub's archives have one folder at the top, an asset made by hand may have none."""
    release = inspected(tmp_path, packed([folder("./"), *(member(name) for name in names)]))
    assert (release.top, "Dockerfile" in sent(release)) == (top, True)
    assert release.members == len(names) + 1


def test_the_last_of_two_files_with_one_name_counts(tmp_path: Path) -> None:
    """`tar -r` puts the newer manifest after the older one."""
    twice = [member("adf.toml", b'[build]\ntarget = "a"'), member("adf.toml", b'[build]\ntarget = "b"')]
    assert inspected(tmp_path, packed([DOCKERFILE, *twice])).manifest.build.target == "b"


def test_many_folders_in_a_row_are_no_long_header(tmp_path: Path) -> None:
    """An archive with 600 empty folders was taken for an attack."""
    assert inspected(tmp_path, packed([DOCKERFILE, *(folder(f"d{i}") for i in range(600))])).members == 601


def test_compressed_in_several_parts_is_one_archive(tmp_path: Path) -> None:
    """pigz, pbzip2 and tapes write several streams after each other, and pad them with zeros."""
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        data = pack(TREE[:1000]) + pack(TREE[1000:]) + bytes(512)
        assert inspected(tmp_path, data).members == 4


def test_a_dockerfiles_own_ignore_file_has_precedence(tmp_path: Path) -> None:
    """A monorepo has one ignore file for each image."""
    members = [
        member("docker/web", b"FROM scratch"),
        member("adf.toml", b'[build]\ndockerfile = "docker/web"'),
        member("docker/web.dockerignore", b"*\n"),
        member(".dockerignore", b"nothing\n"),
        member("src/x"),
    ]
    release = inspected(tmp_path, packed(members))
    assert release.ignore == ("*",)
    assert set(sent(release)) == {"docker/web", "docker/web.dockerignore", ".dockerignore"}


# https://docs.docker.com/build/concepts/context/#dockerignore-files, and moby/patternmatcher's own tests
IGNORED = [
    ("*.log", ["a.log"], ["d/a.log", "a.logs"]),
    ("**/*.log", ["a.log", "d/a.log", "d/e/a.log"], ["a.lo"]),
    ("node_modules", ["node_modules", "node_modules/a/b"], ["d/node_modules", "node_modules2"]),
    ("**/node_modules", ["node_modules/a", "d/e/node_modules/a"], ["d/x"]),
    ("/d/", ["d", "d/x"], ["e/d"]),
    ("d/**", ["d/x", "d/e/x"], ["d", "x"]),
    ("d/**/x", ["d/x", "d/e/f/x"], ["d/y", "x"]),
    ("*/*/x", ["d/e/x"], ["d/x", "d/e/f/x"]),
    ("a?c", ["abc"], ["ac", "a/c"]),
    ("[a-c].py", ["b.py"], ["d.py"]),
    ("[^a-c].py", ["d.py"], ["b.py"]),
    ("a.c", ["a.c"], ["abc"]),
    (r"\*", ["*"], ["a"]),
    ("# a comment\n#b\n", [], ["# a comment", "#b"]),
    ("  a  \n\n", ["a"], [" a"]),
    ("\ufeffa", ["a"], []),
    ("./a/../b", ["b"], ["a"]),
    (".", [], ["a"]),
    ("/", [], ["a"]),
    ("*\n!a\n", ["b", "d/x"], ["a", "a/x"]),
    ("*.md\n!README*.md\nREADME-secret.md", ["a.md", "README-secret.md"], ["README.md", "README-a.md"]),
    ("d\n!d/keep", ["d/x"], ["d/keep", "d/keep/x"]),
    ("!a\na", ["a"], []),
    ("README", ["README"], ["readme"]),
    ("a+(b)|c", ["a+(b)|c"], ["aab", "c"]),
]


@pytest.mark.parametrize(("text", "out", "kept"), IGNORED, ids=[text for text, _, _ in IGNORED])
def test_dockerignore_means_what_it_means_to_docker(text: str, out: list[str], kept: list[str]) -> None:
    """A secret that `.dockerignore` names ends up in the image, or a file that it doesn't name is missing there."""
    left_out = dockerignore.left_out(dockerignore.patterns(text.encode()))
    assert {name: left_out(name) for name in out + kept} == dict.fromkeys(out, True) | dict.fromkeys(kept, False)


@pytest.mark.parametrize("text", ["!", "! ", "[z-a]"])
def test_what_is_no_pattern_is_named(text: str) -> None:
    """A pattern that is skipped silently lets the secret through."""
    with pytest.raises(ReleaseError, match="is not a pattern"):
        dockerignore.left_out(dockerignore.patterns(text.encode()))


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", Limits()),
        ("members=200000,bytes=10g,ratio=250", Limits()),
        ("bytes=512m", Limits(bytes=2**29)),
        ("ratio=1000, members=5", Limits(members=5, ratio=1000)),
    ],
)
def test_reads_limits(text: str, limits: Limits) -> None:
    """An operator with large releases must be able to say so."""
    assert Limits.parse(text) == limits


@pytest.mark.parametrize("text", ["member=5", "members", "members=x", "bytes=-1", "ratio=0", "5"])
def test_refuses_limits_that_are_none(text: str) -> None:
    """A mistyped limit would leave the default in force unseen."""
    with pytest.raises(ValueError, match=r"no archive limit|no size"):
        Limits.parse(text)
