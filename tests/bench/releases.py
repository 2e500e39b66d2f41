"""The releases that are booted: one that says hello, and ones that weigh something."""

import hashlib
import io
import os
import random
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000
PORT = 8000  # in the container
DOCKERFILE = f"""FROM scratch
COPY . /
EXPOSE {PORT}
CMD ["/busybox", "httpd", "-f", "-p", "{PORT}", "-h", "/www"]
"""
TEXT_SHARE = 0.2  # of a heavy release's bytes before compression; the rest is random, as images and archives are
RANDOM_FILE, TEXT_FILE = MB, 40_000  # bytes
SMALL_FILE, OWN_MEMBERS = 100, 3  # bytes; the members of a release without ballast


@dataclass(frozen=True)
class Release:
    """A tarball in the file server's folder; *digest* is its SHA-256, *size* in bytes."""

    file: str
    digest: str
    size: int

    @property
    def image(self) -> str:
        """What the agent tags its image with."""
        return f"adf/release:{self.digest}"


def hello(folder: Path) -> Release:
    """An app that answers as soon as it runs: busybox's web server with one page, about 1 MB."""
    return _write(folder, "hello.tar.gz", iter(()))


def heavy(folder: Path, size: int) -> Release:
    """The same app with *size* bytes of ballast, gzipped: most of it can't be compressed further."""
    return _write(folder, f"heavy-{size // MB}.tar.gz", ballast(size))


def bulky(folder: Path, size: int) -> Release:
    """The same app with *size* bytes of ballast, not compressed."""
    return _write(folder, f"bulky-{size // MB}.tar", ballast(size))


def crowded(folder: Path, members: int) -> Release:
    """The same app with small files beside it, so many members in all, gzipped."""
    files = (os.urandom(SMALL_FILE) for _ in range(members - OWN_MEMBERS))
    return _write(folder, f"crowded-{members}.tar.gz", files)


def based(folder: Path, base: str) -> Release:
    """The same app from the base image *base*."""
    return _write(folder, "based.tar.gz", iter(()), DOCKERFILE.replace("scratch", base))


def _write(folder: Path, name: str, files: Iterator[bytes], dockerfile: str = DOCKERFILE) -> Release:
    path = folder / name
    packed = name.endswith(".gz")
    with tarfile.open(path, "w:gz", compresslevel=1) if packed else tarfile.open(path, "w") as archive:
        _add(archive, "Dockerfile", dockerfile.encode())
        _add(archive, "busybox", _busybox().read_bytes(), 0o755)
        _add(archive, "www/index.html", b"hello\n")
        for number, content in enumerate(files):
            _add(archive, f"ballast/{number % 100}/{number}", content)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Release(name, digest, path.stat().st_size)


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def _busybox() -> Path:
    found = shutil.which("busybox")
    if found is None:
        raise SystemExit("bench: there is no busybox; run: make setup")
    return Path(found)


def ballast(size: int) -> Iterator[bytes]:
    """Files of *size* bytes in all. Each repeats at a distance that no compression in use here can see."""
    noise, words = os.urandom(8 * RANDOM_FILE), _words(100 * TEXT_FILE)
    for number in range(round(size * (1 - TEXT_SHARE) / RANDOM_FILE)):
        start = number % 8 * RANDOM_FILE
        yield noise[start : start + RANDOM_FILE]
    for number in range(round(size * TEXT_SHARE / TEXT_FILE)):
        start = number % 100 * TEXT_FILE
        yield words[start : start + TEXT_FILE]


def _words(size: int) -> bytes:
    draw = random.Random(1)  # noqa: S311  the same text in every run
    vocabulary = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(5000)]
    return " ".join(draw.choices(vocabulary, k=size // 3)).encode()[:size]
