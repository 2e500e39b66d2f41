"""adf-release create asks git: what it lacks is a sentence, and half of an archive is none."""

import os
import threading
from pathlib import Path

import pytest
from fixtures_repository import Clone, refused, repository

from adf_agent.deadline import Deadline
from adf_agent.errors import TRY_AGAIN, Stopped
from adf_agent.ops.release.repository import Repository


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


@pytest.mark.parametrize("name", [b"new\nline", b"\xff\xfe", b'quo"te\\back'])
def test_a_clone_may_lie_anywhere(clone: Clone, tmp_path: Path, name: bytes) -> None:
    """A build server's folder, named after a branch, from which nothing can be released."""
    place = tmp_path / os.fsdecode(name)
    clone.git("clone", "--quiet", str(clone.path), str(place))
    assert Clone(place).create(tmp_path / "out", name="v1")
    (place / "sub").mkdir()
    assert Clone(place / "sub").create(tmp_path / "out", name="v1")


def test_replaced_objects_are_not_what_is_released(clone: Clone, tmp_path: Path) -> None:
    """A description that says another base image than the tarball holds."""
    url = clone.create(tmp_path / "out", name="v1")
    (tmp_path / "Dockerfile").write_text("FROM other\n")
    other = clone.git("hash-object", "-w", str(tmp_path / "Dockerfile"))
    clone.git("replace", clone.git("rev-parse", "HEAD:Dockerfile"), other)
    assert clone.create(tmp_path / "out", name="v1") == url


def test_ctrl_c_in_git_is_ctrl_c(clone: Clone, tmp_path: Path) -> None:
    """An interrupted command that sends its user to `git fsck`."""
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "git").write_text("#!/bin/sh\nkill -INT $$\n")
    (fake / "git").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
        with pytest.raises(Stopped):
            clone.create(tmp_path / "out")


def test_a_clone_that_lacks_an_object_makes_no_release(clone: Clone, tmp_path: Path) -> None:
    """Half a tarball, delivered, as git's exit code was not looked at."""
    digest = clone.git("rev-parse", "HEAD:page.html")
    (clone.path / ".git/objects" / digest[:2] / digest[2:]).unlink()
    error = refused(clone, tmp_path / "out", allow_dirty=True)
    assert error.sentence.startswith("git archive failed: ")
    assert digest in error.sentence


def test_a_stop_ends_git_too(clone: Clone, tmp_path: Path) -> None:
    """An archive of gigabytes that can't be ended."""
    stop = threading.Event()

    def archived() -> None:
        deadline = Deadline(20, stop)
        with Repository(clone.path).archive(clone.git("rev-parse", "HEAD"), tmp_path, deadline) as chunks:
            stop.set()
            next(chunks)

    with pytest.raises(Stopped):
        archived()


def test_a_disk_that_hangs_ends_at_the_deadline(clone: Clone, tmp_path: Path) -> None:
    """A CI job that takes its six hours, and says in the end that the release can't be written."""
    clone.block()
    code, out, err = clone.ran("--timeout", "0.3s", "--allow-dirty", "--to", "../out")
    assert (code, out, (tmp_path / "out").exists()) == (TRY_AGAIN, "", False)
    assert "the release was not finished in time" in err
    assert "--timeout" in err
