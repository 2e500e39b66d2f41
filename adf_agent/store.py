"""A release in S3 or on this machine; and which source a location has."""

import os
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import requests

from adf_agent.aws import DENIED, code, fault, faults, mishaps
from adf_agent.download import CHUNK, Body, Source
from adf_agent.errors import ReleaseError, Withheld
from adf_agent.folders import part_of_any
from adf_agent.location import Location
from adf_agent.sources import ANY, Sources
from adf_agent.web import Web

KERNELS = ("/proc", "/sys")  # what looks like a file there is an answer of the kernel's, without end or size


class S3:
    """A release in S3, read with the instance's role. *client* makes the client when it is asked for bytes."""

    def __init__(self, location: Location, client: Callable[[], Any]) -> None:
        self._location = location
        self._client = client

    def open(self, offset: int, proof: str) -> Body:
        version = self._location.version_id or proof
        ask = {"VersionId": version} if version else {}
        if offset:
            ask["Range"] = f"bytes={offset}-"
        try:
            answer = self._client().get_object(Bucket=self._location.bucket, Key=self._location.key, **ask)
            body, size = answer["Body"], answer["ContentLength"]
        except mishaps() as error:
            raise self._fault(error, version) from error
        found = answer.get("VersionId", "")
        return Body(self._chunks(body, version), offset, offset + size, "" if found == "null" else found)

    def _chunks(self, body: Any, version: str) -> Generator[bytes]:
        try:
            with closing(body):
                yield from body.iter_chunks(CHUNK)
        except faults() as error:
            raise self._fault(error, version) from error

    def _fault(self, error: Exception, version: str) -> Exception:
        """A version takes a permission of its own, and that alone.

        https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
        """
        kind = Withheld if code(error) in DENIED else ReleaseError
        action = "s3:GetObjectVersion" if version else "s3:GetObject"
        return fault(error, kind, action, f"{self._location.bucket}/{self._location.key}")


class LocalFile:
    """A release that lies on this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, offset: int, proof: str) -> Body:  # noqa: ARG002  a read of a file does not break off
        try:
            if not self._path.is_file() or part_of_any([os.path.realpath(self._path)], KERNELS):
                raise ReleaseError(f"{self._path} is no file", hint="Mend RELEASE_URL.")
            return Body(self._chunks(), 0, self._path.stat().st_size, "")
        except OSError as error:
            raise self._unreadable(error) from error

    def _chunks(self) -> Generator[bytes]:
        try:
            with self._path.open("rb") as file:
                yield from iter(lambda: file.read(CHUNK), b"")
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> ReleaseError:
        return ReleaseError(
            f"{self._path} can't be read: {error.strerror}", hint="See its owner and mode.", cause="host"
        )


def source(
    location: Location, s3: Callable[[], Any], token: Callable[[], str] | None, sources: Sources = ANY
) -> Source:
    """Where the bytes of *location* come from; *s3* and *token* are asked only where they are needed.

    A redirect may lead into a private network where *sources* names the URL there.
    """
    if location.scheme == "s3":
        return S3(location, s3)
    if location.path is not None:
        return LocalFile(location.path)
    return Web(location, token, requests.Session(), sources)
