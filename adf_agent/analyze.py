"""`adf-agent analyze`: where a boot's time went, what it waited for, and how it compares with the last ones."""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adf_agent import history, status, timeline, waterfall
from adf_agent.errors import AgentError
from adf_agent.root import Root, boot_id, started
from adf_agent.screen import ODD, printable, start_command
from adf_agent.timeline import Boot, Stage

BARS = 40  # characters for the whole of a boot


@dataclass(frozen=True)
class Analysis:
    """*boot* beside the *former* ones, newest first; *usual* are each stage's median seconds in those *like* it."""

    boot: Boot
    former: Sequence[Boot]
    like: int
    usual: Mapping[str, float]

    @classmethod
    def of(cls, boot: Boot, former: Sequence[Boot]) -> "Analysis":
        """*former* are the oldest first."""
        like = timeline.like(boot, former)
        return cls(boot, former[::-1], len(like), timeline.usual(like))


def answer(arguments: argparse.Namespace, root: Root) -> str:
    """What to print of the last boot; it is drawn where that is asked for. Raises AgentError where there is none."""
    found = look(root, time.time(), boot_id(), started)
    if found is None:
        raise AgentError("no boot is known here", hint=start_command())
    if arguments.svg:
        drawn = waterfall.draw(found.boot, found.usual, found.like)
        if arguments.svg == "-":
            return drawn.rstrip()
        _write(Path(arguments.svg), drawn)
    return json.dumps(shown(found), indent=1) if arguments.json else "\n".join(lines(found))


def look(root: Root, now: float, boot_id: str, started: Callable[[int], int]) -> Analysis | None:
    """The boot that is under way, else the last one, beside those before it; None where none is known."""
    record: Mapping[str, Any] = {}
    with suppress(OSError, ValueError):
        record = status.read(str(root.status)) or {}
    alive = status.alive(record, boot_id, started)
    kept = [boot for boot in history.load(root) if _parsed(boot, now, alive=False)]
    ours = [number for number, boot in enumerate(kept) if boot.get("agent") == record.get("agent")]
    if record.get("phase") == "booting" or not ours:  # under way; or it could not be kept
        boot = _parsed(record, now, alive=alive)
        if boot and boot.stages:
            return Analysis.of(boot, _all(kept))
    at = ours[-1] if ours else len(kept) - 1
    last = _parsed(kept[at], now, alive=False) if kept else None
    return Analysis.of(last, _all(kept[:at])) if last else None


def _all(kept: Sequence[Mapping[str, Any]]) -> list[Boot]:
    return [boot for boot in (_parsed(each, 0.0, alive=False) for each in kept) if boot]


def _parsed(parts: Mapping[str, Any], now: float, *, alive: bool) -> Boot | None:
    with suppress(*ODD):
        return Boot.of(printable(parts), now, alive=alive)
    return None


def shown(found: Analysis) -> dict[str, Any]:
    """For programs."""
    boot, chain = found.boot, [stage.name for stage in found.boot.critical()]
    stages = [
        {**asdict(stage), "critical": stage.name in chain, "usual": found.usual.get(stage.name)} for stage in boot.all
    ]
    return {
        **asdict(boot),
        "stages": stages,
        "blame": [stage.name for stage in boot.blame()],
        "critical": chain,
        "overlaps": [{"stages": [a.name, b.name], "seconds": seconds} for a, b, seconds in boot.overlaps()],
        "like": found.like,
        "former": [asdict(each) for each in found.former],
    }


def lines(found: Analysis) -> Iterator[str]:
    """For a person."""
    boot = found.boot
    yield f"{boot.instance} {boot.release}: {boot.phase}, {boot.seconds:.2f} s from the start at {_time(boot.began)}"
    if boot.error:
        yield f"  {boot.error}"
    yield f"\n  {'':<12}{'at':>8}{'took':>10}{'usual' if found.like else '':>10}"
    chain = {stage.name for stage in boot.critical()}
    yield from (_row(stage, stage.name in chain, found) for stage in boot.all)
    yield "  * on the critical path: the boot is as long as these"
    yield "\nslowest first"
    for stage in boot.blame():
        yield f"  {stage.seconds:8.2f} s  {stage.name:<10}  {stage.fact}".rstrip()
    if overlaps := boot.overlaps():
        yield "\nat once"
        yield from (f"  {seconds:8.2f} s  {a.name} and {b.name}" for a, b, seconds in overlaps)
    if again := [(stage.name, stage.retries) for stage in boot.stages if stage.retries]:
        yield "\ntried again"
        yield from (
            f"  {each.seconds:8.2f} s  {name}: waited after {each.number} tries: {each.reason}" for name, each in again
        )
    if found.former:
        yield f"\nformer boots ({found.like} of them count as usual)"
        yield from (_former(each) for each in found.former)


def _row(stage: Stage, critical: bool, found: Analysis) -> str:  # noqa: FBT001
    length = max(each.end for each in found.boot.all) or 1.0
    before, bar = (round(seconds / length * BARS) for seconds in (stage.at, stage.seconds))
    usual = f"{found.usual[stage.name]:10.2f}" if stage.name in found.usual else " " * 10
    state = "" if stage.state == "done" else f" {stage.state}"
    text = f"{'*' if critical else ' '} {stage.name:<12}{stage.at:8.2f}{stage.seconds:10.2f}{usual}"
    return f"{text}  {' ' * before}{'█' * max(1, bar)}{state}"


def _former(boot: Boot) -> str:
    slowest = boot.blame()[0]
    text = f"  {_time(boot.began)} {boot.seconds:8.2f} s  {boot.phase:<10}  {boot.release}"
    return f"{text}  slowest: {slowest.name} {slowest.seconds:.2f} s"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"


def _write(path: Path, drawn: str) -> None:
    try:
        path.write_text(drawn, encoding="utf-8")
    except OSError as error:
        raise AgentError(
            f"{path} can't be written: {error.strerror}", hint="Name another FILE.", cause="host"
        ) from error
