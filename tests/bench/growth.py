"""How cost grows with an app: with its config's keys, its release's members, its group's instances."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import measures
import operators
import releases
import rolls
import sides
from plot import Panel, draw
from rolls import Watched
from world import World

KEYS = (1, 10, 100, 1_000, 10_000)
MEMBERS = (10, 100, 1_000, 10_000, 100_000)
INSTANCES = (1, rolls.SMALL, 100, rolls.LARGE)
RUNS = 3
PACKAGES = sides.AGENT.parents[1] / "lib/adf-agent"
STAGE = Path(__file__).with_name("stage.py")
Figures = dict[str, dict[str, float]]  # by panel and line


@dataclass(frozen=True)
class Growth:
    """What grows along *axis*, as a plot and as a table; *name* is that of its file."""

    name: str
    title: str
    axis: str
    panels: tuple[Panel, ...]

    @classmethod
    def measured(
        cls, name: str, title: str, axis: str, sizes: Iterable[int], measure: Callable[[int], Figures]
    ) -> "Growth":
        """By what *measure* finds at each of *sizes*."""
        found = {size: measure(size) for size in sizes}
        first = next(iter(found.values()))
        panels = (
            Panel(unit, {label: {size: found[size][unit][label] for size in found} for label in lines})
            for unit, lines in first.items()
        )
        return cls(name, title, axis, tuple(panels))

    @property
    def svg(self) -> str:
        return draw(self.title, self.axis, self.panels)

    @property
    def header(self) -> tuple[str, ...]:
        return self.axis, *(f"{label}, {panel.unit}" for panel in self.panels for label in panel.lines)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        lines = [line for panel in self.panels for line in panel.lines.values()]
        return [(f"{size:,}", *(_rounded(line[size]) for line in lines)) for size in lines[0]]


def _rounded(value: float) -> str:
    """To two digits, and whole where it has more."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def config(world: World) -> Growth:
    """`adf-agent config`: the stage in a process of its own, as a container's environment holds far less than these."""
    world.offer(releases.hello(world.served), config=True)

    def measure(keys: int) -> Figures:
        app = f"bench-keys-{keys}"
        operators.fill(world, app, keys)
        world.offer(world.offered[-1], config=True, ADF_APP=app)
        agent = _median(lambda: measures.process(world, [sides.AGENT, "config"]))
        bare = _median(lambda: measures.process(world, [sys.executable, "-c", operators.BARE, app]))
        names = "adf-agent config", "a bare boto3 Query"
        return {
            "seconds": dict(zip(names, (agent[0], bare[0]), strict=True)),
            "peak memory, MB": dict(zip(names, (agent[1] / 1e6, bare[1] / 1e6), strict=True)),
        }

    return Growth.measured("growth-config", "What config costs by its keys", "keys", KEYS, measure)


def archive(world: World) -> Growth:
    """The release stage, alone and in a boot; each file is small, so that their number is what counts."""

    def measure(members: int) -> Figures:
        release = releases.crowded(world.served, members)
        world.offer(release, config=False)
        check, context, alone = _median(lambda: _stage(world, release))
        boot, floor, peak = _median(lambda: _boots(world), RUNS if members < MEMBERS[-1] else 1)
        (world.served / release.file).unlink()
        return {
            "seconds": {
                "download and check": check,
                "stream as a build context": context,
                "cold boot": boot,
                "cold boot, pipeline": floor,
            },
            "peak memory, MB": {"release stage alone": alone * 1024 / 1e6, "cold boot": peak / 1e6},
        }

    return Growth.measured("growth-archive", "What a release costs by its members", "members", MEMBERS, measure)


def group(world: World, watched: Callable[[int], Watched]) -> Growth:
    """`adf-roll plan` and `watch`, of a group whose instances and records are simulated."""

    def measure(instances: int) -> Figures:
        plan = statistics.median_low(rolls.planned(world, instances) for _ in range(RUNS))
        watch = watched(instances)
        return {
            "seconds": {"plan": plan.seconds, "watch, of processor in a minute": watch.busy},
            "AWS API calls": {"plan": plan.calls, "watch, a minute": watch.calls},
            "peak memory, MB": {"plan": plan.memory, "watch": watch.memory},
        }

    return Growth.measured("growth-group", "What a roll costs by its group", "instances", INSTANCES, measure)


def _median(measure: Callable[[], tuple[float, ...]], runs: int = RUNS) -> tuple[float, ...]:
    """Of each figure by itself."""
    return tuple(map(statistics.median, zip(*(measure() for _ in range(runs)), strict=True)))


def _stage(world: World, release: releases.Release) -> tuple[float, ...]:
    """Seconds of the check and of the context, and the peak in kB."""
    url = f"{world.files}/{release.file}#sha256={release.digest}"
    command = (measures.PYTHON, "-BIS", STAGE, PACKAGES, url, world.folder)
    environment = world.environment() | sides.HEAPS
    output = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True).stdout
    return tuple(map(float, output.split()))


def _boots(world: World) -> tuple[float, ...]:
    """Seconds of a cold boot by either side, and the agent's own peak in bytes."""
    peaks = [0]
    world.clear()
    floor = sides.floor(world, config=False)
    world.clear()
    agent = sides.agent(world, lambda pid: peaks.append(measures.peak(pid)[1]))
    return agent.seconds, floor.seconds, max(peaks)
