"""The faults of the matrix, each as what begins it and what ends it."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fault_world import HOUR, World
from gate import Gate
from matrix import ANSWERS, Cell
from test_broken import clock

STATE_MEGABYTES = 20


@contextmanager
def disk(world: World) -> Iterator[None]:
    """A state folder with a disk of its own, to be filled."""
    folder = world.machine.root / "var/lib/adf-agent"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={STATE_MEGABYTES}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def environment(world: World, cell: Cell) -> dict[str, str]:
    """What an agent is started with whose clock jumps later."""
    if cell.fault != "clock jump":
        return {}
    told = {name: text for name, text in clock(HOUR).items() if name != "FAKETIME"}
    file = world.machine.root / "faketime"
    file.write_text("+0\n")
    return {**told, "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}


@contextmanager
def injected(world: World, cell: Cell, gate: Gate) -> Iterator[None]:
    """The fault is there from the beginning on; afterwards all is well again. The gate is opened by who calls."""
    begin, end = _FAULTS.get(cell.fault, (_nothing, _nothing))
    if cell.fault in ANSWERS:
        dependency = world.dependency(cell)
        dependency.fail(cell.fault)
        try:
            yield
        finally:
            dependency.mend()
        return
    begin(world, cell, gate)
    try:
        yield
    finally:
        end(world, cell, gate)


def _nothing(*_: object) -> None: ...


def _kill(_: World, __: Cell, gate: Gate) -> None:
    gate.agent.kill()


def _terminate(_: World, __: Cell, gate: Gate) -> None:
    gate.agent.process.send_signal(signal.SIGTERM)


def _hang(world: World, *_: object) -> None:
    world.engine.send(signal.SIGSTOP)


def _go_on(world: World, *_: object) -> None:
    world.engine.send(signal.SIGCONT)


def _kill_docker(world: World, *_: object) -> None:
    world.engine.stop(signal.SIGKILL)


def _start_docker(world: World, *_: object) -> None:
    world.engine.start()
    world.machine.engine = world.engine.client


def _restart_docker(world: World, _: Cell, gate: Gate) -> None:
    world.engine.stop()
    gate.open()  # so that it is asked while it is away
    _start_docker(world)


def _filler(world: World, cell: Cell) -> Path:
    on_engine = cell.stage == "image"
    return world.engine.data / "filler" if on_engine else world.machine.root / "var/lib/adf-agent/filler"


def _fill(world: World, cell: Cell, _: Gate) -> None:
    path = _filler(world, cell)
    facts = os.statvfs(path.parent)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, facts.f_bavail * facts.f_frsize)


def _empty(world: World, cell: Cell, _: Gate) -> None:
    _filler(world, cell).unlink()


def _jump(world: World, *_: object) -> None:
    told = world.machine.root / "faketime.new"
    told.write_text(f"+{HOUR.total_seconds():.0f}\n")
    told.replace(world.machine.root / "faketime")  # whole, as it is read all the time


_Step = Callable[[World, Cell, Gate], None]
_FAULTS: dict[str, tuple[_Step, _Step]] = {
    "SIGKILL": (_kill, _nothing),
    "SIGTERM": (_terminate, _nothing),
    "disk full": (_fill, _empty),
    "Docker hung": (_hang, _go_on),
    "Docker killed": (_kill_docker, _start_docker),
    "Docker restarted": (_restart_docker, _nothing),
    "clock jump": (_jump, _nothing),
}
