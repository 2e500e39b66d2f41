"""The app's container: what it shall be, decided purely; then run, adopted, stopped, and its last lines read."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from docker.errors import NotFound
from docker.types import LogConfig
from docker.types import Ulimit as DockerUlimit

from adf_agent.config import AppConfig
from adf_agent.engine import FAULTS, asking
from adf_agent.errors import ContainerError
from adf_agent.image import Image
from adf_agent.instance import Identity
from adf_agent.launch import Launch
from adf_agent.manifest import Container as Wishes
from adf_agent.notation import Port, Ulimit, Volume
from adf_agent.settings import Settings

NAME = "adf-app"
TAIL_LINES = 50
# Of each file; the engine's own default for `local` is five of 20 MB, for `json-file` no limit at all.
ROTATION = {"max-size": "20m", "max-file": "5"}
_TAKEN = re.compile(r":(\d+)(?::| failed:).*(?:port is already allocated|address already in use)")
_NO_COMMAND = re.compile(
    r"executable file not found|no such file or directory|[Nn]o command specified|permission denied"
)
log = structlog.get_logger()


@dataclass(frozen=True)
class Spec:
    """A container as it shall run."""

    name: str
    image: str
    environment: Mapping[str, str] = field(repr=False)  # may hold secrets
    ports: tuple[Port, ...]
    address: str
    command: tuple[str, ...] | None
    memory: int | None
    cpus: float | None
    user: str | None
    read_only: bool
    volumes: tuple[Volume, ...]
    ulimits: tuple[Ulimit, ...]
    stop_timeout: float
    log_driver: str
    log_opts: Mapping[str, str]
    labels: Mapping[str, str]

    def arguments(self) -> dict[str, Any]:
        """For `docker.APIClient.create_container`, but for the host's part."""
        return {
            "name": self.name,
            "image": self.image,
            "environment": dict(self.environment),
            "ports": [(port.container, port.protocol) for port in self.ports],
            "command": list(self.command) if self.command else None,
            "user": self.user,
            "labels": dict(self.labels),
            "stop_timeout": math.ceil(self.stop_timeout),  # for whoever else stops it: the engine, at a shutdown
        }

    def host(self) -> dict[str, Any]:
        """For `docker.APIClient.create_host_config`. There is no restart policy: the agent alone supervises."""
        return {
            "port_bindings": self._bindings(),
            "mem_limit": self.memory,
            "nano_cpus": int(self.cpus * 1e9) if self.cpus else None,
            "read_only": self.read_only,
            "binds": [f"{each.source}:{each.target}:{'ro' if each.read_only else 'rw'}" for each in self.volumes],
            "ulimits": [DockerUlimit(name=each.name, soft=each.soft, hard=each.hard) for each in self.ulimits],
            "log_config": LogConfig(type=self.log_driver, config=dict(self.log_opts)),
        }

    def _bindings(self) -> dict[str, list[tuple[str, int]]]:
        bindings: dict[str, list[tuple[str, int]]] = {}
        for port in self.ports:
            bindings.setdefault(f"{port.container}/{port.protocol}", []).append((self.address, port.host))
        return bindings


def specify(
    launched: Launch,
    wishes: Wishes,
    image: Image,
    config: AppConfig | None,
    digest: str,
    name: str,
) -> Spec:
    """What to run: settings, which outrank adf.toml's *wishes*, then the image; and the app's config."""
    settings, identity = launched.settings, launched.identity
    ports = settings.publish if settings.publish is not None else wishes.publish or image.ports
    return Spec(
        name=name,
        image=image.tag,
        environment=_environment(settings, config, identity, ports),
        ports=ports,
        address=settings.publish_address,
        command=wishes.command,
        memory=wishes.memory,
        cpus=wishes.cpus,
        user=wishes.user,
        read_only=wishes.read_only,
        volumes=wishes.volumes,
        ulimits=wishes.ulimits,
        stop_timeout=wishes.stop_timeout,
        log_driver=settings.log_driver,
        log_opts={**(ROTATION if settings.log_driver in ("local", "json-file") else {}), **settings.log_opts},
        labels={
            "adf.app": settings.app or "",
            "adf.release": settings.release,
            "adf.digest": digest,
            "adf.config": config.fingerprint if config else "",
            "adf.instance": identity.instance_id,
        },
    )


def _environment(
    settings: Settings, config: AppConfig | None, identity: Identity, ports: tuple[Port, ...]
) -> dict[str, str]:
    port = {"PORT": str(ports[0].container)} if len(ports) == 1 else {}
    return {
        **port,
        "AWS_REGION": identity.region,
        **(config.environment() if config else {}),
        "ADF_APP": settings.app or "",
        "ADF_RELEASE": settings.release,
        "ADF_INSTANCE_ID": identity.instance_id,
    }


