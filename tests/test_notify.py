"""What systemd is told, read at the other end of its socket."""

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from adf_agent.notify import Notify

STAGES = [{"name": "settings", "state": "done"}, {"name": "image", "state": "running"}]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Manager:
    """A service manager that listens at *address*, as NOTIFY_SOCKET has it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(0)  # a datagram is there as soon as it is sent

    def told(self) -> list[str]:
        """What came since it was asked last."""
        found: list[str] = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """One whose socket is a file, and one whose socket has a name only."""
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@adf-agent-test/{os.urandom(8).hex()}")
    with made.socket:
        yield made


def notify(manager: Manager, environment: Mapping[str, str] | None = None, clock: Clock | None = None) -> Notify:
    return Notify.of_environment({"NOTIFY_SOCKET": manager.address, **(environment or {})}, clock or Clock())


def test_systemd_is_told_that_the_agent_is_ready_and_that_it_ends(manager: Manager) -> None:
    """A start that systemd takes for hung, or a drain that it cuts short at its own time-out."""
    sender = notify(manager)
    sender.ready()
    sender.stopping(345.0)
    assert manager.told() == ["READY=1", "STOPPING=1\nEXTEND_TIMEOUT_USEC=345000000"]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"phase": "booting", "stages": STAGES}, "booting: image"),
        ({"phase": "booting", "stages": STAGES[:1]}, "booting"),
        ({"phase": "in service", "stages": []}, "in service"),
        ({"phase": "booting", "stages": [STAGES[1], {"name": "config", "state": "running"}]}, "booting: config"),
    ],
)
def test_the_status_names_the_stage_under_way(manager: Manager, parts: dict[str, Any], text: str) -> None:
    """A `systemctl status` that says "active" of a boot that hangs at its image."""
    notify(manager).status(parts)
    assert manager.told() == [f"STATUS={text}"]


def test_the_status_is_sent_only_where_it_has_changed(manager: Manager) -> None:
    """A service manager that is woken by each write of the record."""
    sender = notify(manager)
    for phase in ("booting", "booting", "in service", "in service", "booting"):
        sender.status({"phase": phase, "stages": [], "since": os.urandom(1)})
    assert manager.told() == ["STATUS=booting", "STATUS=in service", "STATUS=booting"]


def test_the_watchdog_is_fed_three_times_in_its_interval(manager: Manager) -> None:
    """An agent that is killed for one late beat, or keeps systemd busy with every turn of its loop."""
    clock = Clock()
    sender = notify(manager, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, clock)
    fed: list[float] = []
    for _ in range(61):
        sender.feed()
        fed += [clock.now - 1000] * len(manager.told())
        clock.now += 0.5
    assert fed == [0.0, 10.0, 20.0, 30.0]


@pytest.mark.parametrize(
    ("environment", "beats"),
    [
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, ["WATCHDOG=1"]),
        ({"WATCHDOG_USEC": "3000000"}, ["WATCHDOG=1"]),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getppid())}, []),
        ({"WATCHDOG_PID": str(os.getpid())}, []),
        ({"WATCHDOG_USEC": "0"}, []),
        ({"WATCHDOG_USEC": ""}, []),
        ({}, []),
    ],
    ids=["ours", "without a pid", "another's", "no time", "0", "empty", "none"],
)
def test_only_the_watchdog_that_waits_for_this_process_is_fed(
    manager: Manager, environment: dict[str, str], beats: list[str]
) -> None:
    """A child that keeps a hung agent alive by the variables that it inherited."""
    sender = notify(manager, environment)
    sender.feed()
    assert manager.told() == beats


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "3000000"}])
def test_without_a_service_manager_nothing_is_sent(environment: dict[str, str], tmp_path: Path) -> None:
    """An agent that can't be started by hand, or by upstart."""
    say_all(Notify.of_environment(environment, Clock()))
    assert list(tmp_path.iterdir()) == []


def test_a_service_manager_that_is_gone_is_no_reason_to_end(manager: Manager) -> None:
    """An upgrade of systemd that takes every agent, and its app, down."""
    sender = notify(manager, {"WATCHDOG_USEC": "3000000"})
    sender.ready()
    manager.socket.close()
    Path(manager.address).unlink(missing_ok=True)
    say_all(sender)


def test_one_that_comes_back_is_told_again(manager: Manager) -> None:
    """A systemd that was upgraded and starves the watchdog of an agent that holds on to its old socket."""
    clock = Clock()
    sender = notify(manager, {"WATCHDOG_USEC": "3000000"}, clock)
    sender.feed()
    manager.socket.close()
    Path(manager.address).unlink(missing_ok=True)
    again = Manager(manager.address)
    with again.socket:
        clock.now += 1
        sender.feed()
        assert again.told() == ["WATCHDOG=1"]


def test_a_service_manager_that_does_not_listen_does_not_hold_the_loop_up(tmp_path: Path) -> None:
    """A loop that hangs, and sees no notice any more, as systemd is busy."""
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.settimeout(0)
        with pytest.raises(BlockingIOError):
            fill(other, manager.address)
        notify(manager).ready()
        assert set(manager.told()) == {"full"}


def fill(sender: socket.socket, address: str) -> None:
    while True:
        sender.sendto(b"full", address)


def say_all(sender: Notify) -> None:
    sender.ready()
    sender.status({"phase": "booting", "stages": STAGES})
    sender.feed()
    sender.stopping(1.0)
