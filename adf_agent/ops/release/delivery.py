"""Where a release is delivered to: a folder, or S3. Other bytes under a name that exists are never overwritten."""

import hashlib
import os
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.parse import quote

from adf_agent import location, store
from adf_agent.aws import asking, code, fault, faults
from adf_agent.deadline import Deadline
from adf_agent.download import CHUNK, Source, broken
from adf_agent.errors import ReleaseError
from adf_agent.notation import in_words
from adf_agent.ops.release.attempt import attempt
from adf_agent.ops.release.package import File, Seen, writing

UNDER_WAY = ".adf-release-"  # how a folder's name begins that is there while a file is delivered beside it
S3_BYTES = 5 * 2**30  # in one PutObject: https://docs.aws.amazon.com/AmazonS3/latest/userguide/upload-objects.html
# Another writer was there at the same time, or the bytes were not those of the checksum when they came.
PASSING = frozenset({"ConditionalRequestConflict", "OperationAborted", "BadDigest", "InvalidDigest"})


class Place(Protocol):
    def url(self, name: str) -> str:
        """The RELEASE_URL of a file of this *name*, without the digest."""

    def put(self, file: File, seen: Seen, deadline: Deadline) -> bool:
        """Delivers *file*; False where its very bytes are there already. Raises ReleaseError, Stopped."""


def deliver(place: Place, file: File, deadline: Deadline) -> None:
    """Delivers *file*, and says so on standard error."""
    with _progress(file) as seen:
        new = place.put(file, seen, deadline)
    where = f"to {place.url(file.name)}" if new else f"already there: {place.url(file.name)}"
    print(f"{file.name}: {in_words(file.size)}, sha256 {file.digest[:12]}, {where}", file=sys.stderr, flush=True)


def other_bytes(place: str) -> ReleaseError:
    """The refusal to overwrite what is at *place*."""
    return ReleaseError(
        f"{place} is there already, and holds other bytes",
        hint="A release is never overwritten: give this one another name (--name, or a tag on its commit).",
    )


def check_same(source: Source, file: File, place: str) -> None:
    """Raises ReleaseError where *source*, at *place*, does not give *file*'s bytes; it is read to its end."""
    body, digest, size = source.open(0, ""), hashlib.sha256(), 0
    with closing(body.chunks):
        for chunk in body.chunks:
            digest.update(chunk)
            size += len(chunk)
    if body.total not in (None, size):
        raise broken(f"it broke off after {size} of {body.total} bytes")
    if digest.hexdigest() != file.digest:
        raise other_bytes(place)


class Folder:
    """A folder of this machine, made where it is missing."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).expanduser().resolve()

    def url(self, name: str) -> str:
        return (self._path / name).as_uri()

    def put(self, file: File, seen: Seen, deadline: Deadline) -> bool:
        target = self._path / file.name
        with writing(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self._path, prefix=UNDER_WAY) as folder:
                copy = Path(folder, file.name)
                _copy(file, copy, seen, deadline)
                with suppress(OSError):  # FAT has no hard links, nor have many mounts; what else there is, a copy meets
                    os.link(copy, target)  # whole, and never over another
                    return True
                try:
                    _copy(file, target, seen, deadline)
                except FileExistsError:
                    check_same(store.LocalFile(target), file, str(target))
                    return False
        return True


def _copy(file: File, target: Path, seen: Seen, deadline: Deadline) -> None:
    """Writes *file* to *target*, which must not be there yet; to its end, or not at all."""
    written = target.open("xb")
    try:
        with written, file.open(seen) as source:
            while chunk := source.read(CHUNK):
                deadline.check()
                written.write(chunk)
    except BaseException:
        target.unlink()
        raise


class S3:
    """The objects of *bucket* whose keys begin with *prefix*. The store verifies what it got by its SHA-256."""

    def __init__(self, bucket: str, prefix: str, client: Any) -> None:
        self._bucket, self._prefix, self._client = bucket, prefix.strip("/"), client

    @classmethod
    def parse(cls, place: str, client: Callable[[], Any]) -> "S3":
        """From `s3://bucket/prefix`. Raises ReleaseError."""
        form = re.fullmatch(r"s3://([A-Za-z0-9._-]{3,255})(?:/(.*))?", place)
        if form is None or not place.isprintable():
            raise ReleaseError(f"{place!r} names no bucket of S3", hint="Write --to s3://bucket/prefix.")
        return cls(form[1], form[2] or "", client())

    def url(self, name: str) -> str:
        return f"s3://{self._bucket}/{quote(self._key(name))}"

    def put(self, file: File, seen: Seen, deadline: Deadline) -> bool:
        if file.size > S3_BYTES:
            raise ReleaseError(
                f"the release is {in_words(file.size)}; S3 takes {in_words(S3_BYTES)} in one piece",
                hint="Leave out what it does not need (export-ignore in .gitattributes), or build an image of it.",
            )
        return deadline.retry(lambda: attempt(lambda: self._put(file, seen), deadline))

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".lstrip("/")

    def _put(self, file: File, seen: Seen) -> bool:
        place = f"{self._bucket}/{self._key(file.name)}"
        try:
            with file.open(seen) as body:
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._key(file.name),
                    Body=body,
                    ContentType=file.type,
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=_base64(file.digest),
                    IfNoneMatch="*",  # also for who puts it at this very moment
                )
        except faults() as error:
            if code(error) == "PreconditionFailed":
                self._check_same(file, place)
                return False
            if code(error) == "NoSuchBucket":
                hint = "See --to, and the account that the credentials are of (AWS_PROFILE)."
                raise ReleaseError(f"there is no bucket named {self._bucket}", hint=hint) from error
            failure = fault(error, ReleaseError, "s3:PutObject", place)
            failure.transient = failure.transient or code(error) in PASSING
            raise failure from error
        return True

    def _check_same(self, file: File, place: str) -> None:
        with asking(ReleaseError, "s3:GetObject", place):
            answer = self._client.head_object(Bucket=self._bucket, Key=self._key(file.name), ChecksumMode="ENABLED")
        if answer.get("ChecksumSHA256") != _base64(file.digest):  # put there by a tool that makes another checksum?
            at = location.parse(self.url(file.name))
            check_same(store.S3(at, lambda: self._client), file, place)


def _base64(digest: str) -> str:
    return b64encode(bytes.fromhex(digest)).decode()


@contextmanager
def _progress(file: File) -> Iterator[Seen]:
    """What is to be told of the bytes that have gone: a bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty() or file.size < CHUNK:
        yield lambda _: None
        return
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    columns = (progress.BarColumn(), progress.DownloadColumn(), progress.TransferSpeedColumn())
    text = progress.TextColumn("{task.description}")
    with progress.Progress(text, *columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(file.name, total=file.size)
        yield lambda position: bar.update(task, completed=position)
