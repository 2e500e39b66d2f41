"""The release: downloaded whole, held against its digest and the archive's rules, before anything is built of it."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adf_agent import archive, download, note, signature
from adf_agent.archive import Archive
from adf_agent.deadline import Deadline
from adf_agent.download import Source
from adf_agent.errors import ReleaseError
from adf_agent.location import NOTE, Location, beside
from adf_agent.manifest import Manifest
from adf_agent.notation import Limits, in_words
from adf_agent.signature import Key, Signature

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
    signature: Signature | None = None  # what was verified, where a signature is asked for
    note: str = ""  # SHA-256 of the note that names it, where one does

    def shown(self) -> dict[str, Any]:
        """What the record has of it."""
        return {"name": self.name, "url": self.location.shown, "digest": self.digest, "size": self.size}

    @property
    def fact(self) -> str:
        size = f", {in_words(self.size)}" if self.size else ""
        digest = f", sha256 {self.digest[:12]}" if self.digest else ""
        signed = f", signed by {self.signature.id}" if self.signature else ""
        return f"{self.name}{size}{digest}{signed}{', as recorded here' if self.recorded else ''}"


@dataclass(frozen=True)
class Signers:
    """That one of *keys* must have signed the release; *source* is its signature's."""

    keys: tuple[Key, ...]
    source: Source

    def signature(self, deadline: Deadline) -> Signature:
        """What lies beside the release. Raises ReleaseError."""
        try:
            data = download.read(self.source, signature.LARGEST, "the release's signature", deadline)
        except ReleaseError as error:
            if error.transient:
                raise
            hint = f"Deliver it beside the release, by adf-release create --sign or minisign -SH. {error.hint}"
            raise type(error)(f"the release is not signed: {error.sentence}", hint=hint, cause=error.cause) from error
        return Signature.parse(data)


def obtain(
    location: Location,
    name: str,
    source: Source,
    folder: Path,
    limits: Limits,
    deadline: Deadline,
    signers: Signers | None = None,
) -> Release:
    """The release at *location*, its file in *folder*, verified. Raises ReleaseError, leaving no file.

    Of a note it is the image that the note names; nothing is pulled yet, and no file is there.
    """
    signed = signers.signature(deadline) if signers else None  # first: what nobody signed is not downloaded
    if location.is_note:
        return _noted(location, name, source, deadline, signers, signed)
    path = folder / FILE
    fetched = download.fetch(source, path, deadline, signed=signed is not None)
    try:
        _check_digest(location, fetched.digest)
        if signers and signed:
            signed.verify(fetched.prehash, signers.keys, location.name)
        checked = archive.inspect(path, limits, fetched.file)
    except ReleaseError:
        download.discard(path, fetched.file)
        raise
    return Release(location, name, fetched.digest, checked.manifest, checked, fetched.size, signature=signed)


def _noted(
    location: Location, name: str, source: Source, deadline: Deadline, signers: Signers | None, signed: Signature | None
) -> Release:
    data = download.read(source, signature.LARGEST, "the note about the release", deadline)
    digest = hashlib.sha256(data).hexdigest()
    _check_digest(location, digest)
    if signers and signed:
        signed.verify(hashlib.blake2b(data).digest(), signers.keys, location.name)
    return dataclasses.replace(of_registry(note.image(data, location.name), name), signature=signed, note=digest)


def signers(location: Location, keys: tuple[Key, ...], source: Callable[[Location], Source]) -> Signers | None:
    """Who must have signed the release at *location*: one of *keys*, None without any. Raises ReleaseError."""
    return Signers(keys, source(_signature_at(location))) if keys else None


def _signature_at(location: Location) -> Location:
    """Where its signature lies. Raises ReleaseError where none can."""
    hint = "Use https://, s3:// or file://."
    what = f"{location.scheme}://"
    if location.scheme == "docker":
        hint = f"Name the image by its digest in a note, NAME{NOTE}, sign that, and have RELEASE_URL name it."
    elif location.github and location.github.kind in ("archive", "asset"):
        what = "an archive or a number of GitHub's, which can have no signature beside it"
        hint = "Have both files as assets of a release: adf-release create --sign KEYFILE --to github:owner/repository."
    elif location.scheme != "http":
        return beside(location, signature.SUFFIX)
    raise ReleaseError(f"this AMI takes signed releases only (ADF_RELEASE_KEYS), and RELEASE_URL is {what}", hint=hint)


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Keeps the release's file in *folder* for as long as this lasts: until there is an image.

    Docker makes a container only once the disk has all that was written, as overlayfs syncs what lies beneath it when
    it is unmounted (Linux, fs/overlayfs/super.c), and need not wait for a file that is gone.
    """
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
