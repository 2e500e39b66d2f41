"""The release: there, of what size, pinned to what; opened as the boot opens it, and closed again."""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from adf_agent import release as signing
from adf_agent import store
from adf_agent.doctor.case import Case, is_ordinary
from adf_agent.doctor.check import Finding, Skipped
from adf_agent.download import Body, Source
from adf_agent.errors import ReleaseError
from adf_agent.launch import Launch
from adf_agent.location import Location
from adf_agent.notation import in_words

SMALL_BYTES = 64 << 20  # of a file on this machine, whose digest takes a tenth of a second


def release(case: Case) -> Iterator[Finding]:
    """Whether it can be had; for an image of a registry, that is another check."""
    launched = case.launched.need()
    settings, location = launched.settings, launched.settings.release_url
    settings.release_sources.check(location)
    if location.scheme == "s3":
        case.region.need()
    # Whether it is signed at all, and in a form that counts: by whom, only its bytes tell.
    if signers := signing.signers(location, settings.release_keys, lambda at: _source(case, launched, at)):
        signers.signature(case.deadline)
    if location.scheme == "docker":
        return
    body = _opened(_source(case, launched, location))
    with closing(body.chunks):
        size = "of a size that nobody tells" if body.total is None else in_words(body.total)
    yield judge_digest(location, size, _digest(case, location, body.total))


def _source(case: Case, launched: Launch, location: Location) -> Source:
    settings = launched.settings
    token = case.token.own if settings.release_token else None
    return store.source(location, lambda: case.host.s3(launched.identity.region), token, settings.release_sources)


def _opened(source: Source) -> Body:
    """By a GET, as a HEAD is refused where GitHub or a presigned URL leads to; the bytes are not read."""
    try:
        return source.open(0, "")
    except ReleaseError as error:
        if isinstance(error.__cause__, PermissionError) and is_ordinary():
            raise Skipped(error.sentence, "sudo adf-agent doctor") from error
        raise


def _digest(case: Case, location: Location, total: int | None) -> str:
    """SHA-256 of the bytes, where it is cheap to know: of a small file here, and of what was built here; else ""."""
    if location.path and (total or 0) <= SMALL_BYTES:
        return _hashed(location.path)
    recorded = case.record.get("release") or {}
    return str(recorded.get("digest") or "") if recorded.get("url") == location.shown else ""


def _hashed(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Skipped(f"this user can't read {path}") from error


def judge_digest(location: Location, size: str, digest: str) -> Finding:
    """*digest* is that of the bytes, "" where it is not known without a download."""
    url = location.shown.partition("#")[0]
    there = f"{url} is there, {size}"
    if location.sha256 is None:
        pin = f"#sha256={digest}" if digest else "#sha256=<hex>"
        return Finding("ok", f"{there}; not pinned to a digest", f"Pin it: RELEASE_URL={url}{pin}")
    if digest and digest != location.sha256:
        return Finding(
            "fail",
            f"the release's digest is {digest}, RELEASE_URL pins {location.sha256}",
            "Somebody changed the file behind the URL: make the release anew, or mend #sha256=.",
        )
    known = "whose digest is the pinned one" if digest else "pinned; only a download tells its digest"
    return Finding("ok", f"{there}, {known}")
