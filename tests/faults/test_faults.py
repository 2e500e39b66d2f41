"""The fault matrix: a boot, what serves and a drain, broken at each step in each way, on a real engine.

Without FAULTS a sample that is always the same, `FAULTS=all` all of it, `FAULTS=image` the cells with that in them.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fault_injection
import pytest
from engine_front import EngineFront
from fault_injection import injected
from fault_world import World
from faulting import chosen
from fixtures_agent import Daemon, Machine
from fixtures_engine import OwnEngine, engine
from matrix import ANSWERS, FAULTS, SAMPLE, SOUND_SECONDS, SPOT_SECONDS, STAGES, Cell, Expected, cells, expected
from test_broken import timely
from web import Web

from adf_agent import leave
from adf_agent.errors import EXIT_CODES, TRY_AGAIN
from adf_agent.sandbox.balancer import Balancer
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import Front

ENGINE_BYTES = 2 << 30
IMDS_TARGET = "/latest/meta-data/autoscaling/target-lifecycle-state"
MEANING = {code: stage for stage, code in EXIT_CODES.items()} | {TRY_AGAIN: "again"}


@pytest.fixture(scope="module")
def faulty_engine() -> Iterator[OwnEngine]:
    with engine(f"adff{os.getpid() % 100000}", f"198.19.{os.getpid() % 250}.1/24", ENGINE_BYTES) as made:
        yield made


@pytest.fixture
def world(cloud: Cloud, web: Web, faulty_engine: OwnEngine, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        front = stack.enter_context(EngineFront(tmp_path / "docker.sock", faulty_engine.socket))
        balancer = stack.enter_context(Balancer(cloud, tmp_path / "haproxy"))
        environment = {**cloud.environment(), "DOCKER_HOST": front.host}
        machine = Machine(cloud, web, faulty_engine.client, tmp_path / "0", environment)
        made = World(machine, faulty_engine, front, balancer)
        stack.callback(made.clear)
        stack.callback(made.instance.close)
        stack.callback(lambda: [close() for close in machine.closing])
        yield made


@pytest.mark.parametrize("cell", chosen(), ids=str)
def test_what_is_broken_serves_again_or_says_why_it_does_not(
    world: World, cell: Cell, request: pytest.FixtureRequest
) -> None:
    """An instance that neither serves nor is replaced, or leaves behind what fills the next one's disk."""
    if cell.fault == "clock jump":
        front = Front._application  # noqa: SLF001
        request.getfixturevalue("monkeypatch").setattr(Front, "_application", timely(front))
    world.prepare(cell)
    with fault_injection.disk(world) if cell.fault == "disk full" else nullcontext():
        outcome, seconds = {"in service": in_service, "drain": drain}.get(cell.stage, boot)(world, cell)
    request.node.user_properties.append(("cell", (cell.stage, cell.fault, cell.tenth, outcome, seconds)))


def test_what_ci_tries_has_each_stage_and_each_fault() -> None:
    """A kind of fault that only ever breaks where nobody looks."""
    assert {*SAMPLE} < {*cells()}
    assert ({cell.stage for cell in SAMPLE}, {cell.fault for cell in SAMPLE}) == ({*STAGES}, {*FAULTS})


# In the boot


def boot(world: World, cell: Cell) -> tuple[str, float]:
    gate = world.start(f"stage.started|{cell.stage}", **fault_injection.environment(world, cell))
    gate.reach()
    began, expect = time.monotonic(), expected(cell)
    with injected(world, cell, gate):
        gate.open()
        outcome = boot_ended(world, cell, gate.agent, expect)
        seconds = time.monotonic() - began
        assert seconds < cell.budget, f"it took {seconds:.1f} s"
    if expect.end != "in service":
        recover(world)
    return outcome, seconds


def boot_ended(world: World, cell: Cell, agent: Daemon, expect: Expected) -> str:
    if expect.end == "in service":
        world.serves(agent)
        return "in service"
    code = agent.ended(cell.budget)
    if expect.end == "killed":
        assert code == -9, agent.log()
        return "in service"
    if expect.end == "stopped":
        assert (code, world.machine.status()["phase"], world.left(serving=False)) == (0, "stopped", []), agent.log()
        assert world.group.completed == [], "the boot goes on at the next start"
        return "stopped"
    failed(world, cell, agent, expect, code)
    return f"{code} {MEANING[code]}"


def failed(world: World, cell: Cell, agent: Daemon, expect: Expected, code: int) -> None:
    """It says why, and nothing is left of it."""
    status = world.machine.status()
    error = status["error"]
    found = (status["phase"], code in expect.codes, error["cause"] in expect.causes, error["exit_code"])
    assert found == ("failed", True, True, code), f"{code}: {error}\n{agent.log()}"
    assert error["sentence"], error
    assert error["hint"], error
    told = world.group.completed[:1] == [("adf-launch", "ABANDON")] or bool(world.group.unhealthy)
    assert told is expect.told, agent.log()
    if cell.fault not in ("Docker hung", "Docker killed"):
        assert world.left(serving=False) == [], agent.log()
    assert world.own.state in ("unused", "draining"), agent.log()


