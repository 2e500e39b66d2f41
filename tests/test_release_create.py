"""adf-release create: the same bytes from every clone, refused where an instance would, never over other bytes."""

import hashlib
import io
import json
import tarfile
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from fixtures_repository import Clone, refused, repository

from adf_agent import release, store
from adf_agent.deadline import Deadline
from adf_agent.errors import ReleaseError
from adf_agent.location import parse
from adf_agent.notation import Limits

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5000000\n"


def within(seconds: float = 20) -> Deadline:
    return Deadline(seconds, threading.Event())


def file_of(url: str) -> Path:
    """The file that a RELEASE_URL names, and pins."""
    path = Path(unquote(urlsplit(url).path))
    assert url.endswith(f"#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}")
    return path


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


# The name

NAMES = [
    ((), "HEAD", None, "{commit}"),
    (("v1",), "HEAD", None, "v1"),
    (("v1",), "main", None, "v1"),
    (("v1", "v2"), "v2", None, "v2"),
    (("v1", "v2"), "refs/tags/v2", None, "v2"),
    (("v1", "v2"), "HEAD", "v3", "v3"),
    (("release/v1+rc",), "HEAD", None, "release-v1-rc"),
    ((), "HEAD", "v1.targz", "v1.targz"),
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
    ((), "-x", "'-x' can't be"),
    (("é",), None, "'-' can't be"),
    ((), "a" * 101, "can't be"),
    ((), "v1.tar.gz", "can't be"),
    ((), "v1.TGZ", "can't be"),
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
    clone.write({".adf-release-x1/v3.tar.gz": "x", "v4.tar.gz": "x"})  # of one that was killed, or is under way
    with pytest.raises(ReleaseError, match=r"^1 file \(v4\.tar\.gz\)"):
        clone.create("dist", name="v3")
    with pytest.raises(ReleaseError, match="holds other bytes"):
        clone.create(".", name="v4")


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


@pytest.mark.parametrize(
    "to",
    [
        "https://x/y",
        "s3://",
        "s3://a",
        "github:web",
        "github:o/r/s",
        "",
        "S3://bucket",
        "s3:x",
        "gihub:o/r",
        "github:../..",
    ],
)
def test_a_place_that_is_none_is_refused(clone: Clone, to: str) -> None:
    """A folder `https:` in the repository, for the release that somebody waits for in another place."""
    with pytest.raises(ReleaseError) as caught:
        clone.create(to)
    assert to in caught.value.sentence
    assert not [path for path in clone.path.iterdir() if ":" in path.name]


# Base images


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
