"""adf-release create: the same bytes from every clone, refused where an instance would, never over other bytes."""

import gzip
import hashlib
import io
import json
import os
import pty
import signal
import tarfile
import threading
import time
import tracemalloc
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from fixtures_operator import environment as credentials
from fixtures_repository import Clone, repository

from adf_agent import release, store
from adf_agent.deadline import Deadline
from adf_agent.errors import TRY_AGAIN, AgentError, ReleaseError, Stopped
from adf_agent.location import parse
from adf_agent.notation import Limits
from adf_agent.ops import package
from adf_agent.ops.bases import bases
from adf_agent.ops.delivery import S3, S3_BYTES, Folder, deliver
from adf_agent.ops.package import File
from adf_agent.ops.repository import Repository
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import AwsFault

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5000000\n"


def within(seconds: float = 20) -> Deadline:
    return Deadline(seconds, threading.Event())


def file_of(url: str) -> Path:
    """The file that a RELEASE_URL names, and pins."""
    path = Path(unquote(urlsplit(url).path))
    assert url.endswith(f"#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}")
    return path


def refused(clone: Clone, to: Path, *arguments: str, **more: Any) -> AgentError:
    """The refusal of a release of which nothing is delivered."""
    with pytest.raises(AgentError) as caught:
        clone.create(to, *arguments, **more)
    assert (caught.value.exit_code, bool(caught.value.hint), to.exists()) == (12, True, False)
    return caught.value


# The same bytes


