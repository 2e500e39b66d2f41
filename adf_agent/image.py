"""The release's image: the one at hand, or built, or pulled; tagged only when whole; pruned to make room."""

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from docker.errors import APIError, DockerException, NotFound

from adf_agent import archive, build
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.engine import Engine, fault
from adf_agent.errors import Cause, ImageError
from adf_agent.location import Location
from adf_agent.notation import Port
from adf_agent.release import Release
from adf_agent.state import Ledger

REPOSITORY = "adf/release"
SPARE_BYTES = 256 << 20  # of disk beyond a build's own need: logs, the agent's state, the app's first writes
LEAST_MEMORY = 64 << 20  # bytes available; below it a builder is killed before it has begun
MEMINFO = Path("/proc/meminfo")
_PASSING = re.compile(
    r"toomanyrequests|timeout|timed out|connection re|no such host|temporary|unexpected EOF|50[0234] ", re.IGNORECASE
)
log = structlog.get_logger()


@dataclass(frozen=True)
class Image:
    """An image in the engine. *ports* are those it EXPOSEs, the lowest first."""

    tag: str
    id: str
    size: int  # bytes
    ports: tuple[Port, ...]
    healthcheck: bool
    how: str  # built, pulled or reused

    @property
    def fact(self) -> str:
        repository, _, digest = self.tag.partition(":")
        return f"{self.how} {repository}:{digest[:12]}, {self.size / 1e6:.1f} MB"


def tag(digest: str) -> str:
    """The tag of the image of the release with SHA-256 *digest* (64 hex digits)."""
    return f"{REPOSITORY}:{digest}"


def find(client: Any, name: str, how: str = "reused") -> Image | None:
    """The image *name* (a tag or an id) of the engine behind *client*, None where it has none."""
    try:
        facts = client.api.inspect_image(name)
    except NotFound:
        return None
    except (DockerException, OSError) as error:
        raise fault(error, ImageError, "looking for the image") from error
    config = facts["Config"] or {}
    exposed = (Port.parse(port) for port in config.get("ExposedPorts") or {})
    check = (config.get("Healthcheck") or {}).get("Test") or ["NONE"]
    return Image(
        tag=name,
        id=facts["Id"],
        size=facts["Size"],
        ports=tuple(sorted(exposed, key=lambda port: port.container)),
        healthcheck=check != ["NONE"],
        how=how,
    )


def provide(engine: Engine, release: Release, builder: build.Builder, ledger: Ledger, deadline: Deadline) -> Image:
    """The image of *release*: reused where the engine has it, else built or pulled; tagged, and its tag in *ledger*."""
    if release.digest and (image := find(engine.client, tag(release.digest))):
        ledger.keep(image.tag)
        return image
    make_room(engine, release, ledger)
    if release.location.scheme == "docker":
        found, how = deadline.retry(lambda: _pull(engine.client, release.location, deadline)), "pulled"
    else:
        found, how = deadline.retry(lambda: _build(release, builder, deadline)), "built"
    digest = release.digest or _repo_digest(engine.client, found)
    name = tag(digest)
    ledger.keep(name)  # known before it exists: a crash between the two can't leave an image that nobody prunes
    engine.client.api.tag(found, REPOSITORY, digest)
    builder.iid_file.unlink(missing_ok=True)
    image = find(engine.client, name, how)
    if image is None:
        raise ImageError(f"the image {name} is gone as soon as it was {how}", cause="host", transient=True)
    return image


def _build(release: Release, builder: build.Builder, deadline: Deadline) -> str:
    if release.archive is None:
        raise ImageError("there is no archive to build from", cause="agent")
    output = build.Output(builder.folder / "build.log")
    return builder.build(release.manifest.build, archive.context(release.archive), output, deadline)


def _pull(client: Any, location: Location, deadline: Deadline) -> str:
    """The id of the image pulled from a registry, with Docker's own logins (`DOCKER_CONFIG`)."""
    reference = location.reference

    def run() -> str:
        for event in client.api.pull(reference, stream=True, decode=True):
            if "error" in event:
                raise _pull_failure(reference, event["error"])
        return str(client.api.inspect_image(reference)["Id"])

    try:
        return Task(run).result(deadline)
    except APIError as error:
        raise _pull_failure(reference, str(error.explanation or error)) from error
    except TimeoutError as error:
        raise ImageError(
            f"{reference} was not pulled when the boot's time was over", cause="dependency", transient=True
        ) from error
    except (DockerException, OSError) as error:
        raise fault(error, ImageError, f"pulling {reference}") from error


def _pull_failure(reference: str, said: str) -> ImageError:
    passing = bool(_PASSING.search(said))
    denied = re.search(r"denied|unauthorized|no basic auth", said, re.IGNORECASE)
    hint = (
        "Log in, or set a credential helper, in DOCKER_CONFIG (/etc/adf-agent/docker/config.json)."
        if denied
        else "See that the registry holds this tag or digest: docker manifest inspect."
    )
    cause: Cause = "dependency" if passing else "release"
    return ImageError(f"{reference} can't be pulled: {said}", hint=hint, cause=cause, transient=passing)


def _repo_digest(client: Any, name: str) -> str:
    """The registry's digest of a pulled image (64 hex digits), which a tag alone doesn't tell."""
    facts = client.api.inspect_image(name)
    return str((facts["RepoDigests"] or [facts["Id"]])[0]).rpartition(":")[2]


def make_room(engine: Engine, release: Release, ledger: Ledger) -> None:
    """Prunes the agent's own images, never the running nor the last good one, until a build has room.

    Raises ImageError where memory or, with all that pruned, disk is short.
    """
    if (memory := _available_memory()) < LEAST_MEMORY:
        raise ImageError(
            f"only {memory >> 20} MiB of memory are available for a build",
            hint="Use an instance type with more memory, or build once on a build server and pull the image.",
            cause="host",
        )
    unpacked = release.archive.unpacked if release.archive else 0
    need = 2 * unpacked + SPARE_BYTES  # the builder's copy of the context, and the layer made of it
    for name in [each for each in ledger.state.images if each not in (ledger.state.image, ledger.state.last_good)]:
        if _free(engine.folder) >= need:
            return
        with suppress(NotFound):
            engine.client.api.remove_image(name)
        ledger.note(images=tuple(each for each in ledger.state.images if each != name))
        log.info("image.pruned", image=name)
    if (free := _free(engine.folder)) < need:
        raise ImageError(
            f"{engine.folder} has {free >> 20} MiB free, the build needs about {need >> 20} MiB",
            hint="Give the instance a larger volume, or see `docker system df`.",
            cause="host",
        )


def _free(folder: Path) -> int:
    """Bytes free at the engine's data root; no limit where it lies on another machine."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return 1 << 62
    return facts.f_bavail * facts.f_frsize


def _available_memory() -> int:
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10


def discard_unfinished(client: Any, builder: build.Builder) -> None:
    """Removes the image that a crash left between its build and its tag."""
    with suppress(OSError, DockerException):
        client.api.remove_image(builder.iid_file.read_text().strip())
    builder.iid_file.unlink(missing_ok=True)
