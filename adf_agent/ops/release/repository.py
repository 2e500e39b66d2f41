"""The git repository that a release is made of: which commit, what is on it, and its archive."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from adf_agent.deadline import Deadline
from adf_agent.errors import ReleaseError, Stopped
from adf_agent.ops.release.attempt import attempt

CHUNK = 1 << 20  # bytes
SUBMODULE = "160000"  # its mode in a tree
# No user's and no machine's settings and attributes count, only what is committed.
ALONE = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ATTR_NOSYSTEM": "1", "LC_ALL": "C"}
PLAIN = {"LC_ALL": "C", "GIT_NO_REPLACE_OBJECTS": "1"}  # what is said, and read, is the same for everybody
# What is left to choose. Of a commit's short form the length grows with the repository, so it is long from the start.
# Larger files go through git in pieces.
PINNED = ("tar.umask=0022", "core.autocrlf=false", "core.eol=lf", "core.abbrev=20", "core.bigFileThreshold=16m")


class Repository:
    """The repository that *folder* is in, bare or not. Raises ReleaseError where there is none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        try:
            asked = ("--is-inside-work-tree", "--show-object-format", "--git-path", "objects")
            inside, self._format, objects = self._git("rev-parse", *asked).removesuffix("\n").split("\n", 2)
        except ReleaseError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise
            hint = "Run it in a clone of the app's repository, as the clone's owner."
            raise ReleaseError(f"there is no git repository to be read here: {_said(error)}", hint=hint) from error
        self._inside = inside == "true"
        self._objects = (self._folder / objects).resolve()

    def commit(self, ref: str) -> str:
        """The digest of the commit that *ref*, a branch, tag or digest, stands for."""
        try:
            if not ref.startswith("-"):  # git would take it for an option
                return self._git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
        except ReleaseError as error:
            if ref == "HEAD":
                raise ReleaseError("the repository has no commit yet", hint="Commit first.") from error
        hint = "See `git branch --all` and `git tag`; a shallow clone has not all of them (git fetch --tags)."
        raise ReleaseError(f"no commit, branch or tag of this repository is named {ref!r}", hint=hint)

    def tags(self, commit: str) -> list[str]:
        """The tags on *commit*, in the order of their names."""
        refs = self._git("for-each-ref", "--format=%(refname)", f"--points-at={commit}", "refs/tags").split("\n")
        return [ref.removeprefix("refs/tags/") for ref in refs if ref]

    def time(self, commit: str) -> str:
        """When *commit* was made, as ISO 8601 in UTC."""
        seconds = int(self._git("show", "--no-patch", "--no-show-signature", "--format=%ct", commit))
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def changes(self) -> list[str]:
        """The files that differ from HEAD, or are in no commit at all and not ignored either."""
        if not self._inside:
            return []
        options = ("--porcelain", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=none")
        return [entry[3:] for entry in self._git("status", *options).split("\0") if entry]

    def submodules(self, commit: str) -> list[str]:
        """The folders that other repositories would be put into."""
        entries = self._git("ls-tree", "-r", "-z", "--full-tree", commit).split("\0")
        return [entry.partition("\t")[2] for entry in entries if entry.startswith(SUBMODULE)]

    def file(self, commit: str, path: str) -> bytes:
        """The content of the file *path* of *commit*."""
        return self._git("cat-file", "blob", f"{commit}:{path}").encode(errors="surrogateescape")

    @contextmanager
    def archive(self, commit: str, scratch: Path, deadline: Deadline) -> Iterator[Iterator[bytes]]:
        """The tar of *commit*, in chunks, as any clone of it gives it. Raises ReleaseError, Stopped.

        It comes from an empty repository in the folder *scratch* that borrows the objects: neither `info/attributes`
        nor filters (LFS's among them), replacements, or tags that `export-subst` would name are known there. What
        stays out of our hands: the versions of git, and `export-subst` of times "ago" and signatures.
        """
        borrowing, errors = scratch / "git", scratch / "git.log"
        options = ("--quiet", "--bare", "--template=", f"--object-format={self._format}")
        self._git("init", *options, str(borrowing), environment=_environment(ALONE))
        (borrowing / "objects/info").mkdir(exist_ok=True)
        (borrowing / "objects/info/alternates").write_bytes(_quoted(os.fsencode(self._objects)) + b"\n")
        pins = [word for pinned in PINNED for word in ("-c", pinned)]
        command = ["git", f"--git-dir={borrowing}", *pins, "archive", "--format=tar", commit]
        with errors.open("wb") as log, subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=_environment(ALONE)
        ) as process:  # fmt: skip
            try:
                yield _chunks(process, deadline)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise _failure("archive", errors.read_text(errors="replace"))

    def _git(self, *arguments: str, environment: Mapping[str, str] = os.environ) -> str:
        """What git writes. Raises ReleaseError with what it says where it fails."""
        command = ["git", "--no-optional-locks", "-C", str(self._folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, env={**environment, **PLAIN}, check=False)
        except FileNotFoundError as error:
            raise ReleaseError("git is missing on this machine", hint="Install git.", cause="host") from error
        if done.returncode in (-signal.SIGINT, 128 + signal.SIGINT):  # a terminal's Ctrl-C is git's too
            raise Stopped
        if done.returncode:
            raise _failure(arguments[0], done.stderr.decode(errors="replace"))
        return done.stdout.decode(errors="surrogateescape")


def _quoted(path: bytes) -> bytes:
    """*path* as `info/alternates` has it, whatever bytes it holds (gitrepository-layout(5))."""
    return b'"%s"' % path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's without git's own variables, and *more*."""
    return {**{name: text for name, text in os.environ.items() if not name.startswith("GIT_")}, **more}


def _chunks(process: "subprocess.Popen[bytes]", deadline: Deadline) -> Iterator[bytes]:
    assert process.stdout is not None  # noqa: S101  PIPE above
    pipe = process.stdout
    while chunk := attempt(lambda: pipe.read(CHUNK), deadline):  # git may wait for a disk
        deadline.check()
        yield chunk
    deadline.check()  # Ctrl-C ends git too


def _failure(command: str, said: str) -> ReleaseError:
    lines = [line.partition(": ")[2] for line in said.splitlines() if line.startswith(("fatal: ", "error: "))]
    sentence = lines[0] if lines else (said.strip().splitlines() or ["no word why"])[-1]
    hint = "See `git fsck`; a partial clone lacks files until they are fetched (git fetch --refetch --no-filter)."
    return ReleaseError(f"git {command} failed: {sentence}", hint=hint)


def _said(error: ReleaseError) -> str:
    return error.sentence.partition(" failed: ")[2]
