"""The boot: its stages in order, from an instance's identity to a container that serves and everybody knows of."""

from collections.abc import Callable
from typing import TypeVar

from adf_agent import launch, release, serving, undo
from adf_agent.background import Task, settle
from adf_agent.deadline import Deadline
from adf_agent.errors import ReportError, Stage
from adf_agent.host import Host
from adf_agent.member import Member
from adf_agent.record import HasFact, Record
from adf_agent.serving import Service
from adf_agent.stages import Stages
from adf_agent.state import Ledger

T = TypeVar("T", bound=HasFact)


def read(host: Host, record: Record, ledger: Ledger, deadline: Deadline) -> Stages:
    """The first stage, `settings`: what this instance was launched with. Raises AgentError or Stopped."""
    ledger.begin()
    launched = Task(
        lambda: record.stage(
            "settings", lambda: launch.read(host.root, host.metadata(deadline), host.ec2, ledger.tags(), deadline)
        )
    ).settled(deadline)
    do = Stages(host, record, ledger, launched, deadline.lasting(launched.settings.boot_timeout))
    do.introduce()
    return do


def boot(do: Stages, member: Member) -> Service | None:
    """Boots this instance's release, or goes on with what is in service since an earlier boot of it.

    For an instance of a warm pool it ends at the image, None: nothing runs. Raises AgentError or Stopped; what was
    started is gone then, but for a container under `ADF_ON_FAILURE=hold`.
    """

    def stage(name: Stage, call: Callable[[], T]) -> Task[T]:
        do.deadline.check()
        return Task(lambda: do.record.stage(name, call))

    if serving.is_known(do):
        return serving.again(do, member)
    if do.ledger.state.given_up:
        raise ReportError(f"this instance was given up: {do.ledger.state.given_up}", hint="Launch another one.")
    docker = stage("docker", do.docker)
    with undo.on_failure(do, docker):
        member.begin(do.deadline)
        with release.kept(do.host.root.var):
            fetched = stage("release", lambda: do.release(docker))
            configured = stage("config", do.config) if do.reads_config() else Task(lambda: None)
            settle([docker, fetched], do.deadline)
            built = stage("image", lambda: do.image(docker.value, fetched.value))
            settle([built, configured], do.deadline)
        if do.launched.warm:
            stage("report", lambda: serving.join(do, member, docker.value, None)).settled(do.deadline)
            return None
        wanted = do.specify(fetched.value, built.value, configured.value)
        started = stage("container", lambda: do.container(docker.value, wanted)).settled(do.deadline)
        manifest = fetched.value.manifest
        stage("health", lambda: do.health(docker.value, manifest, built.value, started)).settled(do.deadline)
        do.keep_config(configured.value)
        stage("report", lambda: serving.join(do, member, docker.value, started)).settled(do.deadline)
    return Service(started, docker.value.client, do.probe(manifest, built.value, started), manifest)
