"""What each stage of the boot does; `boot` has them in their order."""

import dataclasses
import functools
import hashlib
import json

import structlog

from adf_agent import config, container, engine, health, hold, image, lastgood, mask, release, secret, spec, store
from adf_agent.background import Task, settle
from adf_agent.build import Builder
from adf_agent.config import AppConfig
from adf_agent.container import Container
from adf_agent.deadline import Deadline
from adf_agent.download import Source
from adf_agent.engine import Engine
from adf_agent.errors import AgentError, ReleaseError
from adf_agent.health import Healthy
from adf_agent.host import Host
from adf_agent.image import Image
from adf_agent.launch import Launch
from adf_agent.location import Location
from adf_agent.manifest import Manifest
from adf_agent.notation import Probe
from adf_agent.record import Record
from adf_agent.release import Release
from adf_agent.spec import Spec
from adf_agent.state import Ledger

LAST_CONFIG_SECONDS = 30.0  # to read the config anew, where there is one to fall back on
GUARDS = ("ADF_RELEASE_KEYS", "ADF_RELEASE_SOURCES")
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
        """Writes down who boots what. What another instance id's agent left on this disk counts no more."""
        identity, settings = self.launched.identity, self.launched.settings
        structlog.contextvars.bind_contextvars(instance=identity.instance_id, release=settings.release)
        digest = {"digest": self.ledger.state.release_digest} if self.is_recorded() else {}
        wanted = {"name": settings.release, "url": settings.release_url.shown, **digest}
        self.record.add(instance=identity.shown(), release=wanted)
        self.record.trouble("settings", "; ".join(self.launched.warnings), "adf-agent settings")
        if not self.ledger.belong(identity.instance_id):
            lastgood.forget(self.host.root)
        if self.launched.described is not None:  # asked once a boot of the machine
            self.ledger.note(tags=json.dumps(dict(self.launched.described)))

    def docker(self) -> Engine:
        """The engine, without what a crash left half-done."""
        self.record.mask.add(engine.logins(self.host.root.etc / "docker"))  # a registry may quote what it was sent
        reached = engine.connect(self.host.docker, self.deadline)
        image.discard_unfinished(reached.client, self.host.root.var)
        return reached

    def release(self, docker: Task[Engine]) -> Release:
        """The release; the one recorded here where RELEASE_URL is unchanged and the image at hand."""
        if self.is_recorded():
            settle([docker], self.deadline)
            if self.deadline.retry(lambda: image.find(docker.value.client, self.ledger.state.image)):
                return self._introduced(self.recorded())
        elif self.ledger.state.url_digest:
            log.info("release.changed", former=self.ledger.state.release_digest[:12])
        settings = self.launched.settings
        location, name = settings.release_url, settings.release
        settings.release_sources.check(location)
        signers = release.signers(location, settings.release_keys, self._source)
        if location.scheme == "docker":
            return self._introduced(release.of_registry(location, name))
        folder, limits = self.host.root.var, settings.archive_limit
        obtained = release.obtain(location, name, self._source(location), folder, limits, self.deadline, signers)
        settings.release_sources.check(obtained.location)  # where it is an image that a note names
        if self.is_recorded() and obtained.digest != self.ledger.state.release_digest:
            self.record.degrade(
                "the bytes behind RELEASE_URL are not those that were built here before",
                hint="Pin what is meant with #sha256=… in RELEASE_URL.",
            )
        return self._introduced(obtained)

    def reads_config(self) -> bool:
        """Whether config joins: an instance of a warm pool reads it when it leaves the pool."""
        return self.launched.settings.app is not None and not self.launched.warm

    def config(self, *, fall_back: bool = True) -> AppConfig:
        """The app's whole config; while the table is out of reach, the last that was in service on this instance."""
        settings, region = self.launched.settings, self.launched.identity.region
        last = self.last_config() if fall_back else None
        app, table = settings.app or "", settings.config_table
        deadline = self.deadline.within(LAST_CONFIG_SECONDS) if last else self.deadline
        try:
            clients = deadline.retry(lambda: self.host.config(region))
            found = config.read(app, settings.release, table, clients, deadline)
        except AgentError as error:
            if last is None or not error.transient:
                raise
            since = lastgood.since(self.host.root)
            trouble = (
                f"the last config that worked, of {since}, is in force, as it can't be read anew: {error.sentence}"
            )
            found, hint = last, error.hint
        else:
            trouble = "" if found.values else f"{found.app} has no config in {table}"
            hint = f"See `adf-config -a {found.app} list`, from where the table is written."
        self._hide(found)
        self.record.trouble("config", trouble, hint)
        self.record.add(config=found.shown(table))
        return found

    def image(self, reached: Engine, released: Release) -> Image:
        """The image, at hand, built or pulled."""
        wanted, folder = self.launched.settings.builder, self.host.root.var
        choose = functools.partial(Builder.choose, wanted, reached, folder)
        provided = image.provide(reached, released, choose, self.ledger, self.record.mask, self.deadline)
        digest = provided.tag.partition(":")[2]
        self.ledger.note(url_digest=self._url_digest(), release_digest=digest, manifest=released.manifest.text)
        self._introduced(dataclasses.replace(released, digest=digest))
        return provided

    def specify(self, released: Release, built: Image, read: AppConfig | None) -> Spec:
        """The container as it shall run."""
        digest, wishes = self.ledger.state.release_digest, released.manifest.container
        wishes = dataclasses.replace(wishes, volumes=self.launched.mounts(wishes.volumes, self.host.root))
        return spec.specify(self.launched, wishes, built, read, digest, self.container_name())

    def container(self, reached: Engine, wanted: Spec) -> Container:
        """The container, made anew: a restart of the instance means new config."""
        former = self.ledger.state.container_id
        self.deadline.retry(lambda: container.remove(reached.client, former))
        self.ledger.note(in_service=False, standing="", container_id="")
        started = self.deadline.retry(lambda: container.run(reached.client, wanted))
        self.ledger.note(container_id=started.id)
        self.record.add(container=started.shown())
        return started

    def health(self, reached: Engine, manifest: Manifest, built: Image, running: Container) -> Healthy:
        """Health of the container."""
        probe = self.probe(manifest, built, running)
        healthy = health.wait(reached.client, running, probe, manifest.health, self.deadline)
        self.record.probed(probe, healthy.answer, healthy=True)
        return healthy

    def probe(self, manifest: Manifest, built: Image, running: Container) -> Probe | None:
        """How health is asked for. Raises HealthError."""
        return health.choose(self.launched.settings, manifest.health, built, running)

    def keep_config(self, read: AppConfig | None) -> None:
        """Keeps the config that was in service, for a restart to fall back on."""
        if read:
            lastgood.save(self.host.root, self.launched.identity.instance_id, read)

    def is_held(self) -> bool:
        """Whether a failing instance is kept for a person."""
        return self.launched.settings.on_failure == "hold" or hold.left(self.host.root) > 0

    def container_name(self) -> str:
        return self.host.root.container(self.launched.identity.instance_id)

    def last_config(self) -> AppConfig | None:
        """The config that was in service last, with its secrets masked from now on; None where there is none."""
        settings, identity = self.launched.settings, self.launched.identity
        if settings.app is None:
            return None
        last = lastgood.load(self.host.root, identity.instance_id, settings.app, settings.release)
        self._hide(last)
        return last

    def _hide(self, read: AppConfig | None) -> None:
        """Masks the secrets of the config from now on, and what is one by its name alone."""
        if read:
            self.record.mask.add([*read.secrets(), *mask.secretive(read.environment())])

    def is_recorded(self) -> bool:
        """Whether RELEASE_URL is that of the release recorded here."""
        state = self.ledger.state
        ours = state.instance_id == self.launched.identity.instance_id
        return ours and bool(state.image) and state.url_digest == self._url_digest()

    def recorded(self) -> Release:
        """The release recorded here: nothing is fetched again."""
        state, settings = self.ledger.state, self.launched.settings
        manifest = Manifest.parse(state.manifest.encode())
        return Release(settings.release_url, settings.release, state.release_digest, manifest, recorded=True)

    def recorded_stop_timeout(self) -> float:
        """Seconds from SIGTERM to SIGKILL, as the release recorded here wishes; without one, the default."""
        try:
            return Manifest.parse(self.ledger.state.manifest.encode()).container.stop_timeout
        except ReleaseError:  # another version's, which knew other keys: no reason not to drain
            return Manifest().container.stop_timeout

    def _url_digest(self) -> str:
        """Of RELEASE_URL and of what guards it: what was let in by other keys is asked for its signature again."""
        settings = self.launched.settings
        guards = filter(None, (settings.sources[name][0] for name in GUARDS))
        return hashlib.sha256("\n".join([settings.release_url.url, *guards]).encode()).hexdigest()

    def _introduced(self, released: Release) -> Release:
        self.launched.mounts(released.manifest.container.volumes, self.host.root)  # before anything is built of it
        url = self.launched.settings.release_url.shown  # also where the release is an image that a note names
        self.record.add(release={**released.shown(), "url": url})
        return released

    def _source(self, location: Location) -> Source:
        settings, region = self.launched.settings, self.launched.identity.region

        def token() -> str:
            found = secret.release_token(settings.release_token or "", self.host.config(region), self.deadline)
            self.record.mask.add([found.strip()])
            return found

        wanted = token if settings.release_token else None
        return store.source(location, lambda: self.host.s3(region), wanted, settings.release_sources)
