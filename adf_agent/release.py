"""The release: downloaded whole, held against its digest and the archive's rules, before anything is built of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adf_agent import archive, download
from adf_agent.archive import Archive
from adf_agent.deadline import Deadline
from adf_agent.download import Source
from adf_agent.errors import ReleaseError
from adf_agent.location import Location
from adf_agent.manifest import Manifest
from adf_agent.notation import Limits, in_words

FILE = "release.tar"  # whatever its compression; one at a time, as an instance is deployed to once


@dataclass(frozen=True)
class Release:
    """A release that may be built or pulled. *digest* is its SHA-256 (64 hex digits): the bytes', or the image's.

    *archive* is None for an image of a registry, and where the image is built already. *digest* is empty for an image
    named by a tag, until it has been pulled.
    """

    location: Location
    name: str
    digest: str
    manifest: Manifest
    archive: Archive | None = None
    size: int = 0
    recorded: bool = False  # known from an earlier boot of this instance

    def shown(self) -> dict[str, Any]:
        """What the record has of it."""
        return {"name": self.name, "url": self.location.shown, "digest": self.digest, "size": self.size}

    @property
    def fact(self) -> str:
        size = f", {in_words(self.size)}" if self.size else ""
        digest = f", sha256 {self.digest[:12]}" if self.digest else ""
        return f"{self.name}{size}{digest}{', as recorded here' if self.recorded else ''}"


def obtain(location: Location, name: str, source: Source, folder: Path, limits: Limits, deadline: Deadline) -> Release:
    """The release at *location*, its file in *folder*, verified. Raises ReleaseError, leaving no file."""
    path = folder / FILE
    fetched = download.fetch(source, path, deadline)
    try:
        _check_digest(location, fetched.digest)
        checked = archive.inspect(path, limits)
    except ReleaseError:
        path.unlink()
        raise
    return Release(location, name, fetched.digest, checked.manifest, checked, fetched.size)


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Keeps the release's file in *folder* for as long as this lasts: nothing needs it once there is an image."""
    try:
        yield
    finally:
        (folder / FILE).unlink(missing_ok=True)


def _check_digest(location: Location, digest: str) -> None:
    if location.sha256 not in (None, digest):
        raise ReleaseError(
            f"the release's digest is {digest}, RELEASE_URL pins {location.sha256}",
            hint="Somebody changed the file behind the URL: make the release anew, or mend #sha256=.",
        )


def of_registry(location: Location, name: str) -> Release:
    """The release that is an image in a registry: nothing to download, no adf.toml."""
    return Release(location, name, location.reference.partition("@sha256:")[2], Manifest())
