"""The release's image: the one at hand, or built, or pulled; tagged only when whole; pruned to make room."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from docker.errors import APIError, NotFound

from adf_agent import archive, build
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.engine import FAULTS, Engine, asking, passing
from adf_agent.errors import Cause, ImageError
from adf_agent.mask import Mask, secretive
from adf_agent.notation import Port, in_words
from adf_agent.release import Release
from adf_agent.state import Ledger

REPOSITORY = "adf/release"
SPARE_BYTES = 256 << 20  # of disk beyond a build's own need: logs, the agent's state, the app's first writes
LEAST_MEMORY = 64 << 20  # bytes available; below it a builder is killed before it has begun
MEMINFO = Path("/proc/meminfo")
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
        return f"{self.how} {repository}:{digest[:12]}, {in_words(self.size)}"


def tag(digest: str) -> str:
    """The tag of the image of the release with SHA-256 *digest* (64 hex digits)."""
    return f"{REPOSITORY}:{digest}"


def find(client: Any, name: str, how: str = "reused") -> Image | None:
    """The image *name* (a tag or an id) of the engine behind *client*, None where it has none."""
    with asking("looking for the image", ImageError):
        try:
            facts = client.api.inspect_image(name)
        except NotFound:
            return None
    config = facts["Config"] or {}
    # What is neither TCP nor UDP can't be published by the agent; the app may use it all the same.
    exposed = (Port.parse(port) for port in config.get("ExposedPorts") or {} if port.endswith(("/tcp", "/udp")))
    check = (config.get("Healthcheck") or {}).get("Test") or ["NONE"]
    return Image(
        tag=name,
        id=facts["Id"],
        size=facts["Size"],
        ports=tuple(sorted(exposed, key=lambda port: port.container)),
        healthcheck=check != ["NONE"],
        how=how,
    )


def provide(
    engine: Engine,
    release: Release,
    choose: Callable[[], build.Builder],
    ledger: Ledger,
    hide: Mask,
    deadline: Deadline,
) -> Image:
    """The image of *release*: reused where the engine has it, else pulled, or built with what *choose* chooses.

    It is tagged, and its tag is in *ledger*. A build's output is kept as *hide* shows it, which is told the secrets
    among the build's arguments. Raises ImageError.
    """
    if release.digest and (image := deadline.retry(lambda: find(engine.client, tag(release.digest)))):
        ledger.keep(image.tag)
        return image
    make_room(engine, release, ledger)
    if release.location.scheme == "docker":
        return _pulled(engine.client, release, ledger, deadline)
    builder = choose()
    try:
        # Built again where it is gone before it has our tag: another agent's may be the same image, and be removed.
        return deadline.retry(
            lambda: _tagged(engine.client, release.digest, _build(release, builder, hide, deadline), "built", ledger)
        )
    finally:
        discard_unfinished(engine.client, builder.folder)


def _pulled(client: Any, release: Release, ledger: Ledger, deadline: Deadline) -> Image:
    reference = release.location.reference
    at_hand = find(client, reference)
    found = deadline.retry(lambda: _pull(client, reference, deadline))
    digest = release.digest or _repo_digest(client, found)
    image = deadline.retry(lambda: _tagged(client, digest, found, "pulled", ledger))
    if at_hand is None:
        with suppress(*FAULTS):  # our tag is the only one then, and pruning it makes room
            client.api.remove_image(reference, noprune=True)
    return image


def _tagged(client: Any, digest: str, found: str, how: str, ledger: Ledger) -> Image:
    ledger.keep(tag(digest))  # known before it exists: a crash between the two leaves no image that nobody prunes
    with asking("tagging the image", ImageError), suppress(NotFound):
        client.api.tag(found, REPOSITORY, digest)
    image = find(client, tag(digest), how)
    if image is None:
        raise ImageError(f"the image {tag(digest)} is gone as soon as it was {how}", cause="host", transient=True)
    return image


def _build(release: Release, builder: build.Builder, hide: Mask, deadline: Deadline) -> str:
    if release.archive is None:
        raise ImageError("there is no archive to build from", cause="agent")
    hide.add(secretive(release.manifest.build.args))
    output = build.Output(builder.folder / "build.log", hide)
    return builder.build(release.manifest.build, archive.context(release.archive), output, deadline)


def _pull(client: Any, reference: str, deadline: Deadline) -> str:
    """The id of the image pulled from a registry, with Docker's own logins (`DOCKER_CONFIG`)."""

    def run() -> str:
        with asking(f"pulling {reference}", ImageError):
            for event in client.api.pull(reference, stream=True, decode=True):
                if "error" in event:
                    raise pull_failure(reference, event["error"])
            return str(client.api.inspect_image(reference)["Id"])

    try:
        return Task(run).result(deadline)
    except TimeoutError as error:
        raise ImageError(
            f"{reference} was not pulled when the boot's time was over",
            hint="Raise ADF_BOOT_TIMEOUT, or see how far away the registry is.",
            cause="dependency",
            transient=True,
        ) from error
    except ImageError as error:
        if isinstance(error.__cause__, APIError):
            raise pull_failure(reference, str(error.__cause__.explanation)) from error
        raise


def pull_failure(reference: str, said: str) -> ImageError:
    """Why *reference* could not be pulled, by what the engine *said*."""
    may_pass = passing(said)
    denied = re.search(r"denied|unauthorized|no basic auth", said, re.IGNORECASE)
    hint = (
        "Log in, or set a credential helper, in DOCKER_CONFIG (/etc/adf-agent/docker/config.json)."
        if denied
        else "See that the registry holds this tag or digest: docker manifest inspect."
    )
    cause: Cause = "dependency" if may_pass else "release"
    return ImageError(f"{reference} can't be pulled: {said}", hint=hint, cause=cause, transient=may_pass)


def _repo_digest(client: Any, name: str) -> str:
    """The registry's digest of a pulled image (64 hex digits), which a tag alone doesn't tell."""
    with asking("looking at the pulled image", ImageError):
        facts = client.api.inspect_image(name)
    return str((facts["RepoDigests"] or [facts["Id"]])[0]).rpartition(":")[2]


def make_room(engine: Engine, release: Release, ledger: Ledger) -> None:
    """Prunes the agent's own images, never the running nor the last good one, until a build has room.

    Raises ImageError where memory or, with all that pruned, disk is short.
    """
    if (memory := available_memory()) < LEAST_MEMORY:
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
        try:
            with suppress(NotFound):
                engine.client.api.remove_image(name)
        except FAULTS as error:  # a container still uses it
            log.warning("image.not_pruned", image=name, reason=str(error))
            continue
        ledger.note(images=tuple(each for each in ledger.state.images if each != name))
        log.info("image.pruned", image=name)
    if _free(engine.folder) < need:
        with suppress(*FAULTS):
            engine.client.api.prune_builds()  # BuildKit keeps the layers of what is gone: a cache, of use to nobody now
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


def available_memory() -> int:
    """Bytes that the kernel reckons can be had without swapping: MemAvailable (proc(5))."""
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10


def discard_unfinished(client: Any, folder: Path) -> None:
    """Removes each image whose id is in *folder*, as it was built and never tagged; and the files that say so."""
    for iid_file in folder.glob(f"*{build.IID_SUFFIX}"):
        with suppress(OSError):
            build.discard(client, iid_file.read_text().strip())
        iid_file.unlink(missing_ok=True)
