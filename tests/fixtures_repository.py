"""A developer's git repository, and `adf-release create` in it."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError
from adf_agent.ops.release.create import create

MAIN = "import sys; from adf_agent.ops.release.cli import main; sys.exit(main())"
PERSON = ("-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "protocol.file.allow=always")


@dataclass(frozen=True)
class Clone:
    """A repository at *path*, of which no setting comes from whoever runs the tests."""

    path: Path

    def git(self, *words: str, **environment: str) -> str:
        """What `git WORDS…` prints."""
        env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **environment}
        command = ["git", *PERSON, *words]
        return subprocess.run(
            command, cwd=self.path, env=env, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: Mapping[str, str | bytes]) -> str:
        """Commits *files* with all else that is there; returns the commit's digest."""
        self.write(files)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=x", GIT_COMMITTER_DATE="2026-02-03T04:05:06+0500")
        return self.git("rev-parse", "HEAD")

    def block(self) -> None:
        """Has a pipe in place of an object: git waits until somebody writes."""
        digest = self.git("rev-parse", "HEAD:page.html")
        blob = self.path / ".git/objects" / digest[:2] / digest[2:]
        blob.unlink()
        os.mkfifo(blob)

    def create(
        self,
        to: Path | str,
        ref: str = "HEAD",
        name: str | None = None,
        *,
        allow_dirty: bool = False,
        sign: str | None = None,
    ) -> str:
        """The RELEASE_URL that `adf-release create` prints, run in this process."""
        with contextlib.chdir(self.path):
            return create(ref, name, str(to), Deadline(60, threading.Event()), allow_dirty=allow_dirty, sign=sign)

    def start(
        self, *words: str, umask: int = 0o022, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """`adf-release create WORDS…`, in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", MAIN, "create", *words],
            cwd=self.path,
            env={**os.environ, **(environment or {})},
            umask=umask,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ran(
        self, *words: str, umask: int = 0o022, environment: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Its exit code, standard output and standard error."""
        with self.start(*words, umask=umask, environment=environment) as process:
            try:
                out, err = process.communicate(timeout=20)
            finally:
                process.terminate()  # so that it ends git too, where it hangs
        return process.returncode, out, err


def repository(path: Path) -> Clone:
    """An empty repository at *path*."""
    path.mkdir(parents=True, exist_ok=True)
    clone = Clone(path)
    clone.git("init", "--quiet", "--initial-branch=main")
    return clone


def refused(clone: Clone, to: Path, *arguments: str, **more: Any) -> AgentError:
    """The refusal of a release of which nothing is delivered."""
    with pytest.raises(AgentError) as caught:
        clone.create(to, *arguments, **more)
    assert (caught.value.exit_code, bool(caught.value.hint), to.exists()) == (12, True, False)
    return caught.value


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A repository with one commit that makes a release, and no tag."""
    made = repository(tmp_path / "app")
    made.commit({"Dockerfile": "FROM alpine:3\n", "page.html": "hello\n", ".gitignore": "*.log\n"})
    return made
