"""The boot: its stages in order, from an instance's identity to a container that serves."""

from collections.abc import Callable
from typing import TypeVar

from adf_agent import launch, release
from adf_agent.background import Task, settle
from adf_agent.container import Container
from adf_agent.deadline import Deadline
from adf_agent.errors import Stage
from adf_agent.host import Host
from adf_agent.record import HasFact, Record
from adf_agent.stages import Stages
from adf_agent.state import Ledger

T = TypeVar("T", bound=HasFact)


def boot(host: Host, record: Record, ledger: Ledger, deadline: Deadline) -> Container:
    """Boots this instance's release, or adopts what is in service since an earlier boot of it.

    Raises AgentError or Stopped; what was started is gone then, but for a container under `ADF_ON_FAILURE=hold`.
    """

    def stage(name: Stage, call: Callable[[], T]) -> Task[T]:
        deadline.check()
        return Task(lambda: record.stage(name, call))

    launched = stage(
        "settings", lambda: launch.read(host.root, host.metadata(deadline), host.ec2, ledger.tags(), deadline)
    ).settled(deadline)
    deadline = deadline.lasting(launched.settings.boot_timeout)
    do = Stages(host, record, ledger, launched, deadline)
    do.introduce()
    docker = stage("docker", do.docker)
    if do.in_service_already() and (adopted := Task(lambda: do.adopt(docker.settled(deadline))).settled(deadline)):
        stage("container", lambda: adopted).settled(deadline)
        stage("health", lambda: do.health_of_adopted(docker.value, adopted)).settled(deadline)
        return adopted
    with do.undone_on_failure(docker), release.kept(host.root.var):
        fetched = stage("release", lambda: do.release(docker))
        configured = stage("config", do.config) if launched.settings.app else Task(lambda: None)
        settle([docker, fetched], deadline)
        built = stage("image", lambda: do.image(docker.value, fetched.value))
        settle([built, configured], deadline)
        joined = (docker.value, fetched.value, built.value, configured.value)
        started = stage("container", lambda: do.container(*joined)).settled(deadline)
        stage("health", lambda: do.health(*joined, started)).settled(deadline)
    return started
