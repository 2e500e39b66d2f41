"""The app's container as it shall run: decided purely, from settings, adf.toml, image and config."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from docker.types import LogConfig
from docker.types import Ulimit as DockerUlimit

from adf_agent.config import AppConfig
from adf_agent.errors import ContainerError
from adf_agent.image import Image
from adf_agent.instance import Identity
from adf_agent.launch import Launch
from adf_agent.manifest import Container as Wishes
from adf_agent.notation import Port, Ulimit, Volume
from adf_agent.settings import Settings

# Of each file; the engine's own default for `local` is five of 20 MB, for `json-file` no limit at all.
ROTATION = {"max-size": "20m", "max-file": "5"}


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
    capabilities: tuple[str, ...] | None
    ulimits: tuple[Ulimit, ...]
    stop_timeout: float
    log_driver: str
    log_opts: Mapping[str, str]
    labels: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits of all that makes the container; another one means that it has to be made anew."""
        parts = {**asdict(self), "environment": sorted(self.environment.items())}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def arguments(self) -> dict[str, Any]:
        """For `docker.APIClient.create_container`, but for the host's part."""
        return {
            "name": self.name,
            "image": self.image,
            "environment": dict(self.environment),
            "ports": [(port.container, port.protocol) for port in self.ports],
            "command": list(self.command) if self.command else None,
            "user": self.user,
            "labels": {**self.labels, "adf.spec": self.fingerprint},
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
            "cap_drop": None if self.capabilities is None else ["ALL"],
            "cap_add": list(self.capabilities or ()),
            "security_opt": ["no-new-privileges"],  # no setuid program gives an app more than it was started with
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
    _check_ports(ports)
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
        capabilities=wishes.capabilities,
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


def _check_ports(ports: tuple[Port, ...]) -> None:
    taken = [(port.host, port.protocol) for port in ports]
    if twice := next((host for host, protocol in taken if taken.count((host, protocol)) > 1), None):
        raise ContainerError(
            f"port {twice} of the host is to be published twice",
            hint="Mend ADF_PUBLISH, or publish in adf.toml.",
            cause="settings",
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
