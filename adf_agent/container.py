"""The app's container: run, adopted, stopped, and its last lines read."""

import math
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import structlog
from docker.errors import APIError, NotFound

from adf_agent.engine import FAULTS, asking
from adf_agent.errors import ContainerError
from adf_agent.folders import overlap, unmoved
from adf_agent.notation import Port
from adf_agent.spec import Spec

TAIL_LINES, TAIL_BYTES = 50, 64 << 10
_TAKEN = re.compile(r":(\d+)(?::| failed:).*(?:port is already allocated|address already in use)")
_NO_COMMAND = re.compile(
    r"executable file not found|no such file or directory|[Nn]o command specified|permission denied"
)
log = structlog.get_logger()


@dataclass(frozen=True)
class Container:
    """A container of the engine, running when this was read."""

    id: str
    name: str
    ports: tuple[Port, ...]
    address: str
    adopted: bool = False
    fingerprint: str = ""  # of the Spec that it was made by
    image: str = ""  # its id, or its tag

    def shown(self) -> dict[str, Any]:
        """What the record has of it."""
        ports = [str(port) for port in self.ports]
        return {"id": self.id, "name": self.name, "address": self.address, "ports": ports}

    @property
    def fact(self) -> str:
        ports = ", ".join(map(str, self.ports)) or "no port"
        return f"{'adopted' if self.adopted else 'started'} {self.name} ({self.id[:12]}), {ports}"


def run(client: Any, spec: Spec) -> Container:
    """Creates and starts *spec*; a former container of its name is replaced. Raises ContainerError, leaving none."""
    remove(client, spec.name)
    _check_mounts(client, [each.source for each in spec.volumes if each.host])
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
    return Container(made, spec.name, spec.ports, spec.address, fingerprint=spec.fingerprint, image=spec.image)


def _check_mounts(client: Any, sources: list[str]) -> None:
    """What is to be mounted is what was looked at, now that no former container can change it; and not Docker's own."""
    if not sources:
        return
    if not unmoved(sources):
        hint = "Something on this machine writes there: see that only its own user may."
        raise ContainerError(f"one of {', '.join(sources)} was made a link, or is gone, since it was read", hint=hint)
    with asking("looking for Docker's own folder", ContainerError):
        docker = client.info()["DockerRootDir"]
    if hit := next((source for source in sources if overlap(source, docker)), None):
        hint = "It is in adf.toml, [container] volumes: mount another folder, or a named volume."
        raise ContainerError(f"{hit} is, holds or is part of Docker's own {docker}", hint=hint, cause="release")


def _meaning(error: ContainerError) -> ContainerError:
    """What the engine's words come to, where they are known; else *error*."""
    said = str(getattr(error.__cause__, "explanation", ""))
    if taken := _TAKEN.search(said):
        return ContainerError(
            f"port {taken[1]} of the host is taken by another process",
            hint=f"See `ss -ltnp 'sport = :{taken[1]}'` and stop it, or publish on another port with ADF_PUBLISH.",
        )
    if _NO_COMMAND.search(said):
        return ContainerError(
            f"the image's command can't be started: {said}",
            hint="Check CMD and ENTRYPOINT in the Dockerfile.",
            cause="app",
        )
    if isinstance(error.__cause__, APIError) and not error.transient:
        return ContainerError(
            error.sentence,
            hint="Check [container] in adf.toml, ADF_PUBLISH_ADDRESS and ADF_LOG_DRIVER; and `journalctl -u docker`.",
            cause="settings" if error.__cause__.is_client_error() else "host",
        )
    return error


def adopt(client: Any, container_id: str, digest: str) -> Container | None:
    """The container *container_id* as it runs, None where it doesn't, or is not of the release with *digest*."""
    facts = _facts(client, container_id, digest)
    return _adopted(facts) if facts and facts["State"]["Status"] == "running" else None


def start_again(client: Any, container_id: str, digest: str) -> Container | None:
    """Starts the container that had ended, with its own environment and log; None where it is gone, as above.

    None too where a folder of the host that it mounts was made a link meanwhile: Docker would follow that anew.
    """
    facts = _facts(client, container_id, digest)
    if facts is None or not unmoved(bind.partition(":")[0] for bind in facts["HostConfig"]["Binds"] or ()):
        return None
    with asking(f"starting {container_id[:12]} again", ContainerError):
        if facts["State"]["Paused"]:
            client.api.unpause(container_id)
        client.api.start(container_id)
    log.info("container.started_again", container=container_id[:12], exit_code=facts["State"]["ExitCode"])
    return replace(_adopted(facts), adopted=False)


def _facts(client: Any, container_id: str, digest: str) -> Any:
    if not container_id:
        return None
    with asking("looking at the container", ContainerError):
        try:
            facts = client.api.inspect_container(container_id)
        except NotFound:
            return None
    return facts if facts["Config"]["Labels"].get("adf.digest") == digest else None


def _adopted(facts: Any) -> Container:
    bindings = facts["HostConfig"]["PortBindings"] or {}
    published = [(port, each) for port, bound in bindings.items() for each in bound or ()]
    ports = tuple(Port.parse(f"{each['HostPort']}:{port}") for port, each in published)
    address = next((each["HostIp"] for _, each in published), "") or "0.0.0.0"  # noqa: S104  Docker's default
    label = facts["Config"]["Labels"].get("adf.spec", "")
    name, made_from = facts["Name"].removeprefix("/"), facts["Image"]
    return Container(facts["Id"], name, ports, address, adopted=True, fingerprint=label, image=made_from)


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
    """The container's last 50 lines, of TAIL_BYTES at most, as a line has no limit; none where Docker has none."""
    output, cut = b"", False
    with suppress(*FAULTS):
        for chunk in client.api.logs(container_id, stream=True, follow=False, tail=TAIL_LINES):
            output, cut = output + chunk, cut or len(output + chunk) > TAIL_BYTES
            output = output[-TAIL_BYTES:]
    if cut:  # half a line may be half a secret, which no mask knows
        output = output.partition(b"\n")[2] or output.partition(b" ")[2]
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
