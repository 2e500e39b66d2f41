"""What is measured, each as rows of the table."""

import contextlib
import json
import re
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import sides
from releases import Release
from report import Row
from sides import AGENT, Boot
from world import World

PYTHON = "/usr/bin/python3"  # the one that the packages' agent runs by
# Small, as a process that Linux forks starts with its parent's peak for its own.
PROBE = """
import os, resource, sys, time
began = time.perf_counter()
code = os.spawnvp(os.P_WAIT, sys.argv[1], sys.argv[1:])
seconds = time.perf_counter() - began
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, code, file=sys.stderr)
"""


@dataclass(frozen=True)
class Pair:
    """Two boots of the same release, one right after the other."""

    agent: Boot
    floor: Boot


def cold(
    world: World, release: Release, runs: int, *, config: bool, agent: Callable[[World], Boot] = sides.agent
) -> list[Pair]:
    """Boots of both sides in turn, each with nothing of the former left; a first pair is not counted.

    *agent* is what boots in the agent's place.
    """
    world.offer(release, config=config)
    pairs = []
    both = {"agent": lambda: agent(world), "floor": lambda: sides.floor(world, config=config)}
    for number in range(runs + 1):  # the first one warms the machine's own caches
        booted = {}
        for side in ("agent", "floor") if number % 2 else ("floor", "agent"):  # what one leaves behind meets both
            world.clear()
            booted[side] = both[side]()
        pairs.append(Pair(**booted))
    return pairs[1:]


def cold_row(what: str, budget: float | None, pairs: list[Pair]) -> Row:
    """The ratio of both sides' times, pair by pair."""
    ratios = [pair.agent.seconds / pair.floor.seconds for pair in pairs]
    agent = statistics.median(pair.agent.seconds for pair in pairs)
    floor = statistics.median(pair.floor.seconds for pair in pairs)
    figure = f"{spread(ratios)}: {agent:.2f} s to {floor:.2f} s"
    if budget is None:
        return Row(what, "", figure, None, tuple(ratios))
    return Row(what, f"≤ {budget} x floor", figure, statistics.median(ratios) <= budget, tuple(ratios))


def spread(values: Iterable[float], unit: str = " x") -> str:
    """The median with least and greatest."""
    ordered = sorted(values)
    middle = statistics.median(ordered)
    return f"{middle:.2f}{unit} ({ordered[0]:.2f} to {ordered[-1]:.2f}, n = {len(ordered)})"


def restart(world: World, release: Release, runs: int, own_start: float) -> Row:
    """The instance restarts: its container has stopped, its image is there, config is read anew.

    A boot id can't be changed, so the one that the agent recorded is.
    """
    world.offer(release, config=True)
    world.clear()
    sides.agent(world)
    seconds = []
    for _ in range(runs):
        world.engine.api.kill(world.containers[1])
        world.engine.api.wait(world.containers[1])
        path = world.root / "var/lib/adf-agent/state.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"boot_id": "another"}))
        boot = sides.agent(world)
        if not boot.steps["image"].fact.startswith("reused"):
            raise SystemExit(f"bench: after a restart the image was {boot.steps['image'].fact}")
        seconds.append(boot.seconds)
    budget = 1.0 + own_start
    return Row(
        "restart, image built",
        f"≤ 1.0 s + the app's own start, {own_start:.2f} s",
        spread(seconds, " s"),
        statistics.median(seconds) <= budget,
        tuple(seconds),
    )


def memory(world: World, release: Release) -> Row:
    """The greatest resident size of the agent's process (VmHWM of proc(5)) over a cold boot; its children's apart."""
    world.offer(release, config=True)
    world.clear()
    own, others = 0, Counter[str]()

    def watch(pid: int) -> None:
        nonlocal own
        own = max(own, peak(pid)[1])
        for name, size in map(peak, _descendants(pid)):
            others[name] = max(others[name], size)

    boot = sides.agent(world, watch)
    del others[AGENT.name]  # a child between fork and exec
    apart = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in others.most_common(2) if size)
    figure = f"{own / 1e6:.0f} MB, n = 1 (its children apart: {apart or 'none'}; booted in {boot.seconds:.0f} s)"
    what = f"agent's peak memory, {release.size / 1e9:.1f} GB release"
    return Row(what, "≤ 100 MB", figure, 0 < own <= 100e6, (own,))


def peak(pid: int) -> tuple[str, int]:
    """A process's name and greatest resident size so far in bytes, 0 for one that has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "", 0
    name, size = re.search(r"^Name:\t(.*)$", text, re.MULTILINE), re.search(r"VmHWM:\s+(\d+) kB", text)
    return (name[1] if name else ""), int(size[1]) << 10 if size else 0


def processor(pid: int) -> float:
    """The processor seconds of a process so far."""
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) has it, which Python does not


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            for child in map(int, path.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def status(world: World, runs: int) -> Row:
    """`adf-agent status` of a booted instance, as a ratio to the interpreter's own start."""
    ratios, seconds = [], []
    for _ in range(runs):
        bare = _timed(world, [PYTHON, "-c", "pass"])
        seconds.append(_timed(world, [AGENT, "status"]))
        ratios.append(seconds[-1] / bare)
    figure = f"{spread(ratios)}: {statistics.median(seconds) * 1000:.0f} ms"
    return Row("adf-agent status", "≤ 2.5 x python3 -c pass", figure, statistics.median(ratios) <= 2.5, tuple(ratios))


def _timed(world: World, command: list[str | Path]) -> float:
    environment = world.environment()
    started = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, timeout=30, check=True)
    return time.perf_counter() - started


def process(world: World, command: list[str | Path], codes: tuple[int, ...] = (0,)) -> tuple[float, int]:
    """Seconds and peak resident bytes of a whole process that ends with one of *codes*. It has an operator's keys."""
    environment = world.environment() | world.keys
    probe = subprocess.run(
        [PYTHON, "-IS", "-c", PROBE, *command],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=300, check=True,
    )  # fmt: skip
    seconds, size, code = probe.stderr.splitlines()[-1].split()
    if int(code) not in codes:
        raise SystemExit(f"bench: {command} ended with {code}:\n{probe.stderr}")
    return float(seconds), int(size) << 10
