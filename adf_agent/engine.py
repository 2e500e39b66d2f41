"""The Docker engine: reach it, tell what it can do, say what its errors mean."""

import base64
import http.client
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from docker.errors import APIError, DockerException

from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, DockerError

BUILDKIT_PACKAGES = "docker-buildx (Debian, Ubuntu, Amazon Linux) or docker-buildx-plugin (Docker's own packages)"
ANSWER_SECONDS = 5.0  # a healthy engine answers a ping in milliseconds
CALL_SECONDS = 60.0  # creating a container on a busy disk
LOGIN = ("auth", "password", "identitytoken", "registrytoken")  # of DOCKER_CONFIG, what is nobody's to see
# What the SDK lets through: its own errors, the system's and requests' (OSError), and those of a broken-off answer.
FAULTS = (DockerException, OSError, urllib3.exceptions.HTTPError, http.client.HTTPException)
_PASSING = re.compile(
    r"toomanyrequests|too many requests|\b429\b|\b50[0234]\b|time-?out|timed out|connection re(fused|set)|no such host"
    r"|temporary failure|deadline exceeded|unexpected EOF|network is unreachable|server misbehaving"
    r"|failed to read downloaded context",  # BuildKit's own, when it loses one context of several (seen on 20.10)
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Engine:
    """A Docker engine that answers. *client* is a `docker.DockerClient`."""

    client: Any
    version: str
    storage: str
    folder: Path  # its data root, as its own machine sees it
    buildkit: Path | None  # a docker command that builds with BuildKit

    @property
    def fact(self) -> str:
        return f"engine {self.version}, {self.storage}, {'BuildKit' if self.buildkit else 'classic builder'}"


def connect(make_client: Callable[[float], Any], deadline: Deadline) -> Engine:
    """The engine that *make_client* (given a time-out in seconds) reaches, waited for until the deadline.

    Raises DockerError: at once where it may not be used, transient while it is absent or hung.
    """
    searching = Task(lambda: find_buildkit(os.environ.get("PATH", os.defpath)))  # meanwhile: a process takes its time
    client, facts = deadline.retry(lambda: _reach(make_client))
    client.api.timeout = CALL_SECONDS
    return Engine(
        client=client,
        version=facts["ServerVersion"],
        storage=facts["Driver"],
        folder=Path(facts["DockerRootDir"]),
        buildkit=searching.future.result(),
    )


def _reach(make_client: Callable[[float], Any]) -> tuple[Any, dict[str, Any]]:
    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    try:
        client = make_client(ANSWER_SECONDS)
        facts = client.info()
    except (DockerException, OSError, ValueError) as error:
        if _has(error, PermissionError):
            raise DockerError(
                f"this user may not use Docker at {where}",
                hint="Run as a member of the group that owns Docker's socket: usermod -aG docker adf-agent.",
            ) from error
        refusal = next((each for each in _chain(error) if isinstance(each, APIError)), None)
        if refusal and refusal.is_client_error() and not passing(str(refusal)):
            raise DockerError(
                f"Docker at {where} refuses: {refusal.explanation}",
                hint="See which authorization plug-ins it asks: docker info, /etc/docker/daemon.json.",
            ) from error
        if not _has(error, OSError) and not isinstance(error, APIError):
            raise DockerError(f"Docker at {where} can't be used: {error}", hint="Check DOCKER_HOST.") from error
        raise DockerError(
            f"Docker at {where} does not answer",
            hint="See `systemctl status docker`; to start it: sudo systemctl start docker.",
            transient=True,
        ) from error
    return client, facts


def _has(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether *kind* is among what led to *error*: Docker's SDK wraps the system's error two or three deep."""
    return any(isinstance(link, kind) for link in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from (arg for arg in error.args if isinstance(arg, BaseException))
        error = error.__cause__ or error.__context__


def find_buildkit(path: str) -> Path | None:
    """The first docker command on *path* that builds with BuildKit: by its buildx plug-in, or in itself (before 23).

    Another docker may come earlier on the PATH, without either.
    """
    candidates = [Path(folder) / "docker" for folder in [*path.split(os.pathsep), "/usr/bin"] if folder]
    for command in dict.fromkeys(candidates):
        if os.access(command, os.X_OK) and _builds(command):
            return command
    return None


def _builds(command: Path) -> bool:
    version = re.search(r"version (\d+)", _ask(command, "--version"))
    if version and 18 < int(version[1]) < 23:  # noqa: PLR2004  19.03 to 20.10 carry BuildKit in the client
        return True
    return bool(_ask(command, "buildx", "version"))


def _ask(command: Path, *arguments: str) -> str:
    try:
        answer = subprocess.run(
            [command, *arguments], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def logins(folder: Path) -> Iterator[str]:
    """The passwords and tokens for registries in DOCKER_CONFIG, else in *folder*; those of a helper are its own."""
    found: Any = None
    with suppress(OSError, ValueError):
        found = json.loads((Path(os.environ.get("DOCKER_CONFIG") or folder) / "config.json").read_bytes())
    for login in _table(_table(found).get("auths")).values():
        texts = {key: text for key, text in _table(login).items() if text and isinstance(text, str)}
        yield from (texts[key] for key in LOGIN if key in texts)
        with suppress(ValueError):  # no base64, or no text
            yield base64.b64decode(texts.get("auth", "")).decode().partition(":")[2]


def _table(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def passing(said: str) -> bool:
    """Whether what a registry, or an engine that asked one, *said* may be otherwise the next time."""
    return bool(_PASSING.search(said))


@contextmanager
def asking(doing: str, kind: type[AgentError]) -> Iterator[None]:
    """Raises what the SDK raises while *doing* something as *kind*, transient where the engine gave no answer."""
    try:
        yield
    except APIError as error:
        said = str(error.explanation or error)
        raise kind(
            f"Docker failed at {doing}: {said}",
            hint="See `journalctl -u docker`.",
            cause="host",
            transient=passing(said),
        ) from error
    except KeyError as error:  # an answer without what every one has
        raise kind(
            f"what answered {doing} is not Docker",
            hint="See what DOCKER_HOST leads to.",
            cause="host",
            transient=True,
        ) from error
    except FAULTS as error:
        silent = isinstance(error, OSError | urllib3.exceptions.HTTPError | http.client.HTTPException)
        raise kind(
            f"Docker did not answer {doing}" if silent else f"Docker's SDK failed at {doing}: {error}",
            hint="See `systemctl status docker`.",
            cause="host",
            transient=silent,
        ) from error
