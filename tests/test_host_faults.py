"""Docker restarted, killed and hung, and a full disk, while an app is in service: told apart from the app failing."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fixtures_agent import Daemon, Machine, app
from fixtures_engine import OwnEngine
from test_boot import free_port, page
from test_run import answers, pid_of_app

from adf_agent.sandbox.group import Group


@pytest.fixture
def serving(machine: Machine, own_engine: OwnEngine) -> Iterator[tuple[Daemon, int, Group]]:
    """An agent in service on an engine of its own, the port of its app, and the group around it."""
    machine.environment["DOCKER_HOST"] = own_engine.host
    theirs, machine.engine = machine.engine, own_engine.client
    with Group(machine.cloud) as group:
        group.launch()
        port = free_port()
        url = machine.release(app())
        machine.user_data(RELEASE_URL=url, ADF_PUBLISH=f"{port}:8000", ADF_UNHEALTHY_AFTER="1s")
        agent = machine.daemon()
        agent.reach("in service")
        yield agent, port, group
        agent.kill()
        machine.engine = theirs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_after_a_restart_of_docker_the_container_runs_again(
    serving: tuple[Daemon, int, Group], own_engine: OwnEngine, number: int
) -> None:
    """An upgrade of Docker, or its crash, after which an instance is in service with nothing running."""
    agent, port, _ = serving
    before = agent.machine.state()["container_id"]
    own_engine.stop(number)
    own_engine.start()
    agent.machine.engine = own_engine.client
    agent.until(answers(port), "the app answers again", 60)
    agent.reach("in service")
    assert agent.machine.state()["container_id"] == before
    assert len(agent.machine.containers()) == 1
    agent.until(
        lambda: not any("Docker" in reason for reason in agent.machine.status()["degraded"]), "it is mended", 30
    )


def test_a_hung_docker_is_a_host_fault_and_the_app_is_left_alone(
    serving: tuple[Daemon, int, Group], own_engine: OwnEngine
) -> None:
    """An instance whose Docker hangs: it can neither be deployed to nor repaired, and is healthy for ever."""
    agent, port, group = serving
    pid = pid_of_app(agent.machine)
    own_engine.send(signal.SIGSTOP)
    agent.until(lambda: group.unhealthy, "it is reported Unhealthy", 60)
    assert page(port) == "hello", "served all the while"
    assert any("Docker does not answer" in reason for reason in agent.machine.status()["degraded"])
    assert agent.machine.status()["phase"] == "in service"
    own_engine.send(signal.SIGCONT)
    agent.until(
        lambda: not any("Docker" in reason for reason in agent.machine.status()["degraded"]), "it is mended", 60
    )
    assert pid_of_app(agent.machine) == pid
    assert group.unhealthy == [False], "said once"


def test_a_full_disk_is_a_host_fault_and_the_agent_survives_it(machine: Machine) -> None:
    """An instance that can't write a byte and is in service for ever; an agent that dies of the full disk itself."""
    if os.geteuid() != 0:
        pytest.fail("a disk of its own needs root: sudo make test", pytrace=False)
    with ExitStack() as stack:
        disk = machine.root / "var/lib/adf-agent"
        disk.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=False)
        group = stack.enter_context(Group(machine.cloud))
        group.launch()
        machine.user_data(
            RELEASE_URL=machine.release(app()), ADF_PUBLISH=f"{free_port()}:8000", ADF_UNHEALTHY_AFTER="1s"
        )
        agent = machine.daemon()
        agent.reach("in service")
        fill(disk / "filler")
        [container] = machine.containers()
        agent.kill()
        agent = machine.daemon()
        agent.reach("in service")
        container.kill()
        agent.until(lambda: machine.status()["restarts"] == 1, "the app is started again")
        agent.reach("in service")
        agent.until(lambda: group.unhealthy, "it is reported Unhealthy", 60)
        assert any("no space left" in reason for reason in machine.status()["degraded"])
        group.terminate()
        agent.reach("drained")
        assert machine.containers() == []
        agent.kill()
        (disk / "filler").unlink()
        machine.clean()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            return
