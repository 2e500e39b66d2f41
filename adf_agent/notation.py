"""Values as an operator writes them: durations, sizes, ports, probes, volumes, limits. Each refusal is a ValueError."""

import math
import posixpath
import re
from dataclasses import dataclass, fields
from typing import Literal

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
BYTES = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
LONGEST = 300  # characters of what a person is told of a value that is none
SHORT = 40  # characters of one that is too large: what is wrong with it is said behind it
LEAST_MEMORY = 6 * 2**20  # bytes; the engine refuses a container with less
MOST_SECONDS = 365 * 24 * 3600  # nobody waits for longer, and no clock of the system's overflows
MOST = 2**63 - 1  # what a whole number of Docker's and the kernel's can be


def brief(error: ValueError) -> str:
    """What *error* says, cut where the value in it is long."""
    text = str(error)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


def duration(value: str | float) -> float:
    """Seconds, from `90s`, `15m`, `2h`, or a number of seconds. Raises ValueError."""
    form = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value), re.ASCII)
    if isinstance(value, bool) or form is None:
        raise ValueError(f"{value!r} is no duration: write 90s, 15m, 2h or a number of seconds")
    if (seconds := float(form[1]) * SECONDS[form[2]]) > MOST_SECONDS:
        raise ValueError(f"{_short(value)} is too long: a year is the most")
    return seconds


def size(value: str | int) -> int:
    """Bytes, from Docker's form: `512m`, `1g`, `64k`, or a number of bytes. Raises ValueError."""
    form = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)(?:(?<=[kmgt])i?b|b)?", str(value).lower(), re.ASCII)
    if isinstance(value, bool) or form is None:
        raise ValueError(f"{value!r} is no size: write 512m, 1g or a number of bytes")
    if (number := float(form[1]) * BYTES[form[2]]) >= MOST:
        raise ValueError(f"{_short(value)} is too large: no machine has as much")
    return int(number)


def in_words(size: int) -> str:
    """*size*, bytes, as people say it: `560 kB`, `2.0 MB`."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{math.ceil(size / 1e3)} kB"  # noqa: PLR2004


@dataclass(frozen=True)
class Port:
    """A *container* port and the *host* port that it is published on, 1 to 65535 each."""

    host: int
    container: int
    protocol: Literal["tcp", "udp"] = "tcp"

    @classmethod
    def parse(cls, text: str) -> "Port":
        """From `80:8000` (host, container), `8000` (both), either with `/udp` or `/tcp`. Raises ValueError."""
        form = re.fullmatch(r"(?:(\d{1,5}):)?(\d{1,5})(?:/(tcp|udp))?", text.strip(), re.ASCII)
        if form is None:
            raise ValueError(f"{text!r} is no port to publish: write 80:8000, 8000 or 8000/udp")
        host, container = int(form[1] or form[2]), int(form[2])
        if not (0 < host < 2**16 and 0 < container < 2**16):
            raise ValueError(f"{text!r} is no port to publish: ports go from 1 to 65535")
        return cls(host, container, "udp" if form[3] == "udp" else "tcp")

    def __str__(self) -> str:
        return f"{self.host}:{self.container}" + ("" if self.protocol == "tcp" else f"/{self.protocol}")


@dataclass(frozen=True)
class Probe:
    """How health is asked for: an HTTP GET of *path*, a TCP connection, or the image's HEALTHCHECK.

    *port* is the container's, None for `docker`; *path* is empty but for `http`.
    """

    kind: Literal["http", "tcp", "docker"]
    port: int | None = None
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "Probe":
        """From `http://:8000/health`, `tcp://:8000` or `docker`. Raises ValueError."""
        if text == "docker":
            return cls("docker")
        form = re.fullmatch(r"(?:(tcp)://:(\d{1,5})/?|(http)://:(\d{1,5})((?:/[!-~]*)?))", text, re.ASCII)
        if form is None:
            raise ValueError(
                f"{text!r} is no probe: write http://:8000/health, tcp://:8000 or docker (its own port, no host)"
            )
        port = int(form[2] or form[4])
        if not 0 < port < 2**16:
            raise ValueError(f"{text!r} is no probe: ports go from 1 to 65535")
        return cls("tcp", port) if form[1] else cls("http", port, form[5] or "/")

    def __str__(self) -> str:
        return "docker" if self.port is None else f"{self.kind}://:{self.port}{self.path}"


@dataclass(frozen=True)
class Volume:
    """A folder of the host, written plainly, or a named volume, as *target* in the container."""

    source: str
    target: str
    read_only: bool = False

    @property
    def host(self) -> bool:
        """Whether it is a folder of the host."""
        return self.source.startswith("/")

    @classmethod
    def parse(cls, text: str) -> "Volume":
        """From `source:/target`, with `:ro` for read-only. Raises ValueError."""
        form = re.fullmatch(r"(/[^:]*|[A-Za-z0-9][\w.-]+):(/[^:]+)(?::(ro|rw))?", text, re.ASCII)
        if form is None or len(text) > LONGEST or not text.isprintable():
            raise ValueError(f"{text!r} is no volume: write /folder:/target or name:/target, with :ro for read-only")
        if ".." in re.split("[:/]", text):  # what it leads to, only the host could say
            raise ValueError(f"{text!r} is no volume: write the folder without ..")
        source = re.sub("^//", "/", posixpath.normpath(form[1]))  # two at the start are kept, as POSIX lets them differ
        return cls(source, form[2], form[3] == "ro")


@dataclass(frozen=True)
class Ulimit:
    """A resource limit under Docker's name for it (`nofile`); -1 is unlimited."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True)
class Limits:
    """The most that a release may be: *members* with their folders, *bytes* unpacked, unpacked:compressed *ratio*."""

    members: int = 200_000
    bytes: int = 10 * 2**30
    ratio: int = 250

    @classmethod
    def parse(cls, text: str) -> "Limits":
        """From `members=200000,bytes=10g,ratio=250`, as ADF_ARCHIVE_LIMIT; what is not named keeps its default.

        Raises ValueError.
        """
        limits = {}
        for part in filter(None, text.replace(" ", "").split(",")):
            name, _, value = part.partition("=")
            if name not in {key.name for key in fields(cls)}:
                raise ValueError(f"{part!r} is no archive limit: write members=200000,bytes=10g,ratio=250")
            limits[name] = size(value)
            if not limits[name]:
                raise ValueError(f"{part!r} is no archive limit: it must be 1 or more")
        return cls(**limits)
