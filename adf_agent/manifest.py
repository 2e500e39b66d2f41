"""`adf.toml`, which a release may carry beside its Dockerfile: how it is built, run and probed."""

import difflib
import posixpath
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from adf_agent.errors import ReleaseError
from adf_agent.notation import LEAST_MEMORY, MOST, Port, Probe, Ulimit, Volume, brief, duration, size

T = TypeVar("T")
NAME = "adf.toml"
LIMIT = 64 * 1024  # bytes
# A key of so many parts, which tomllib takes memory for by the square of their number.
NESTED = re.compile(rb"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){50}""")
# What Docker gives a container that asks for nothing (https://docs.docker.com/engine/security/#linux-kernel-capabilities).
CAPABILITIES = (
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
)
CPUS = 0.01, 10_000  # Docker's least, and more than any machine has
MEND = f"Mend {NAME} and make the release anew."


def _typed(kind: type[T], name: str) -> Callable[[Any], T]:
    def parse(value: Any) -> T:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"must be {name}, not {value!r}")  # callers know this class only
        return value

    return parse


_text, _boolean, _list = _typed(str, "a string"), _typed(bool, "true or false"), _typed(list, "a list")
_table, _integer = _typed(dict, "a table"), _typed(int, "a whole number")


def _string(value: Any) -> str:
    if "\0" in _text(value):
        raise ValueError("must be without NUL characters, which no command or name can have")
    return str(value)


def _strings(value: Any) -> tuple[str, ...]:
    return tuple(_string(item) for item in _list(value))


def _word(value: Any) -> str:
    if not _string(value).strip():
        raise ValueError("must not be empty")
    return str(value)


def _inside(value: Any) -> str:
    path = posixpath.normpath(_word(value))
    if path.startswith("/") or path == "." or ".." in value.split("/"):
        raise ValueError(f"must be a relative path inside the release, not {value!r}")
    return path


def _arguments(value: Any) -> dict[str, str]:
    if wrong := [name for name, text in _table(value).items() if not isinstance(text, str)]:
        raise ValueError(f"{wrong[0]!r} must be a string, in quotes")  # the value may be a secret
    if wrong := [name for name, text in value.items() if not name or "=" in name or "\0" in name + text]:
        raise ValueError(f"{wrong[0]!r} must be a name without = and NUL, and its value without NUL")
    return dict(value)


def _publish(value: Any) -> tuple[Port, ...]:
    return tuple(Port.parse(str(item) if type(item) is int else _string(item)) for item in _list(value))


def _command(value: Any) -> tuple[str, ...]:
    return tuple(shlex.split(_string(value))) if isinstance(value, str) else _strings(value)


def _memory(value: Any) -> int:
    if (memory := size(value)) < LEAST_MEMORY:
        raise ValueError(f"{value!r} is too little: Docker demands 6m at least")
    return memory


def _cpus(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not CPUS[0] <= value <= CPUS[1]:
        raise ValueError(f"must be a number from {CPUS[0]} to {CPUS[1]}, not {value!r}")
    return float(value)


def _volumes(value: Any) -> tuple[Volume, ...]:
    return tuple(map(Volume.parse, _strings(value)))


def _capabilities(value: Any) -> tuple[str, ...]:
    names = tuple(name.upper().removeprefix("CAP_") for name in _strings(value))
    for name in names:
        if name not in CAPABILITIES:
            raise ValueError(f"{name!r} is none that Docker gives by default, and a release gets no more than those")
    return names


def _ulimits(value: Any) -> tuple[Ulimit, ...]:
    return tuple(_ulimit(name, limit) for name, limit in _table(value).items())


def _ulimit(name: str, limit: Any) -> Ulimit:
    if not re.fullmatch("[A-Za-z]+", name):
        raise ValueError(f"{name!r} is no name of a limit, such as nofile")
    soft, hard = limit if isinstance(limit, list) and len(limit) == 2 else (limit, limit)  # noqa: PLR2004
    whole = type(soft) is type(hard) is int and -1 <= min(soft, hard) <= max(soft, hard) <= MOST
    if not whole or not (hard == -1 or -1 < soft <= hard):
        raise ValueError(f"{name} must be a number or [soft, hard] with soft at most hard, not {limit!r}")
    return Ulimit(name, soft, hard)


def _probe(value: Any) -> Probe:
    return Probe.parse(_string(value))


def _wait(value: Any) -> float:
    if not (seconds := duration(value)):
        raise ValueError("must be more than 0 seconds")
    return seconds


def _count(value: Any) -> int:
    if _integer(value) < 1:
        raise ValueError(f"must be 1 or more, not {value!r}")
    return int(value)


def _key(parse: Callable[[Any], Any], default: Any = None) -> Any:
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True)
class Build:
    """`[build]`, how the image is built.

    - `dockerfile`: its path inside the release; `Dockerfile`
    - `target`: the stage to build; the last one
    - `args`: table of build arguments, strings, no secrets, as the image's history has them; none
    """

    dockerfile: str = _key(_inside, "Dockerfile")
    target: str | None = _key(_word)
    args: Mapping[str, str] = field(default_factory=dict, metadata={"parse": _arguments})


