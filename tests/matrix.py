"""The fault matrix as data: which cells there are, why others are none, and how each must end."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from adf_agent import background, undo, works
from adf_agent.errors import EXIT_CODES, TRY_AGAIN
from adf_agent.errors import Stage as ErrorStage

Stage = Literal[
    "settings", "docker", "release", "config", "image", "container", "health", "report", "in service", "drain"
]
Fault = Literal[
    "SIGKILL", "SIGTERM", "silent", "5xx", "throttled", "denied", "wrong answer", "cut", "disk full", "memory",
    "Docker hung", "Docker killed", "Docker restarted", "clock jump",
]  # fmt: skip
End = Literal["in service", "failed", "stopped", "drained", "killed"]

STAGES: tuple[Stage, ...] = (
    "settings", "docker", "release", "config", "image", "container", "health", "report", "in service", "drain"
)  # fmt: skip
FAULTS: tuple[Fault, ...] = (
    "SIGKILL", "SIGTERM", "silent", "5xx", "throttled", "denied", "wrong answer", "cut", "disk full", "memory",
    "Docker hung", "Docker killed", "Docker restarted", "clock jump",
)  # fmt: skip
ANSWERS: tuple[Fault, ...] = ("silent", "5xx", "throttled", "denied", "wrong answer")
ENGINE: tuple[Fault, ...] = ("Docker hung", "Docker killed", "Docker restarted")

# What a stage asks, and what is made to answer so.
DEPENDENCIES: dict[Stage, str] = {
    "settings": "IMDS",
    "docker": "Docker",
    "release": "web server",
    "config": "DynamoDB",
    "image": "registry",
    "container": "Docker",
    "health": "app",
    "report": "load balancers",
    "in service": "IMDS",
    "drain": "AWS",
}
BOOT_SECONDS = 12.0  # ADF_BOOT_TIMEOUT where what fails does so for good: a sound boot takes a fifth of it
SOUND_SECONDS = 60.0  # where it passes
SPOT_SECONDS = 20.0  # what a notice leaves to a drain whose dependencies are gone
# A boot's end is told, and all is undone, within this after its deadline; the last are for a busy machine.
AFTER_SECONDS = background.CLEAR_SECONDS + undo.UNDO_SECONDS + works.GIVE_UP_SECONDS + works.CLOSE_SECONDS + 15.0
TENTHS = range(10)


@dataclass(frozen=True)
class Expected:
    """The *end*; where it has failed by one of these exit codes, for one of these causes, the group told or not."""

    end: End
    codes: frozenset[int] = field(default_factory=frozenset)
    causes: frozenset[str] = field(default_factory=frozenset)
    told: bool = True


@dataclass(frozen=True)
class Cell:
    stage: Stage
    fault: Fault
    tenth: int = 0  # of a download, after which it is cut

    def __str__(self) -> str:
        return f"{self.stage}-{self.fault}{f'-{self.tenth}' if self.fault == 'cut' else ''}".replace(" ", "_")

    @property
    def lasts(self) -> bool:
        """Whether the fault is there until the agent has ended."""
        if self.fault == "throttled":
            return self.stage == "health"
        return self.fault not in ("SIGKILL", "SIGTERM", "cut", "Docker restarted")

    @property
    def boot_seconds(self) -> float:
        return BOOT_SECONDS if self.lasts and self.stage not in ("in service", "drain") else SOUND_SECONDS

    @property
    def budget(self) -> float:
        """Seconds from the fault to the end."""
        return self.boot_seconds + AFTER_SECONDS


def reason(stage: Stage, fault: Fault) -> str:
    """Why there is no such cell, "" where there is one."""
    if fault == "cut" and stage not in ("release", "image"):
        return "downloads nothing"
    if fault == "memory" and stage not in ("image", "health", "in service", "drain"):
        return "neither builds nor runs"
    if fault in ENGINE and stage == "settings":
        return "needs no Docker"
    if fault in ENGINE and stage in ("release", "config"):
        return "see image"
    return ""


def cells() -> Iterator[Cell]:
    """All of them, a stage after the other."""
    for stage in STAGES:
        for fault in FAULTS:
            if not reason(stage, fault):
                yield from (Cell(stage, fault, tenth) for tenth in (TENTHS if fault == "cut" else (0,)))


# Each stage and each fault at least once, none for long.
SAMPLE = (
    Cell("settings", "throttled"),
    Cell("docker", "wrong answer"),
    Cell("docker", "Docker restarted"),
    Cell("release", "cut", 7),
    Cell("release", "disk full"),
    Cell("config", "denied"),
    Cell("config", "clock jump"),
    Cell("image", "SIGKILL"),
    Cell("image", "memory"),
    Cell("container", "SIGTERM"),
    Cell("container", "5xx"),
    Cell("health", "silent"),
    Cell("health", "Docker killed"),
    Cell("report", "throttled"),
    Cell("in service", "Docker hung"),
    Cell("drain", "throttled"),
)


def expected(cell: Cell) -> Expected:
    """How the cell must end: in service again where the fault passes, else with the exit code of its stage."""
    if cell.fault == "SIGKILL":
        return Expected("killed")
    if cell.fault == "SIGTERM":
        return Expected("stopped")
    if cell.stage == "in service":
        return Expected("in service")
    if cell.stage == "drain":
        return Expected("drained")
    key = cell.stage, cell.fault
    if key not in FAILED and not cell.lasts:
        return Expected("in service")
    codes, causes = FAILED.get(key) or _failed(cell)
    told = key not in UNTOLD and cell.fault != "clock jump"
    return Expected("failed", frozenset(codes), frozenset(causes), told=told)


# Where nobody can be told that the instance is to be replaced: who it is, only IMDS knows.
UNTOLD: frozenset[tuple[Stage, Fault]] = frozenset(("settings", fault) for fault in ANSWERS)
WRITERS: tuple[ErrorStage, ...] = ("agent", "release", "image")  # into the state folder: the others go on
FAILED: dict[tuple[Stage, Fault], tuple[set[int], set[str]]] = {
    ("docker", "denied"): ({11}, {"host"}),  # it was reached: nothing to wait for
    ("docker", "wrong answer"): ({11}, {"host"}),
    ("container", "5xx"): ({15}, {"host"}),  # as an engine says what went wrong
    # Without live-restore, which the AMI has, Docker takes its containers with it: it can't be told from the app's end.
    ("health", "Docker restarted"): ({16}, {"app"}),
    ("report", "Docker restarted"): ({16}, {"app"}),
}


def _failed(cell: Cell) -> tuple[set[int], set[str]]:
    """Exit codes and causes of a boot that the cell's fault has ended."""
    own = EXIT_CODES[cell.stage]  # type: ignore[index]  # stages of the boot alone come here
    if cell.fault == "disk full":
        return {own, *(EXIT_CODES[stage] for stage in WRITERS)}, {"host"}
    if cell.fault == "memory":
        return {own}, {"host", "app"}
    if cell.fault == "clock jump":
        return {EXIT_CODES["config"], EXIT_CODES["report"]}, {"host"}
    if cell.fault in ENGINE:
        return {TRY_AGAIN}, {"host", "dependency"}
    if cell.fault in ("silent", "5xx"):
        return {own if cell.stage == "health" else TRY_AGAIN}, {"dependency", "host", "app"}
    return {own, TRY_AGAIN}, {"dependency", "host", "app", "release", "config", "settings"}
