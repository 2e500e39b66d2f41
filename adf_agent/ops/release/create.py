"""`adf-release create`: a release of a commit, checked as an instance would, and delivered."""

import re
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from adf_agent import archive, location
from adf_agent.archive import Archive
from adf_agent.deadline import Deadline
from adf_agent.errors import ReleaseError
from adf_agent.location import NOTE
from adf_agent.notation import Limits
from adf_agent.ops.release import package
from adf_agent.ops.release.attempt import attempt
from adf_agent.ops.release.bases import bases
from adf_agent.ops.release.delivery import S3, UNDER_WAY, Folder, Place, deliver
from adf_agent.ops.release.package import File
from adf_agent.ops.release.repository import Repository
from adf_agent.ops.release.sign import signed
from adf_agent.signature import SUFFIX

TARBALL = ".tar.gz"


def create(
    ref: str, name: str | None, to: str, deadline: Deadline, *, allow_dirty: bool, sign: str | None = None
) -> str:
    """The RELEASE_URL of the release of the commit *ref*, delivered *to* its place. Raises AgentError, Stopped.

    *name* is the release's, None for that of the tag on the commit; *sign* the file of the key to sign it with.
    """
    repository = Repository(Path())
    commit = repository.commit(ref)
    tag = name if name is not None else _tag(repository, ref, commit)
    name = name if name is not None else location.release_name(tag)
    _check_name(name, name)
    if not allow_dirty:
        _check_clean(repository, commit, name)
    place = _place(to, tag, commit)
    _check_name(name, location.parse(place.url(name + TARBALL)).name)
    with TemporaryDirectory(prefix="adf-release-") as folder:
        files = [*_packed(repository, commit, Path(folder, name), deadline)]
        if sign is not None:
            files[1:1] = [signed(files[0], name, Path(sign), deadline)]
        for file in files:  # the tarball first: where it is refused, no note of it is left
            deliver(place, file, deadline)
        return f"{place.url(name + TARBALL)}#sha256={files[0].digest}"


def _check_clean(repository: Repository, commit: str, name: str) -> None:
    """Raises ReleaseError where files of the work tree differ from *commit* though it is what lies there."""
    changes = repository.changes()
    left_out = [path for path in changes if not _made(path, changes, name)]
    if commit != repository.commit("HEAD") or not left_out:
        return
    raise ReleaseError(
        f"{package.some(left_out, 'file')} would be left out of the release, or come as in the last commit",
        hint="Commit or ignore them; --allow-dirty makes the release of the commit all the same.",
    )


def _made(path: str, changes: list[str], name: str) -> bool:
    """Whether it is a release that was delivered, or is on its way, into the work tree.

    Were it dirty by that, the same command twice would fail: also after one that broke off, or beside another.
    """
    stem = path.removesuffix(SUFFIX).removesuffix(TARBALL).removesuffix(NOTE)
    whole = {stem + TARBALL, stem + NOTE} <= {*changes} or Path(stem).name == name
    return (stem != path and whole) or any(part.startswith(UNDER_WAY) for part in Path(path).parts)


def _tag(repository: Repository, ref: str, commit: str) -> str:
    """What names the release: *ref* if it is a tag, else the only tag on *commit*, else the commit's first digits."""
    tags = repository.tags(commit)
    asked = ref.removeprefix("refs/").removeprefix("tags/")
    if asked in tags:
        tags = [asked]
    if len(tags) > 1:
        hint = "Choose one by --ref TAG, or another name by --name."
        raise ReleaseError(f"the commit has {package.some(tags, 'tag')}, each of which could name it", hint=hint)
    if tags and not location.release_name(tags[0]):
        raise ReleaseError(f"tag {tags[0]!r} makes no release name: it is too long", hint="Choose another by --name.")
    return tags[0] if tags else commit[: location.SHORT]


def _check_name(name: str, derived: str) -> None:
    """Raises ReleaseError where an instance would call the release *derived*, not *name*."""
    if (
        not re.match(r"\w", name, re.ASCII)
        or not name == derived == location.release_name(name)
        or re.search(location.ARCHIVE_SUFFIX, name)
    ):
        hint = (
            "Letters, digits, . _ and -, 100 at most, a letter or digit first; "
            "neither an archive's suffix nor a whole digest."
        )
        raise ReleaseError(f"{name!r} can't be a release's name", hint=hint)


def _place(to: str, tag: str, commit: str) -> Place:
    if to.startswith("github:"):
        from adf_agent.ops.release.github import GitHub  # noqa: PLC0415

        return GitHub.parse(to, tag, commit)
    if to.startswith("s3://"):
        return S3.parse(to, _s3)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", to) or not to:  # a slip in s3:// must not make a folder and end well
        hint = "Write --to FOLDER (./a:b for one with a colon), s3://bucket/prefix or github:owner/repository."
        raise ReleaseError(f"a release can't be delivered to {to!r}", hint=hint)
    return Folder(to)


def _s3() -> Any:
    from botocore.config import Config  # noqa: PLC0415  a third of a second that a folder does not need

    from adf_agent.ops.account import Account  # noqa: PLC0415

    # urllib3 takes the time to connect for that of each send as well: a stalled uplink has a minute.
    return Account().client("s3", Config(retries={"mode": "standard"}, connect_timeout=60, read_timeout=60))


def _packed(repository: Repository, commit: str, stem: Path, deadline: Deadline) -> tuple[File, File]:
    """The tarball, which an instance would take, and the note about it; *stem* is their path without suffix."""
    path, note = stem.with_name(stem.name + TARBALL), stem.with_name(stem.name + NOTE)
    with repository.archive(commit, stem.parent, deadline) as chunks:
        package.tarball(chunks, path)
    checked = attempt(lambda: _checked(repository, commit, path), deadline)
    made = File.of(path, "application/gzip")
    package.describe(
        note,
        name=stem.name,
        commit=commit,
        digest=made.digest,
        size=made.size,
        time=repository.time(commit),
        base_images=_bases(repository, commit, checked),
    )
    return made, File.of(note, "application/json")


def _checked(repository: Repository, commit: str, path: Path) -> Archive:
    checked = archive.inspect(path, Limits())
    package.check_whole(path, repository, commit)
    return checked


def _bases(repository: Repository, commit: str, checked: Archive) -> list[str]:
    build = checked.manifest.build
    dockerfile = repository.file(commit, str(PurePosixPath(checked.top, build.dockerfile)))
    return bases(dockerfile, build.args)