@dataclass(frozen=True)
class Container:
    """`[container]`, how the container runs.

    - `publish`: list of ports, `"80:8000"` (host, container), `8000`, `"53:53/udp"`; the image's EXPOSE
    - `command`: list of strings, or one string that is split as a shell would; the image's CMD
    - `memory`: most that it may use, `"512m"`, `"1g"` or a number of bytes, `"6m"` at least; no limit
    - `cpus`: share of processors, a number from 0.01 on; no limit
    - `user`: `"name"`, `"uid"` or `"uid:gid"`; the image's USER
    - `read_only`: true for a root file system that can't be written, `/tmp` neither; false
    - `volumes`: list of `"name:/target"`, `"name:/target:ro"`; or of `"/folder:/target"`, as ADF_VOLUMES lets; none
    - `capabilities`: list of those to keep of Docker's default ones, `["NET_BIND_SERVICE"]`, `[]` for none; all of them
    - `ulimits`: table of Docker's names, a number or `[soft, hard]`, -1 for unlimited; the engine's
    - `stop_timeout`: from SIGTERM to SIGKILL; `"30s"`
    """

    publish: tuple[Port, ...] = _key(_publish, ())
    command: tuple[str, ...] | None = _key(_command)
    memory: int | None = _key(_memory)
    cpus: float | None = _key(_cpus)
    user: str | None = _key(_word)
    read_only: bool = _key(_boolean, default=False)
    volumes: tuple[Volume, ...] = _key(_volumes, ())
    capabilities: tuple[str, ...] | None = _key(_capabilities)
    ulimits: tuple[Ulimit, ...] = _key(_ulimits, ())
    stop_timeout: float = _key(duration, 30.0)


@dataclass(frozen=True)
class Health:
    """`[health]`, when the app counts as healthy. Durations are `"90s"`, `"15m"`, `"2h"` or a number of seconds.

    - `probe`: `"http://:8000/health"`, `"tcp://:8000"` (the container's port) or `"docker"`; as ADF_HEALTH
    - `interval`: between two probes; `"5s"`
    - `timeout`: of one probe; `"2s"`
    - `healthy_threshold`: good answers in a row until healthy; 1
    - `unhealthy_threshold`: bad answers in a row until unhealthy; 3
    - `start_timeout`: from the container's start to healthy; `"5m"`
    """

    probe: Probe | None = field(default=None, metadata={"parse": _probe})
    interval: float = _key(_wait, 5.0)
    timeout: float = _key(_wait, 2.0)
    healthy_threshold: int = _key(_count, 1)
    unhealthy_threshold: int = _key(_count, 3)
    start_timeout: float = _key(_wait, 300.0)


@dataclass(frozen=True)
class Manifest:
    """What a release says about itself; without an `adf.toml`, the defaults."""

    build: Build = Build()
    container: Container = Container()
    health: Health = Health()
    text: str = field(default="", compare=False)  # what it was parsed from, to be kept for the instance's next start

    @classmethod
    def parse(cls, data: bytes) -> "Manifest":
        """The manifest of `adf.toml`'s bytes. Raises ReleaseError, which names the key and what it must be."""
        if len(data) > LIMIT or NESTED.search(data):
            raise ReleaseError(f"{NAME} is larger than {LIMIT} bytes, or nested too deeply", hint=MEND)
        try:
            text = data.decode()
            sections = tomllib.loads(text)
        except RecursionError as error:
            raise ReleaseError(f"{NAME} is not valid TOML: it is nested too deeply", hint=MEND) from error
        except ValueError as error:
            raise ReleaseError(f"{NAME} is not valid TOML: {brief(error)}", hint=MEND) from error
        kinds = {"build": Build, "container": Container, "health": Health}
        _known("section", "", sections, list(kinds))
        return cls(**{name: _section(kinds[name], name, table) for name, table in sections.items()}, text=text)


def _section(kind: type[T], section: str, table: Any) -> T:
    parsers = {key.name: key.metadata["parse"] for key in fields(kind)}  # type: ignore[arg-type]
    key = ""
    try:
        _known("key", f" in [{section}]", _table(table), list(parsers))
        values = {}
        for key, value in table.items():  # the error names it
            values[key] = parsers[key](value)
    except ValueError as error:
        raise ReleaseError(f"{NAME}: [{section}] {key}".rstrip() + f": {brief(error)}", hint=MEND) from error
    return kind(**values)


def _known(what: str, where: str, given: Mapping[str, Any], known: list[str]) -> None:
    for key in given:
        if key not in known:
            nearest = difflib.get_close_matches(key[:80], known, n=1, cutoff=0.0)[0]
            raise ReleaseError(
                f"{NAME}: unknown {what} {key[:80]!r}{where}: {nearest!r} is the nearest one",
                hint=f"Known are {', '.join(known)}.",
            )
