"""What has been in service since the machine's boot: gone on with, started again, or made anew with new config."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from adf_agent import container, health, image, report, undo
from adf_agent.config import AppConfig
from adf_agent.container import Container
from adf_agent.engine import Engine
from adf_agent.errors import AgentError, ConfigError, ImageError
from adf_agent.image import Image
from adf_agent.manifest import Manifest
from adf_agent.member import Member
from adf_agent.notation import Probe
from adf_agent.report import Joined
from adf_agent.stages import Stages

READ_SECONDS = 30.0  # for the config of a reload


@dataclass(frozen=True)
class Service:
    """A container in service, with what it takes to look after it. *client* is Docker's."""

    container: Container
    client: Any
    probe: Probe | None
    manifest: Manifest


def is_known(do: Stages) -> bool:
    """Whether this very release has been in service since the machine's last boot."""
    return do.ledger.state.in_service and do.is_recorded()


def again(do: Stages, member: Member) -> Service:
    """The container in service: its process untouched where it runs, else started again, with the config it had.

    Where balancers and group know of it, no AWS call is made. Raises AgentError or Stopped; nothing is undone.
    """
    reached = do.record.stage("docker", do.docker)
    running = do.record.stage("container", lambda: _again(do, reached))
    built, manifest = _image(do, reached, running), do.recorded().manifest
    if not running.adopted:
        do.record.stage("health", lambda: do.health(reached, manifest, built, running))
    if do.ledger.state.standing != "joined":
        member.begin(do.deadline)
        do.record.stage("report", lambda: join(do, member, reached, running))
    return Service(running, reached.client, do.probe(manifest, built, running), manifest)


def _again(do: Stages, reached: Engine) -> Container:
    known = do.ledger.state.container_id, do.ledger.state.release_digest
    last = do.last_config()  # its secrets are masked from now on
    found = do.deadline.retry(lambda: container.adopt(reached.client, *known))
    found = found or do.deadline.retry(lambda: container.start_again(reached.client, *known))
    if found is None:  # somebody removed it
        config = last or (do.config() if do.reads_config() else None)
        return do.container(reached, do.specify(do.recorded(), _image(do, reached, None), config))
    do.record.add(container=found.shown())
    return found


def _image(do: Stages, reached: Engine, running: Container | None) -> Image:
    """The release's image; where somebody took its tag away, the one that the container runs by."""
    found = do.deadline.retry(lambda: image.find(reached.client, do.ledger.state.image))
    if found is None and running:
        found = do.deadline.retry(lambda: image.find(reached.client, running.image))
    if found is None:
        hint = "Restart the instance."
        raise ImageError(f"{do.ledger.state.image} is gone, though it was in service", hint=hint, cause="host")
    return found


def reload(do: Stages, member: Member, former: Stages, leave: Callable[[], object]) -> Service | None:
    """The container made anew where settings or config have changed since *former*; None where they have not.

    *leave* deregisters, drains and stops the former one. What fails before that leaves the former one in service, and
    is raised as NotReloadedError. Raises AgentError or Stopped.
    """
    try:
        wanted, reached, read, built = _wanted(do)
        known = do.ledger.state.container_id, do.ledger.state.release_digest
        running = container.adopt(reached.client, *known)
    except AgentError as error:
        raise NotReloadedError(error) from error
    same = _places(do) == _places(former) and do.ledger.state.standing == "joined"
    if running and running.fingerprint == wanted.fingerprint and same:
        return None
    leave()
    do = replace(do, deadline=do.deadline.anew(do.launched.settings.boot_timeout))  # a drain may take its time
    member.begin(do.deadline)
    manifest = do.recorded().manifest
    try:
        running = do.record.stage("container", lambda: do.container(reached, wanted))
        do.record.stage("health", lambda: do.health(reached, manifest, built, running))
    except AgentError:
        undo.undo(do, None)  # what serves again has the config that worked
        raise
    do.keep_config(read)
    do.record.stage("report", lambda: join(do, member, reached, running))
    return Service(running, reached.client, do.probe(manifest, built, running), manifest)


def _places(do: Stages) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return do.launched.settings.target_groups, do.launched.settings.load_balancers


class NotReloadedError(AgentError):
    """Why the former container stays in service."""

    def __init__(self, error: AgentError) -> None:
        super().__init__(f"the reload failed, the former config serves on: {error.sentence}", hint=error.hint)


def _wanted(do: Stages) -> tuple[Any, Engine, AppConfig | None, Image]:
    if not do.is_recorded():
        raise ConfigError(
            "RELEASE_URL is another one than was booted here",
            hint="A new release takes a new instance, or a restart of this one.",
        )
    reached = do.record.stage("docker", do.docker)
    reading = replace(do, deadline=do.deadline.within(READ_SECONDS))  # the app is not looked after meanwhile
    read = do.record.stage("config", lambda: reading.config(fall_back=False)) if do.reads_config() else None
    built = _image(do, reached, None)
    return do.specify(do.recorded(), built, read), reached, read, built


def join(do: Stages, member: Member, reached: Engine, running: Container | None) -> Joined:
    """Tells load balancers and group; what was begun and not ended in a crash is done again at the next start.

    Nothing is *running* where the instance is to wait in a warm pool.
    """
    do.ledger.note(standing="joining")
    check = partial(health.check_running, reached.client, running) if running else None
    joined = report.join(do.host, do.record, do.launched, member, do.deadline, check)
    if running:
        do.ledger.note(standing="joined", in_service=True, last_good=do.ledger.state.image)
    else:
        do.ledger.note(standing="")
    member.end()
    return joined
