"""What each stage of the boot does; `boot` has them in their order."""

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

from adf_agent import config, container, engine, health, image, release, secret, store
from adf_agent.background import Task, settle
from adf_agent.build import Builder
from adf_agent.config import AppConfig
from adf_agent.container import Container
from adf_agent.deadline import Deadline
from adf_agent.download import Source
from adf_agent.engine import Engine
from adf_agent.health import Healthy
from adf_agent.image import Image
from adf_agent.instance import DescribesTags, Metadata
from adf_agent.launch import Launch
from adf_agent.manifest import Manifest
from adf_agent.record import Record
from adf_agent.release import Release
from adf_agent.root import Root, boot_id
from adf_agent.state import Ledger

STOP_SECONDS = 10.0  # for a container that never was in service: no request is in it


class Host(Protocol):
    """What a boot acts on. Clients are made when they are asked for, those of AWS for a region."""

    root: Root

    def metadata(self, deadline: Deadline) -> Metadata: ...
    def docker(self, timeout: float) -> Any: ...
    def ec2(self, region: str) -> DescribesTags: ...
    def s3(self, region: str) -> Any: ...
    def config(self, region: str) -> config.Clients: ...


@dataclass(frozen=True)
class Stages:
    """A stage takes the values of those before it and returns its own. Each raises its AgentError, or Stopped."""

    host: Host
    record: Record
    ledger: Ledger
    launched: Launch
    deadline: Deadline

    def introduce(self) -> None:
        """Writes down who boots what."""
        identity, location = self.launched.identity, self.launched.settings.release_url
        self.record.add(
            instance={
                "id": identity.instance_id,
                "region": identity.region,
                "zone": identity.zone,
                "type": identity.type,
                "image_id": identity.image_id,
            },
            release={"name": self.launched.settings.release, "url": location.shown},
        )
        self.record.degrade(*self.launched.warnings)

    def docker(self) -> Engine:
        """The engine, without what another instance id's agent left on this disk, or a crash half-done."""
        reached = engine.connect(self.host.docker, self.deadline)
        if self.ledger.state.instance_id not in ("", self.launched.identity.instance_id):
            container.remove(reached.client, self.ledger.forget().container_id)
        self.ledger.note(instance_id=self.launched.identity.instance_id)
        image.discard_unfinished(reached.client, self._builder(reached))
        return reached

    def in_service_already(self) -> bool:
        """Whether this very release has been in service since the machine's last boot."""
        state = self.ledger.state
        return state.in_service and state.boot_id == boot_id() and self._recorded_url()

    def adopt(self, reached: Engine) -> Container | None:
        """The container that runs already, its process untouched, once found healthy; None where none runs."""
        adopted = container.adopt(reached.client, self.ledger.state.container_id)
        existing = image.find(reached.client, self.ledger.state.image)
        if adopted is None or existing is None:
            return None
        self.record.stage("container", lambda: adopted)
        self._introduce_container(adopted)
        self.record.stage("health", lambda: self._healthy(reached, self._recorded(), existing, adopted, ()))
        return adopted

    def release(self, docker: Task[Engine]) -> Release:
        """The release; the one recorded here where RELEASE_URL is unchanged and the image at hand."""
        if self._recorded_url():
            settle([docker], self.deadline.stop)
            if image.find(docker.value.client, self.ledger.state.image):
                return self._introduced(self._recorded())
        settings = self.launched.settings
        location, name = settings.release_url, settings.release
        if location.scheme == "docker":
            return self._introduced(release.of_registry(location, name))
        folder, limits = self.host.root.var, settings.archive_limit
        obtained = release.obtain(location, name, self._source(), folder, limits, self.deadline)
        if self._recorded_url() and obtained.digest != self.ledger.state.release_digest:
            self.record.degrade("the bytes behind RELEASE_URL are not those that were built here before")
        return self._introduced(obtained)

    def config(self) -> AppConfig:
        """The app's whole config."""
        settings, region = self.launched.settings, self.launched.identity.region
        app, table = settings.app or "", settings.config_table
        found = config.read(app, settings.release, table, self.host.config(region), self.deadline)
        if not found.values:
            self.record.degrade(f"{app} has no config in {table}")
        parts = list(config.partitions(app, settings.release).values())
        self.record.add(
            config={"table": table, "partitions": parts, "keys": len(found.values), "revision": found.revision}
        )
        return found

    def image(self, reached: Engine, released: Release) -> Image:
        """The image, at hand, built or pulled."""
        provided = image.provide(reached, released, self._builder(reached), self.ledger, self.deadline)
        self.ledger.note(
            url_digest=self._url_digest(),
            release_digest=provided.tag.partition(":")[2],
            manifest=released.manifest.text,
        )
        return provided

    def container(self, reached: Engine, released: Release, built: Image, read: AppConfig | None) -> Container:
        """The container, made anew: a restart of the instance means new config."""
        identity, digest = self.launched.identity, self.ledger.state.release_digest
        name = container.NAME if self.host.root.whole_machine else f"{container.NAME}-{identity.instance_id}"
        spec = container.specify(
            self.launched.settings, released.manifest.container, built, read, identity, digest, name
        )
        container.remove(reached.client, self.ledger.state.container_id)
        self.ledger.note(in_service=False, boot_id=boot_id(), container_id="")
        started = container.run(reached.client, spec)
        self.ledger.note(container_id=started.id)
        self._introduce_container(started)
        return started

    def health(
        self, reached: Engine, released: Release, built: Image, started: Container, read: AppConfig | None
    ) -> Healthy:
        """Health; without it the container goes, and its last words stay with the error."""
        try:
            return self._healthy(reached, released, built, started, read.secrets() if read else ())
        except BaseException:
            if self.launched.settings.on_failure != "hold":
                container.stop(reached.client, started.id, STOP_SECONDS)
            raise

    def _healthy(
        self, reached: Engine, released: Release, built: Image, running: Container, secrets: tuple[str, ...]
    ) -> Healthy:
        wishes = released.manifest.health
        probe = health.choose(self.launched.settings, wishes, built, running)
        healthy = health.wait(reached.client, running, probe, wishes, secrets, self.deadline)
        self.ledger.note(in_service=True, last_good=built.tag)
        self.record.add(probe={"probe": healthy.probe, "answer": healthy.answer, "healthy": True})
        return healthy

    def _url_digest(self) -> str:
        return hashlib.sha256(self.launched.settings.release_url.url.encode()).hexdigest()

    def _recorded_url(self) -> bool:
        state = self.ledger.state
        ours = state.instance_id == self.launched.identity.instance_id
        return ours and bool(state.image) and state.url_digest == self._url_digest()

    def _recorded(self) -> Release:
        state, settings = self.ledger.state, self.launched.settings
        manifest = Manifest.parse(state.manifest.encode())
        return Release(settings.release_url, settings.release, state.release_digest, manifest, recorded=True)

    def _introduced(self, released: Release) -> Release:
        self.record.add(
            release={
                "name": released.name,
                "url": released.location.shown,
                "digest": released.digest,
                "size": released.size,
            }
        )
        return released

    def _introduce_container(self, running: Container) -> None:
        ports = [str(port) for port in running.ports]
        self.record.add(container={"id": running.id, "name": running.name, "address": running.address, "ports": ports})

    def _source(self) -> Source:
        settings, region = self.launched.settings, self.launched.identity.region
        token = settings.release_token
        return store.source(
            settings.release_url,
            lambda: self.host.s3(region),
            (lambda: self._token(token)) if token else None,
        )

    def _token(self, reference: str) -> str:
        clients = self.host.config(self.launched.identity.region)
        return secret.resolve({"ADF_RELEASE_TOKEN": reference}, clients, self.deadline)["ADF_RELEASE_TOKEN"]

    def _builder(self, reached: Engine) -> Builder:
        return Builder.choose(self.launched.settings.builder, reached, self.host.root.var)