def test_a_commit_gives_the_same_bytes_in_every_clone(clone: Clone, tmp_path: Path) -> None:
    """A digest pinned on a laptop that the build server's release of the same commit does not have."""
    clone.write({".gitattributes": "*.txt text\n*.bin filter=lfs\nwho export-subst\nhidden export-ignore\n"})
    clone.write({"a.txt": "1\n2\n", "b.bin": "plain", "hidden": "x", "who": "$Format:%H %h %d %D %(describe)$\n"})
    (clone.path / "page.html").chmod(0o755)
    commit = clone.commit({"sub/file": "x"})
    clone.git("tag", "v1")
    Clone(tmp_path).git("clone", "--quiet", "--depth=1", "--branch=v1", f"file://{clone.path}", "shallow")
    other = Clone(tmp_path / "shallow")
    other.git("tag", "extra")
    for setting in (
        "core.autocrlf=true", "core.eol=crlf", "tar.umask=0077", "core.abbrev=9", "filter.lfs.smudge=tr a-z A-Z",
        "filter.lfs.required=true", "core.attributesFile=~/attributes", "tar.tar.command=false",
    ):  # fmt: skip
        other.git("config", *setting.split("=", 1))
    for attributes in (other.path / ".git/info/attributes", other.path / "attributes"):
        attributes.parent.mkdir(exist_ok=True)
        attributes.write_text("page.html export-ignore\n")
    (other.path / ".gitconfig").write_text("[core]\nattributesFile = ~/attributes\n")
    place = {"TZ": "Asia/Tokyo", "HOME": str(other.path), "GIT_AUTHOR_DATE": "2001-01-01", "LC_ALL": "C.UTF-8"}
    code, out, _ = other.ran("--to", "../there", "--name", "v1", "--allow-dirty", umask=0o077, environment=place)
    here, there = clone.create(tmp_path / "here"), out.removeprefix("RELEASE_URL=").strip()
    assert (code, here.partition("#")[2]) == (0, there.partition("#")[2])
    for name in ("v1.tar.gz", "v1.release.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    data = file_of(here).read_bytes()
    assert data[3:8] == bytes(5)  # of gzip's header: neither a name nor a time
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        modes = {member.name: member.mode for member in tar if member.isfile()}
        texts = {name: tar.extractfile(name).read() for name in ("a.txt", "b.bin", "who")}  # type: ignore[union-attr]
    assert set(modes) == {
        ".gitattributes",
        ".gitignore",
        "Dockerfile",
        "a.txt",
        "b.bin",
        "page.html",
        "sub/file",
        "who",
    }
    assert (modes["page.html"], modes["a.txt"]) == (0o755, 0o644)
    assert (texts["a.txt"], texts["b.bin"]) == (b"1\n2\n", b"plain")
    assert texts["who"].split() == [commit.encode(), commit[:20].encode()]


@pytest.mark.parametrize("place", [".git", "sub", "worktree", "bare", "linked"])
def test_it_is_the_whole_commit_wherever_it_is_made(clone: Clone, tmp_path: Path, place: str) -> None:
    """A release of one folder, as somebody was in it; none from a build server's mirror."""
    clone.commit({"sub/file": "x"})
    digest = clone.create(tmp_path / "out", name="v1").partition("#")[2]
    clone.git("worktree", "add", "--quiet", str(tmp_path / "worktree"))
    Clone(tmp_path).git("clone", "--quiet", "--bare", str(clone.path), "bare")
    (tmp_path / "linked").symlink_to(clone.path)
    beside = tmp_path / place if (tmp_path / place).exists() else clone.path / place
    assert Clone(beside).create(tmp_path / "other", name="v1").partition("#")[2] == digest


def test_the_agent_takes_it_as_it_was_meant(clone: Clone, tmp_path: Path) -> None:
    """A release under one name here and another there; a URL that no instance can read."""
    clone.git("tag", "release/v1")
    to = tmp_path / "o u#t?%41é"
    url = clone.create(to)
    location = parse(url)
    source = store.source(location, lambda: None, None)
    obtained = release.obtain(location, location.name, source, tmp_path, Limits(), within())
    assert (obtained.name, location.path) == ("release-v1", to / "release-v1.tar.gz")
    note = json.loads((to / "release-v1.release.json").read_text())
    assert note == {
        "name": "release-v1",
        "commit": clone.git("rev-parse", "HEAD"),
        "digest": obtained.digest,
        "size": obtained.size,
        "time": "2026-02-02T23:05:06Z",
        "base_images": ["alpine:3"],
    }
    assert sorted(path.name for path in to.iterdir()) == ["release-v1.release.json", "release-v1.tar.gz"]


def test_standard_output_is_the_url_alone(clone: Clone, tmp_path: Path) -> None:
    """`export $(adf-release create)` that sets a progress bar."""
    clone.git("tag", "-a", "v1", "-m", "annotated")
    environment = {"TMPDIR": str(tmp_path), "GIT_DIR": str(clone.path / ".git")}  # as in a hook of git's
    code, out, err = clone.ran("--to", "../out", environment=environment)
    assert clone.git("config", "core.bare") == "false"
    url = out.removeprefix("RELEASE_URL=")
    path = file_of(url.strip())
    assert (code, path, out.count("\n")) == (0, tmp_path / "out/v1.tar.gz", 1)
    first, second = err.splitlines()
    assert first == f"v1.tar.gz: 1 kB, sha256 {url.partition('=')[2][:12]}, to file://{path}"
    assert second.startswith("v1.release.json: 1 kB")
    assert sorted(child.name for child in tmp_path.iterdir()) == ["app", "out"]


def test_memory_stays_flat_with_the_size(tmp_path: Path) -> None:
    """A build server's job killed at the first large release."""
    path = tmp_path / "v1.tar.gz"
    chunk = os.urandom(1 << 10) * (1 << 10)
    tracemalloc.start()
    try:
        package.tarball((chunk for _ in range(100)), path)
        with File.of(path, "application/gzip").open(lambda _: None) as file:
            assert file.readable()
        assert Folder(str(tmp_path / "out")).put(File.of(path, "application/gzip"), lambda _: None, within())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20
    with gzip.open(path) as file:
        assert file.read(1 << 20) == chunk


# The name

NAMES = [
    ((), "HEAD", None, "{commit}"),
    (("v1",), "HEAD", None, "v1"),
    (("v1",), "main", None, "v1"),
    (("v1", "v2"), "v2", None, "v2"),
    (("v1", "v2"), "refs/tags/v2", None, "v2"),
    (("v1", "v2"), "HEAD", "v3", "v3"),
    (("release/v1+rc",), "HEAD", None, "release-v1-rc"),
    ((), "HEAD", "v1.tar", "v1.tar"),
]


@pytest.mark.parametrize(("tags", "ref", "name", "expected"), NAMES)
def test_a_release_is_named_by_its_tag_or_its_commit(
    clone: Clone, tmp_path: Path, tags: tuple[str, ...], ref: str, name: str | None, expected: str
) -> None:
    """A fleet of which nobody can say what it runs."""
    for tag in tags:
        clone.git("tag", tag)
    commit = clone.git("rev-parse", "--short=12", "HEAD")
    found = file_of(clone.create(tmp_path / "out", ref, name))
    assert found.name == f"{expected.format(commit=commit)}.tar.gz"


UNNAMED = [
    (("v1", "v2"), None, "2 tags (v1, v2)"),
    (("a" * 101,), None, "too long"),
    ((), "a/b", "'a/b' can't be a release's name"),
    ((), "", "'' can't be"),
    ((), "..", "'..' can't be"),
    ((), "é", "'é' can't be"),
    ((), "a" * 101, "can't be"),
]


@pytest.mark.parametrize(("tags", "name", "says"), UNNAMED)
def test_a_name_that_an_instance_could_not_derive_is_refused(
    clone: Clone, tmp_path: Path, tags: tuple[str, ...], name: str | None, says: str
) -> None:
    """Config of a release that no instance believes to run."""
    for tag in tags:
        clone.git("tag", tag)
    assert says in refused(clone, tmp_path / "out", name=name).sentence


# What is refused


@pytest.mark.parametrize("ref", ["nope", "--all", "HEAD:page.html", "", "HEAD..HEAD"])
def test_a_ref_that_is_no_commit_is_said_to_be_none(clone: Clone, tmp_path: Path, ref: str) -> None:
    """`fatal: Needed a single revision`; an option of git's smuggled in by a branch's name."""
    assert refused(clone, tmp_path / "out", ref).sentence.endswith(f"is named {ref!r}")


def test_what_git_lacks_is_a_sentence(tmp_path: Path) -> None:
    """A traceback in a CI job where the checkout was forgotten."""
    (tmp_path / "none").mkdir()
    nowhere = Clone(tmp_path / "none")
    outside = {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    code, out, err = nowhere.ran(environment=outside)
    assert (code, out, err.count("\n")) == (12, "", 2)
    assert "no git repository to be read here: not a git repository" in err
    assert "no commit yet" in refused(repository(tmp_path / "empty"), tmp_path / "out").sentence
    code, out, err = nowhere.ran(environment={"PATH": "/nowhere"})
    assert (code, out) == (12, "")
    assert err.startswith("adf-release: git is missing")


def test_a_clone_that_lacks_an_object_makes_no_release(clone: Clone, tmp_path: Path) -> None:
    """Half a tarball, delivered, as git's exit code was not looked at."""
    digest = clone.git("rev-parse", "HEAD:page.html")
    (clone.path / ".git/objects" / digest[:2] / digest[2:]).unlink()
    error = refused(clone, tmp_path / "out", allow_dirty=True)
    assert error.sentence.startswith("git archive failed: ")
    assert digest in error.sentence


DIRTY = {
    "changed": ({"page.html": "other"}, "1 file (page.html)"),
    "untracked": ({"a/b/new é.txt": "x", "a/c": "x"}, "2 files (a/b/new é.txt, a/c)"),
    "many": ({f"f{n}": "x" for n in range(5)}, "5 files (f0, f1, f2, …)"),
    "half of a release": ({"v0.tar.gz": "x"}, "1 file (v0.tar.gz)"),
}


@pytest.mark.parametrize(("files", "says"), DIRTY.values(), ids=DIRTY)
def test_a_dirty_tree_is_refused_unless_it_is_meant(
    clone: Clone, tmp_path: Path, files: dict[str, str], says: str
) -> None:
    """The file that made it work here, forgotten in the release."""
    clone.commit({"tracked": "x"})
    clone.git("config", "status.showUntrackedFiles", "no")
    clone.write(files)
    error = refused(clone, tmp_path / "out")
    assert error.sentence.startswith(says)
    assert "--allow-dirty" in error.hint
    assert clone.create(tmp_path / "out", "HEAD~1")  # what lies there is another commit's
    assert clone.create(tmp_path / "out", allow_dirty=True)


def test_a_moved_file_is_dirty_too(clone: Clone, tmp_path: Path) -> None:
    """A sentence that names half of a file's name."""
    clone.git("mv", "page.html", "index.html")
    assert refused(clone, tmp_path / "out").sentence.startswith("2 files (index.html, page.html)")


def test_releases_and_ignored_files_make_no_tree_dirty(clone: Clone) -> None:
    """The same command that fails the second time, at the release that the first one made."""
    clone.write({"build.log": "x"})
    url = clone.create(".")
    assert clone.create(".") == url
    clone.create("dist", name="v1")
    assert clone.create("dist", name="v2")


def test_what_lies_elsewhere_is_refused_by_name(clone: Clone, tmp_path: Path) -> None:
    """A release with holes, which fails on every instance: empty submodules, pointers in place of files."""
    other = repository(tmp_path / "other")
    other.commit({"x": "x"})
    clone.commit({"model.bin": POINTER, "sub/weights.bin": POINTER, "large": POINTER + "x" * 1000})
    error = refused(clone, tmp_path / "out")
    assert error.sentence.startswith("2 files (model.bin, sub/weights.bin) of Git LFS")
    clone.commit({".gitattributes": "*.bin export-ignore\n"})
    assert clone.create(tmp_path / "fine")
    clone.git("submodule", "--quiet", "add", str(other.path), "vendor/lib")
    clone.commit({})
    for folder in (clone, Clone(clone.path / "sub")):
        assert refused(folder, tmp_path / "out").sentence.startswith("1 submodule (vendor/lib)")
    clone.commit({".gitattributes": "*.bin export-ignore\nvendor/lib export-ignore\n"})
    assert clone.create(tmp_path / "fine")


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "no Dockerfile": ({"adf.toml": "[build]\ndockerfile = 'deploy/Dockerfile'\n"}, "no deploy/Dockerfile"),
    "adf.toml": ({"adf.toml": "[health]\nprobes = 'x'\n"}, "unknown key 'probes'"),
}


@pytest.mark.parametrize(("files", "says"), REFUSED.values(), ids=REFUSED)
def test_what_an_instance_would_refuse_is_not_delivered(
    clone: Clone, tmp_path: Path, files: dict[str, str], says: str
) -> None:
    """A typo that is found by the canary, an hour later."""
    clone.commit(files)
    assert says in refused(clone, tmp_path / "out").sentence


def test_a_symlink_out_of_the_release_is_not_delivered(clone: Clone, tmp_path: Path) -> None:
    """The same for what only this machine has."""
    (clone.path / "link").symlink_to("/etc/hosts")
    clone.commit({})
    assert "leaves the build context" in refused(clone, tmp_path / "out").sentence


@pytest.mark.parametrize("to", ["https://x/y", "s3://", "s3://a", "github:web", "github:o/r/s", "", "S3://bucket"])
def test_a_place_that_is_none_is_refused(clone: Clone, to: str) -> None:
    """A folder `https:` in the repository, for the release that somebody waits for in another place."""
    with pytest.raises(ReleaseError) as caught:
        clone.create(to)
    assert to in caught.value.sentence
    assert not [path for path in clone.path.iterdir() if ":" in path.name]


# Base images

DOCKERFILES = {
    "stages": (
        (
            "# syntax=docker/dockerfile:1\nFROM --platform=$BUILDPLATFORM golang:1.22 AS Build\nFROM BUILD AS two\n"
            'from "alpine:3"\nFROM scratch\nFROM alpine:3\nCOPY --from=build /a /a\n'
        ),
        ["golang:1.22", "alpine:3"],
    ),
    "arguments": (
        (
            "ARG V=3.20 W='x'\nARG BASE=alpine:${V}\nARG REGISTRY\nARG GIVEN=no\nFROM $BASE AS a\nARG V=9\nFROM b:$V\n"
            "FROM ${REGISTRY}/c:${W:-d}${NONE:-1}${V:+y}${NONE+z}\nFROM $GIVEN\nFROM e:${NONE}\n"
        ),
        ["alpine:3.20", "b:3.20", "${REGISTRY}/c:x1y", "given:1", "e:${NONE}"],
    ),
    "lines": (
        "\ufeffFROM \\\r\n  # a comment\r\n  alpine:3 \\\r\n  AS a\r\nRUN echo \\\n  FROM x\n",
        ["alpine:3"],
    ),
    "heredocs": (
        'FROM a\nRUN <<EOF cat && <<-"B" cat\nFROM no\nEOF\nFROM no\n\tB\nCOPY <<EOF /x\nFROM no\nEOF\nFROM b\n',
        ["a", "b"],
    ),
    "heredoc elsewhere": ("FROM a\nCMD echo <<EOF\nFROM b\n", ["a", "b"]),
    "escape": ("# escape=`\nFROM a`\n:b\nFROM c@sha256:00\n", ["a:b", "c@sha256:00"]),
    "broken": ('ARG A="x\nFROM a$A\nFROM\n', ['a"x']),
}


@pytest.mark.parametrize(("text", "images"), DOCKERFILES.values(), ids=DOCKERFILES)
def test_base_images_are_those_that_a_build_would_pull(text: str, images: list[str]) -> None:
    """A base image with a hole in it, and no way to tell which releases stand on it."""
    assert bases(text.encode(), {"GIVEN": "given:1", "OTHER": "x"}) == images


def test_the_dockerfile_is_the_one_that_is_built(clone: Clone, tmp_path: Path) -> None:
    """The base images of a Dockerfile that nobody builds."""
    toml = "[build]\ndockerfile = 'deploy/Dockerfile'\nargs = { V = '9' }\n"
    clone.commit({"adf.toml": toml, "deploy/Dockerfile": "ARG V=1\nFROM debian:$V\n"})
    clone.create(tmp_path, name="v1")
    assert json.loads((tmp_path / "v1.release.json").read_text())["base_images"] == ["debian:9"]


def test_an_app_in_one_folder_has_its_dockerfile_there(tmp_path: Path) -> None:
    """No release for a repository whose all lies in one folder, which an instance takes for the top."""
    clone = repository(tmp_path / "app")
    clone.commit({"web/Dockerfile": "FROM a\n", "web/x": "x"})
    clone.create(tmp_path, name="v1")
    assert json.loads((tmp_path / "v1.release.json").read_text())["base_images"] == ["a"]


# Never over other bytes


@pytest.fixture(scope="module")
def aws() -> Iterator[Cloud]:
    """One AWS for this file, and an operator's environment."""
    with Cloud() as cloud, pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(cloud).items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_REGION", raising=False)
        yield cloud


@pytest.fixture
def bucket(aws: Cloud) -> Any:
    """The client of that AWS, with an empty bucket."""
    aws.reset()
    aws.faults = []
    client = aws.client("s3")
    client.create_bucket(Bucket="releases", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return client


@dataclass(frozen=True)
class Shelf:
    """Where releases are put, and how a test looks and writes there."""

    to: str
    read: Callable[[str], bytes]
    write: Callable[[str, bytes], object]


@pytest.fixture(params=["folder", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    if request.param == "folder":
        folder = tmp_path / "shelf"
        folder.mkdir()
        return Shelf(
            str(folder), lambda name: (folder / name).read_bytes(), lambda name, data: (folder / name).write_bytes(data)
        )
    client = request.getfixturevalue("bucket")
    at: Callable[[str], dict[str, str]] = lambda name: {"Bucket": "releases", "Key": f"web/a b/{name}"}  # noqa: E731
    return Shelf(
        "s3://releases/web/a b/",
        lambda name: client.get_object(**at(name))["Body"].read(),
        lambda name, data: client.put_object(Body=data, **at(name)),
    )


def test_the_same_release_may_be_delivered_twice(
    clone: Clone, shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CI job that can't be run again."""
    url = clone.create(shelf.to, name="v1")
    tarball, note = shelf.read("v1.tar.gz"), shelf.read("v1.release.json")
    assert hashlib.sha256(tarball).hexdigest() == parse(url).sha256
    assert "already there" not in capsys.readouterr().err
    assert clone.create(shelf.to, name="v1") == url
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said if "already there: " in line] == ["v1.tar.gz", "v1.release.json"]
    assert (shelf.read("v1.tar.gz"), shelf.read("v1.release.json")) == (tarball, note)


@pytest.mark.parametrize("name", ["v1.tar.gz", "v1.release.json"])
def test_other_bytes_are_never_overwritten(clone: Clone, shelf: Shelf, name: str) -> None:
    """A release that changes under a fleet that boots it."""
    shelf.write(name, b"somebody's")
    with pytest.raises(ReleaseError, match=r"is there already, and holds other bytes") as caught:
        clone.create(shelf.to, name="v1")
    assert name in caught.value.sentence
    assert "--name" in caught.value.hint
    assert shelf.read(name) == b"somebody's"


def test_a_folder_that_can_not_be_written_is_said(clone: Clone, tmp_path: Path) -> None:
    """A traceback for a full disk, or a folder that is a file."""
    (tmp_path / "out").write_text("")
    with pytest.raises(ReleaseError, match=r"can't be written to .*/out: File exists") as caught:
        clone.create(tmp_path / "out")
    assert caught.value.cause == "host"


# S3


def at_s3(client: Any, tmp_path: Path, **changes: Any) -> Callable[[Deadline], bool]:
    """Puts a file of this name once more."""
    path = tmp_path / "v1.tar.gz"
    path.write_bytes(b"bytes")
    file = replace(File.of(path, "application/gzip"), **changes)
    return lambda deadline: S3.parse("s3://releases", lambda: client).put(file, lambda _: None, deadline)


def test_the_store_is_told_what_the_bytes_must_be(clone: Clone, bucket: Any) -> None:
    """A release broken on its way, found by the first instance."""
    url = clone.create("s3://releases/web", name="v1")
    assert url.startswith("s3://releases/web/v1.tar.gz#")
    for name, kind in (("v1.tar.gz", "application/gzip"), ("v1.release.json", "application/json")):
        answer = bucket.get_object(Bucket="releases", Key=f"web/{name}", ChecksumMode="ENABLED")
        digest = hashlib.sha256(answer["Body"].read()).digest()
        assert (answer["ChecksumSHA256"], answer["ContentType"]) == (b64encode(digest).decode(), kind)


def test_the_checksum_goes_before_the_bytes(bucket: Any, tmp_path: Path) -> None:
    """A checksum that is made of what was read for the upload, broken or not, not of the digest in RELEASE_URL."""
    sent: list[dict[str, bytes]] = []

    def note(request: Any, **_: object) -> None:
        sent.append({name.lower(): text for name, text in request.headers.items()})

    bucket.meta.events.register("before-send.s3.PutObject", note)
    try:
        assert at_s3(bucket, tmp_path, digest="00" * 32)(within())
    finally:
        bucket.meta.events.unregister("before-send.s3.PutObject", note)
    assert [headers["x-amz-checksum-sha256"] for headers in sent] == [b64encode(bytes(32))]  # moto looks at none
    assert "x-amz-trailer" not in sent[0]


def test_the_same_bytes_by_another_tool_are_the_same(bucket: Any, aws: Cloud, tmp_path: Path) -> None:
    """A release refused as `aws s3 cp` made another checksum; or taken though no one looked at its bytes."""
    bucket.put_object(Bucket="releases", Key="v1.tar.gz", Body=b"bytes")
    assert at_s3(bucket, tmp_path)(within()) is False
    bucket.put_object(Bucket="releases", Key="v1.tar.gz", Body=b"bytes", ChecksumAlgorithm="SHA256")
    before = aws.calls["s3:GET"]
    assert at_s3(bucket, tmp_path)(within()) is False
    assert aws.calls["s3:GET"] == before  # its checksum is enough


@pytest.mark.parametrize(("code", "times"), [("ConditionalRequestConflict", 1), ("BadDigest", 1), ("SlowDown", 5)])
def test_a_fault_that_passes_is_waited_for(bucket: Any, aws: Cloud, tmp_path: Path, code: str, times: int) -> None:
    """A release that is not there, as two jobs made it at once."""
    aws.faults = [AwsFault("s3:PUT", code, 409, times=times)]
    assert at_s3(bucket, tmp_path)(within())
    assert bucket.get_object(Bucket="releases", Key="v1.tar.gz")["Body"].read() == b"bytes"


def test_what_stays_is_to_be_tried_again(bucket: Any, aws: Cloud, tmp_path: Path) -> None:
    """Exit 12 for what would have passed: a CI job that gives up."""
    aws.faults = [AwsFault("s3:PUT", "ConditionalRequestConflict", 409)]
    with pytest.raises(ReleaseError, match=r"s3:PutObject on releases/v1.tar.gz failed: ConditionalReq") as caught:
        at_s3(bucket, tmp_path)(within(0.5))
    assert caught.value.exit_code == TRY_AGAIN


@pytest.mark.parametrize(("call", "action"), [("s3:PUT", "s3:PutObject"), ("s3:HEAD", "s3:GetObject")])
def test_a_denied_action_is_named(bucket: Any, aws: Cloud, tmp_path: Path, call: str, action: str) -> None:
    """AccessDenied with no word of what to allow."""
    bucket.put_object(Bucket="releases", Key="v1.tar.gz", Body=b"bytes")
    aws.faults = [AwsFault(call, "AccessDenied", 403)]
    with pytest.raises(ReleaseError, match=f"{action} on releases/v1.tar.gz is denied") as caught:
        at_s3(bucket, tmp_path)(within())
    assert action in caught.value.hint


def test_what_s3_can_not_take_is_said(clone: Clone, bucket: Any, tmp_path: Path) -> None:
    """Five gigabytes sent to be refused; a bucket's name mistyped and retried for a quarter of an hour."""
    with pytest.raises(ReleaseError, match=r"5368\.7 MB in one piece"):
        at_s3(bucket, tmp_path, size=S3_BYTES + 1)(within())
    with pytest.raises(ReleaseError, match=r"s3:PutObject on nobodys/.*NoSuchBucket") as caught:
        clone.create("s3://nobodys")
    assert not caught.value.transient


# Stopped, and seen


@pytest.mark.parametrize("to", ["s3://releases", "../out"])
@pytest.mark.usefixtures("bucket")
def test_a_stop_in_the_middle_leaves_nothing(clone: Clone, aws: Cloud, tmp_path: Path, to: str) -> None:
    """Ctrl-C that is heard when the upload is over, and gigabytes left in /tmp."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    if to == "../out":  # a pipe in place of an object: git waits until somebody writes
        digest = clone.git("rev-parse", "HEAD:page.html")
        blob = clone.path / ".git/objects" / digest[:2] / digest[2:]
        blob.unlink()
        os.mkfifo(blob)
    aws.faults = [AwsFault("s3:PUT", "SlowDown", 503, seconds=60)]
    before = aws.calls["s3:PUT"]

    def begun() -> bool:
        return any(scratch.glob("*/*.tar.gz")) if to == "../out" else aws.calls["s3:PUT"] > before

    with clone.start("--to", to, "--allow-dirty", environment={"TMPDIR": str(scratch)}) as process:
        end = time.monotonic() + 20
        while not begun() and time.monotonic() < end:
            time.sleep(0.02)
        assert begun()
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert time.monotonic() - asked < 10
    assert (process.returncode, out, err) == (130, "", "adf-release: stopped\n")
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_a_stop_is_heard_between_two_pieces(clone: Clone, tmp_path: Path) -> None:
    """A copy to a slow disk that can't be ended."""
    stop = threading.Event()

    def archived() -> None:
        with Repository(clone.path).archive(clone.git("rev-parse", "HEAD"), tmp_path, stop) as chunks:
            stop.set()
            next(chunks)

    with pytest.raises(Stopped):
        archived()
    path = tmp_path / "v1.tar.gz"
    path.write_bytes(b"bytes")
    with pytest.raises(Stopped):
        Folder(str(tmp_path / "out")).put(File.of(path, ""), lambda _: None, Deadline(20, stop))
    assert list((tmp_path / "out").iterdir()) == []


def test_an_upload_that_hangs_ends_at_the_deadline(bucket: Any, aws: Cloud, tmp_path: Path) -> None:
    """A CI job that takes its six hours."""
    aws.faults = [AwsFault("s3:PUT", "SlowDown", 503, seconds=60)]
    with pytest.raises(ReleaseError, match="not finished within") as caught:
        at_s3(bucket, tmp_path)(within(0.3))
    assert caught.value.exit_code == TRY_AGAIN


def test_a_terminal_sees_the_upload_proceed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes of a black screen, and Ctrl-C."""
    path = tmp_path / "v1.tar.gz"
    path.write_bytes(bytes(3 << 20))
    leader, follower = pty.openpty()
    with open(follower, "w") as terminal, open(leader, "rb", buffering=0) as screen:  # noqa: PTH123
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        deliver(Folder(str(tmp_path / "out")), File.of(path, "application/gzip"), within())
        seen = ""
        while "/out/v1.tar.gz" not in seen:
            seen += screen.read(1 << 16).decode(errors="replace")
    assert "3.1/3.1 MB" in seen
    assert f"v1.tar.gz: 3.1 MB, sha256 {File.of(path, '').digest[:12]}, to file://{tmp_path}/out/v1.tar.gz" in seen