def recover(world: World) -> None:
    """One more plain start; of a new instance where this one was given up."""
    if ("adf-launch", "ABANDON") in world.group.completed or world.group.unhealthy:
        world.clear()
        world.launch()
    world.take(SOUND_SECONDS)
    agent = world.machine.daemon()
    world.serves(agent)


# In service


def in_service(world: World, cell: Cell) -> tuple[str, float]:
    gate = world.start(**fault_injection.environment(world, cell))
    world.serves(gate.agent)
    began, expect = time.monotonic(), expected(cell)
    [before] = world.machine.containers()
    with injected(world, cell, gate):
        if expect.end == "killed":
            world.serves(world.machine.daemon())
            assert [each.id for each in world.machine.containers()] == [before.id]
        elif expect.end == "stopped":
            assert gate.agent.ended() == 0
            assert world.left(serving=False) == []
            assert (world.own.state, world.attached.state) == ("unused", "unused")
            recover(world)
        else:
            felt(world, cell, gate.agent)
    if expect.end == "in service":
        gate.agent.until(lambda: not troubles(world), "it is mended", 60)
        world.serves(gate.agent)
        changed = cell.fault in ("Docker killed", "Docker restarted", "disk full", "memory")
        assert changed or [each.id for each in world.machine.containers()] == [before.id]
    seconds = time.monotonic() - began
    assert seconds < cell.budget, f"it took {seconds:.1f} s"
    return "in service", seconds


def troubles(world: World) -> list[str]:
    """What is wrong now: that the app has ended is told for a while yet."""
    return [each for each in world.machine.status()["degraded"] if not each.startswith("the app ")]


def felt(world: World, cell: Cell, agent: Daemon) -> None:
    """Returns when the fault has been met; the app is not taken out of service for it."""
    requests, before = world.machine.cloud.imds.requests, world.machine.cloud.imds.requests[IMDS_TARGET]
    if cell.fault in (*ANSWERS, "clock jump"):
        agent.until(lambda: requests[IMDS_TARGET] >= before + 3, "it has asked", 30)
        assert world.machine.status()["phase"] == "in service"
    elif cell.fault in ("Docker hung", "Docker killed"):
        agent.until(lambda: any("Docker" in each for each in world.machine.status()["degraded"]), "it is told", 60)
    else:
        [container] = world.machine.containers()
        if cell.fault == "memory":
            container.exec_run(["touch", "/eat"])
        elif cell.fault == "disk full":
            container.kill()
        agent.until(lambda: world.machine.status()["restarts"], "the app is started again")
        agent.reach("in service", 60)


# In the drain


def drain(world: World, cell: Cell) -> tuple[str, float]:
    """By a spot notice where what is asked stays away, and the time is what ends it; else by the group."""
    instance, by_notice = world.machine.cloud.imds.instance, hurries(cell)
    instance.life_cycle = "spot" if by_notice else "on-demand"
    gate = world.start("drain.started", **fault_injection.environment(world, cell))
    world.serves(gate.agent)
    if by_notice:
        ends = datetime.now(UTC) + timedelta(seconds=SPOT_SECONDS)
        instance.spot_action = {"action": "terminate", "time": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}
    else:
        world.group.terminate()
    gate.reach()
    began, expect = time.monotonic(), expected(cell)
    with injected(world, cell, gate):
        gate.open()
        agent = drained(world, cell, gate.agent, expect)
        seconds = time.monotonic() - began
        assert seconds < 2 * SPOT_SECONDS + leave.ASK_SECONDS, f"it took {seconds:.1f} s"
    instance.spot_action, instance.life_cycle = None, "on-demand"
    if agent.process.poll() is None:
        assert agent.end() == 0, agent.log()
    if not by_notice:
        world.clear()
        world.launch()
    recover(world)
    return "drained", seconds


def hurries(cell: Cell) -> bool:
    return cell.fault in ("silent", "5xx", "denied", "wrong answer", "Docker hung", "Docker killed")


def drained(world: World, cell: Cell, agent: Daemon, expect: Expected) -> Daemon:
    if expect.end == "killed":
        agent = world.machine.daemon()
    if expect.end == "stopped":
        assert agent.ended(cell.budget) == 0, agent.log()
    else:
        agent.reach("drained", cell.budget)
    asked = cell.fault == "clock jump" or (cell.fault in ANSWERS and cell.fault != "throttled")
    if asked:
        assert any(each.startswith("drain: ") for each in world.machine.status()["degraded"]), agent.log()
    else:
        agent_left = (world.own.state, world.attached.state)
        assert agent_left == ("unused", "unused"), agent.log()
    if not asked and not hurries(cell):
        world.group.wait_for("Terminated", 20)
        assert ("adf-terminate", "CONTINUE") in world.group.completed
    if cell.fault not in ("Docker hung", "Docker killed"):
        assert world.left(serving=False) == [], agent.log()
    return agent