@dataclass(frozen=True)
class Container:
    """A container of the engine, running when this was read."""

    id: str
    name: str
    ports: tuple[Port, ...]
    address: str
    adopted: bool = False

    @property
    def fact(self) -> str:
        ports = ", ".join(map(str, self.ports)) or "no port"
        return f"{'adopted' if self.adopted else 'started'} {self.name} ({self.id[:12]}), {ports}"


def run(client: Any, spec: Spec) -> Container:
    """Creates and starts *spec*; a former container of its name is replaced. Raises ContainerError, leaving none."""
    remove(client, spec.name)
    try:
        with asking(f"starting {spec.name}", ContainerError):
            host = client.api.create_host_config(**spec.host())
            made = client.api.create_container(**spec.arguments(), host_config=host)["Id"]
            client.api.start(made)
    except ContainerError as error:
        with suppress(ContainerError):
            remove(client, spec.name)
        raise _meaning(error) from error.__cause__
    log.info("container.started", container=made[:12], image=spec.image)
    return Container(made, spec.name, spec.ports, spec.address)


def _meaning(error: ContainerError) -> ContainerError:
    """What the engine's words come to, where they are known; else *error*."""
    said = str(getattr(error.__cause__, "explanation", ""))
    if taken := _TAKEN.search(said):
        return ContainerError(
            f"port {taken[1]} of the host is taken by another process",
            hint=f"See `ss -ltnp 'sport = :{taken[1]}'`, or publish on another port with ADF_PUBLISH.",
        )
    if _NO_COMMAND.search(said):
        return ContainerError(
            f"the image's command can't be started: {said}",
            hint="Check CMD and ENTRYPOINT in the Dockerfile.",
            cause="app",
        )
    return error


def adopt(client: Any, container_id: str) -> Container | None:
    """The container *container_id* as it runs, None where it doesn't."""
    if not container_id or not running(client, container_id):
        return None
    with asking("looking at the container", ContainerError):
        facts = client.api.inspect_container(container_id)
    bindings = facts["HostConfig"]["PortBindings"] or {}
    published = [(port, each) for port, bound in bindings.items() for each in bound or ()]
    ports = tuple(Port.parse(f"{each['HostPort']}:{port}") for port, each in published)
    address = next((each["HostIp"] for _, each in published), "") or "0.0.0.0"  # noqa: S104  Docker's default
    return Container(container_id, facts["Name"].removeprefix("/"), ports, address, adopted=True)


def running(client: Any, container_id: str) -> bool:
    """Whether *container_id* runs; a restarting, paused or dead one doesn't."""
    with asking("looking at the container", ContainerError):
        try:
            state = client.api.inspect_container(container_id)["State"]
        except NotFound:
            return False
    return bool(state["Status"] == "running")


def stop(client: Any, container_id: str, timeout: float) -> None:
    """SIGTERM, SIGKILL after *timeout* seconds, and away with it. One that is gone already is well."""
    with asking(f"stopping {container_id[:12]}", ContainerError), suppress(NotFound):
        client.api.stop(container_id, timeout=math.ceil(timeout))
    remove(client, container_id)


def remove(client: Any, name: str) -> None:
    """Removes the container *name* (a name or an id), running or not. Raises ContainerError where Docker fails."""
    if not name:
        return
    try:
        with asking(f"removing {name[:40]}", ContainerError), suppress(NotFound):
            client.api.remove_container(name, force=True, v=True)
    except ContainerError as error:
        if "already in progress" not in error.sentence:
            raise


def last_words(client: Any, container_id: str) -> tuple[str, ...]:
    """The container's last 50 lines; none where Docker or its log driver has none."""
    try:
        output: bytes = client.api.logs(container_id, tail=TAIL_LINES)
    except FAULTS:
        return ()
    return tuple(output.decode(errors="replace").splitlines())


def exit_state(client: Any, container_id: str) -> tuple[int, bool]:
    """A container's exit code, and whether the kernel killed it for want of memory."""
    with asking("looking at the container", ContainerError):
        state = client.api.inspect_container(container_id)["State"]
    return int(state["ExitCode"]), bool(state["OOMKilled"])


def wait_for_exit(client: Any, container_id: str) -> None:
    """Returns when the container has ended, seen through Docker's own wait. Raises ContainerError."""
    with asking("waiting for the container", ContainerError):
        client.api.wait(container_id, timeout=None)
