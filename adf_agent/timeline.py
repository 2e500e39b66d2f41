"""A boot as it passed: its stages in time, what of them overlapped, and which ones its length hung on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

from adf_agent.status import SERVING

# What a stage waits for, as `boot` and `serving` have it; those that a boot did without are left out.
NEEDS: Mapping[str, Sequence[str]] = {
    "docker": ["settings"],
    "release": ["settings"],
    "config": ["settings"],
    "image": ["docker", "release"],
    "container": ["image", "config", "docker"],
    "health": ["container"],
    "report": ["health", "container", "image"],
}
STARTING = "start"  # the process, the interpreter and what it imports: what is before the first stage
MOST_SECONDS = 1e11  # since 1970: in the year 5138
OVERLAP_SECONDS = 0.01  # less is the time that it takes to go on


@dataclass(frozen=True)
class Retries:
    """Tries that failed, the seconds that were waited after them in all, and why the last one did."""

    number: int
    seconds: float
    reason: str


@dataclass(frozen=True)
class Stage:
    """*at* is in seconds since the process's start. One that was cut off with its agent took nobody knows how long."""

    name: str
    state: str
    at: float
    seconds: float
    fact: str = ""
    retries: Retries | None = None

    @property
    def end(self) -> float:
        return self.at + self.seconds


@dataclass(frozen=True)
class Boot:
    """*began* is in epoch seconds; *stages* are in the order in which they began."""

    instance: str
    release: str
    phase: str
    began: float
    seconds: float
    stages: tuple[Stage, ...]
    error: str = ""

    @classmethod
    def of(cls, parts: Mapping[str, Any], now: float, *, alive: bool) -> Self:
        """From *parts* of a record, or of the history, at *now* (epoch seconds). *alive*: its agent may go on with it.

        Raises TypeError, ValueError, AttributeError or KeyError where they are not as we write them.
        """
        stages = tuple(sorted(_stages(parts["stages"], now if alive else None), key=lambda stage: stage.at))
        first = min((entry["started"] - entry.get("at", 0.0) for entry in parts["stages"]), default=now)
        return cls(
            instance=str((parts.get("instance") or {}).get("id", "unknown instance")),
            release=str((parts.get("release") or {}).get("name", "")),
            phase=str(parts["phase"]),
            began=round(_number(parts.get("began", first)), 3),
            seconds=_number(parts.get("seconds", max((stage.end for stage in stages), default=0.0))),
            stages=stages,
            error=str((parts.get("error") or {}).get("sentence", "")),
        )

    @property
    def all(self) -> tuple[Stage, ...]:
        """The stages, and before them the process's own start."""
        before = self.stages[0].at if self.stages else 0.0
        return (Stage(STARTING, "done", 0.0, before), *self.stages)

    def blame(self) -> list[Stage]:
        """The slowest first."""
        return sorted(self.all, key=lambda stage: -stage.seconds)

    def critical(self) -> list[Stage]:
        """Those that the boot's length hangs on: of what each one waited for, the last that came."""
        if not self.stages:
            return [*self.all]
        path = [max(self.stages, key=lambda stage: stage.end)]
        while before := [stage for stage in self.stages if stage.name in NEEDS.get(path[0].name, ())]:
            path.insert(0, max(before, key=lambda stage: stage.end))
        return [self.all[0], *path]

    def overlaps(self) -> list[tuple[Stage, Stage, float]]:
        """Which stages ran at once, and for how many seconds."""
        pairs = ((a, b, min(a.end, b.end) - max(a.at, b.at)) for a, b in combinations(self.stages, 2))
        return [(a, b, round(seconds, 3)) for a, b, seconds in pairs if seconds >= OVERLAP_SECONDS]


def _stages(entries: Sequence[Mapping[str, Any]], now: float | None) -> Iterable[Stage]:
    first = min((entry["started"] for entry in entries), default=0.0)
    for entry in entries:
        running = entry["state"] == "running"
        until = max(0.0, now - entry["started"]) if running and now is not None else 0.0
        tries = entry.get("retries")
        yield Stage(
            name=str(entry["name"]),
            state="cut off" if running and now is None else str(entry["state"]),
            at=_number(entry.get("at", entry["started"] - first)),  # a former version's has none
            seconds=_number(entry.get("seconds", until)),
            fact=str(entry.get("fact", "")),
            retries=_retries(tries) if tries else None,
        )


def _retries(tries: Mapping[str, Any]) -> Retries:
    return Retries(int(_number(tries["number"])), _number(tries["seconds"]), str(tries["reason"]))


def _number(value: Any) -> float:
    """*value* as seconds that a calendar can show; JSON has numbers that none can. Raises ValueError."""
    if not abs(number := float(value)) < MOST_SECONDS:
        raise ValueError("seconds that no clock shows")
    return number


def like(boot: Boot, former: Iterable[Boot]) -> list[Boot]:
    """Those of *former* that *boot* may be measured by: they went well, by the same stages, with an image as new."""
    return [each for each in former if each.phase in SERVING and _agree(_kind(each), _kind(boot), boot)]


def _kind(boot: Boot) -> dict[str, str]:
    """The stages that it has behind it; of `image` how: built, pulled or reused, the first word of its fact."""
    done = [stage for stage in boot.stages if stage.state == "done"]
    return {stage.name: stage.fact.partition(" ")[0] if stage.name == "image" else "" for stage in done}


def _agree(former: Mapping[str, str], now: Mapping[str, str], boot: Boot) -> bool:
    """Whether the kinds are the same, so far as *boot* has come."""
    return former == now if boot.phase in SERVING else now.items() <= former.items()


def usual(boots: Sequence[Boot]) -> dict[str, float]:
    """The median seconds of each stage, and of the start."""
    took: dict[str, list[float]] = {}
    for stage in (stage for boot in boots for stage in boot.all):
        took.setdefault(stage.name, []).append(stage.seconds)
    return {name: _median(sorted(seconds)) for name, seconds in took.items()}


def _median(numbers: Sequence[float]) -> float:
    """Of sorted numbers; `statistics` takes longer to import than all of this."""
    middle = len(numbers) // 2
    return round((numbers[middle] + numbers[-1 - middle]) / 2, 3)
