"""What each stage of the boot does; `boot` has them in their order."""

import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from adf_agent import config, container, engine, health, image, lastgood, release, secret, spec, store
from adf_agent.background import Task, settle
from adf_agent.build import Builder
from adf_agent.config import AppConfig
from adf_agent.container import Container
from adf_agent.deadline import Deadline
from adf_agent.download import Source
from adf_agent.engine import Engine
from adf_agent.errors import AgentError, ConfigError, ImageError, ReleaseError
from adf_agent.health import Healthy
from adf_agent.host import Host
from adf_agent.image import Image
from adf_agent.launch import Launch
from adf_agent.manifest import Manifest
from adf_agent.record import Record
from adf_agent.release import Release
from adf_agent.root import boot_id
from adf_agent.state import Ledger

STOP_SECONDS = 10.0  # for a container that never was in service: no request is in it
UNDO_SECONDS = 15.0  # for all that is undone after a failure, also where Docker hangs
LAST_CONFIG_SECONDS = 30.0  # to read the config anew, where there is one to fall back on
log = structlog.get_logger()


@dataclasses.dataclass(frozen=True)
class Stages:
    """A stage takes the values of those before it and returns its own. Each raises its AgentError, or Stopped."""

    host: Host
    record: Record
    ledger: Ledger
    launched: Launch
    deadline: Deadline

    def introduce(self) -> None:
        """Writes down who boots what."""
        identity, settings = self.launched.identity, self.launched.settings
        structlog.contextvars.bind_contextvars(instance=identity.instance_id, release=settings.release)
        where = {"region": identity.region, "zone": identity.zone}
        what = {"id": identity.instance_id, "type": identity.type, "image_id": identity.image_id}
        self.record.add(instance=what | where, release={"name": settings.release, "url": settings.release_url.shown})
        self.record.degrade(*self.launched.warnings)

    def docker(self) -> Engine:
        """The engine, without what another instance id's agent left on this disk, or a crash half-done."""
        reached = engine.connect(self.host.docker, self.deadline)
        if self.ledger.state.instance_id not in ("", self.launched.identity.instance_id):
            former = self.ledger.forget()
            self.deadline.retry(lambda: container.remove(reached.client, former.container_id))
            lastgood.forget(self.host.root)
        self.ledger.note(instance_id=self.launched.identity.instance_id)
        image.discard_unfinished(reached.client, self.host.root.var)
        return reached

    def in_service_already(self) -> bool:
        """Whether this very release has been in service since the machine's last boot."""
        state = self.ledger.state
        return state.in_service and state.boot_id == boot_id() and self._recorded_url()

    def adopt(self, reached: Engine) -> Container | None:
        """The container that runs already, its process untouched; None where none runs."""
        known = self.ledger.state.container_id, self.ledger.state.release_digest
        adopted = self.deadline.retry(lambda: container.adopt(reached.client, *known))
        if adopted:
            last = self._last_config()
            self.record.mask.add(last.secrets() if last else ())
            self._introduce_container(adopted)
        return adopted

    def health_of_adopted(self, reached: Engine, adopted: Container) -> Healthy:
        """Health of what is in service already; it is left as it is, whatever comes of it."""
        existing = self.deadline.retry(lambda: image.find(reached.client, self.ledger.state.image))
        if existing is None:
            raise ImageError(
                f"{self.ledger.state.image} is gone, though its container runs",
                hint="Restart the instance.",
                cause="host",
            )
        return self._healthy(reached, self._recorded(), existing, adopted)

    def release(self, docker: Task[Engine]) -> Release:
        """The release; the one recorded here where RELEASE_URL is unchanged and the image at hand."""
        if self._recorded_url():
            settle([docker], self.deadline)
            if self.deadline.retry(lambda: image.find(docker.value.client, self.ledger.state.image)):
                return self._introduced(self._recorded())
        elif self.ledger.state.url_digest:
            log.info("release.changed", former=self.ledger.state.release_digest[:12])
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
        """The app's whole config; while the table is out of reach, the last that was in service on this instance."""
        settings, region, last = self.launched.settings, self.launched.identity.region, self._last_config()
        app, table = settings.app or "", settings.config_table
        deadline = self.deadline.within(LAST_CONFIG_SECONDS) if last else self.deadline
        try:
            clients = deadline.retry(lambda: self.host.config(region))
            found = config.read(app, settings.release, table, clients, deadline)
        except AgentError as error:
            if last is None or not error.transient:
                raise
            self.record.degrade(f"the last config that worked is in force, as it can't be read anew: {error.sentence}")
            found = last
        self._introduce_config(found, table)
        return found

    def image(self, reached: Engine, released: Release) -> Image:
        """The image, at hand, built or pulled."""
        wanted, folder = self.launched.settings.builder, self.host.root.var
        choose = functools.partial(Builder.choose, wanted, reached, folder)
        provided = image.provide(reached, released, choose, self.ledger, self.deadline)
        digest = provided.tag.partition(":")[2]
        self.ledger.note(url_digest=self._url_digest(), release_digest=digest, manifest=released.manifest.text)
        self._introduced(dataclasses.replace(released, digest=digest))
        return provided

    def container(self, reached: Engine, released: Release, built: Image, read: AppConfig | None) -> Container:
        """The container, made anew: a restart of the instance means new config."""
        wishes, digest = released.manifest.container, self.ledger.state.release_digest
        wanted = spec.specify(self.launched, wishes, built, read, digest, self._container_name())
        former, tags = self.ledger.state.container_id, self.launched.described
        self.deadline.retry(lambda: container.remove(reached.client, former))
        told = "" if tags is None else json.dumps(dict(tags))
        self.ledger.note(in_service=False, boot_id=boot_id(), container_id="", tags=told)
        started = self.deadline.retry(lambda: container.run(reached.client, wanted))
        self.ledger.note(container_id=started.id)
        self._introduce_container(started)
        return started

    def health(
        self, reached: Engine, released: Release, built: Image, read: AppConfig | None, started: Container
    ) -> Healthy:
        """Health, and with it the config that a restart may fall back on."""
        healthy = self._healthy(reached, released, built, started)
        if read:
            lastgood.save(self.host.root, self.launched.identity.instance_id, read)
        return healthy

    @contextmanager
    def undone_on_failure(self, docker: Task[Engine]) -> Iterator[None]:
        """Takes the container away where what is done meanwhile fails, within a time of its own; but under `hold`.

        One that an agent started and left in a crash goes too; one that has been in service stays.
        """
        try:
            yield
        except BaseException as error:
            held = self.launched.settings.on_failure == "hold" and isinstance(error, AgentError)
            if self.ledger.state.boot_id == boot_id() and not self.ledger.state.in_service and not held:
                self._undo(docker)
                self.record.add(container=None)
            raise

    def _undo(self, docker: Task[Engine]) -> None:
        window = Deadline(UNDO_SECONDS, threading.Event())

        def stop() -> None:
            ready = docker.done() and not docker.failed()
            reached = docker.value if ready else engine.connect(self.host.docker, window)
            container.stop(reached.client, self._container_name(), STOP_SECONDS)

        try:
            Task(stop).result(window)
        except (AgentError, TimeoutError) as error:  # why the boot failed is what counts
            log.warning("container.not_removed", container=self._container_name(), reason=str(error))

    def _container_name(self) -> str:
        whole = self.host.root.whole_machine
        return container.NAME if whole else f"{container.NAME}-{self.launched.identity.instance_id}"

    def _healthy(self, reached: Engine, released: Release, built: Image, running: Container) -> Healthy:
        wishes = released.manifest.health
        probe = health.choose(self.launched.settings, wishes, built, running)
        healthy = health.wait(reached.client, running, probe, wishes, self.deadline)
        self.ledger.note(in_service=True, last_good=built.tag)
        self.record.add(probe={"probe": healthy.probe, "answer": healthy.answer, "healthy": True})
        return healthy

    def _last_config(self) -> AppConfig | None:
        settings, identity = self.launched.settings, self.launched.identity
        if settings.app is None:
            return None
        return lastgood.load(self.host.root, identity.instance_id, settings.app, settings.release)

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
        parts = {"name": released.name, "url": released.location.shown, "digest": released.digest}
        self.record.add(release={**parts, "size": released.size})
        return released

    def _introduce_config(self, found: AppConfig, table: str) -> None:
        self.record.mask.add(found.secrets())
        if not found.values:
            self.record.degrade(f"{found.app} has no config in {table}")
        parts = {"table": table, "partitions": list(config.partitions(found.app, found.release).values())}
        self.record.add(config={**parts, "keys": len(found.values), "revision": found.revision})

    def _introduce_container(self, running: Container) -> None:
        ports = [str(port) for port in running.ports]
        self.record.add(container={"id": running.id, "name": running.name, "address": running.address, "ports": ports})

    def _source(self) -> Source:
        settings, region = self.launched.settings, self.launched.identity.region
        reference = settings.release_token
        token = (lambda: self._token(reference)) if reference else None
        return store.source(settings.release_url, lambda: self.host.s3(region), token)

    def _token(self, reference: str) -> str:
        clients = self.host.config(self.launched.identity.region)
        try:
            return secret.resolve({"ADF_RELEASE_TOKEN": reference}, clients, self.deadline)["ADF_RELEASE_TOKEN"]
        except ConfigError as error:
            raise ReleaseError(error.sentence, hint=error.hint, cause=error.cause, transient=error.transient) from error
