"""Speed and memory, as ratios in one run to a shell pipeline that boots with no agent.

Removes the build cache of the Docker engine that it uses, again and again.
"""

import argparse
import json
import os
import signal
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import bases
import beneath
import growth
import measures
import operators
import releases
import report
import rolls
import service
from growth import Growth
from releases import MB
from report import Row
from rolls import Watched
from world import World, world

HEAVY = 333 * MB  # of ballast, of which gzip leaves 300
BULKY = 2000 * MB


def main() -> int:
    """Prints the table; 1 where a budget was missed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small release only, fewer runs, and no growth")
    parser.add_argument("--only", choices=["growth"], help="how cost grows, and nothing else")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into FILE, the plots beside it")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # else nothing would be cleaned up
    with world() as here:
        where = report.machine(here)
        print(
            f"{where}; load {os.getloadavg()[0]:.1f}\nThe engine's build cache is removed before each boot.", flush=True
        )
        found = _measure(here, quick=arguments.quick, only=arguments.only)
    _print(found)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": where, **_plain(found)}, indent=1))
    if arguments.write:
        _write(arguments.write, where, found)
    return any(row.met is False for row in found.rows)


@dataclass(frozen=True)
class Found:
    """All that was measured."""

    rows: list[Row]
    profiles: dict[str, list[tuple[str, ...]]]
    growths: list[Growth]


def _print(found: Found) -> None:
    if found.rows:
        print(report.text(report.HEADER, [row.cells for row in found.rows]))
    for title, steps in found.profiles.items():
        print(f"\n{title}\n{report.text(report.STEPS, steps)}")
    for each in found.growths:
        print(f"\n{each.title}\n{report.text(each.header, each.rows)}")


def _plain(found: Found) -> dict[str, Any]:
    """As JSON has it."""
    rows = [{"what": row.what, "budget": row.budget, "met": row.met, "values": row.values} for row in found.rows]
    growths = {each.name: {panel.unit: panel.lines for panel in each.panels} for each in found.growths}
    return {"rows": rows, "profiles": found.profiles, "growths": growths}


def _write(path: Path, where: str, found: Found) -> None:
    """Into the page what was measured, and nothing else of it."""
    if found.rows:
        report.write(path, "bench", report.page(where, found.rows, found.profiles))
    if found.growths:
        report.write(path, "growth", report.grown(where, found.growths))
    for each in found.growths:
        path.with_name(f"{each.name}.svg").write_text(each.svg)


def _measure(here: World, *, quick: bool, only: str | None) -> Found:
    watched = cache(partial(rolls.watched, here))  # by the table and by the growth
    growths = [] if quick else [*_growths(here, watched)]  # first, as the instance is a group's in the end
    rows, profiles = ([], {}) if only else _budgets(here, watched, quick=quick)
    return Found(rows, profiles, growths)


def _growths(here: World, watched: Callable[[int], Watched]) -> Iterator[Growth]:
    _say("how cost grows: with keys")
    yield growth.config(here)
    _say("… with members")
    yield growth.archive(here)
    _say("… with instances")
    yield growth.group(here, watched)


def _budgets(
    here: World, watched: Callable[[int], Watched], *, quick: bool
) -> tuple[list[Row], dict[str, list[tuple[str, ...]]]]:
    runs = 3 if quick else 9
    hello = releases.hello(here.served)
    _say("cold boots of hello, with config")
    with_config = measures.cold(here, hello, runs, config=True)
    _say("cold boots of hello, without config")
    without = measures.cold(here, hello, runs, config=False)
    rows = [
        measures.cold_row("cold boot, hello, with config", 1.0, with_config),
        measures.cold_row("cold boot, hello, without config", 1.3, without),
        beneath.row(here, "hello, without config", hello, runs, config=False),
    ]
    profiles = {"Where the time goes: cold boot of hello, with config": _profile(with_config)}
    if not quick:
        _say("cold boots of 300 MB")
        heavy = releases.heavy(here.served, HEAVY)
        pairs = measures.cold(here, heavy, 5, config=True)
        rows.append(measures.cold_row("cold boot, 300 MB", 0.9, pairs))
        rows.append(beneath.row(here, "300 MB", heavy, 5, config=True))
        profiles["Where the time goes: cold boot of 300 MB"] = _profile(pairs)
        _say("cold boots on a heavy base image")
        rows.append(bases.row(here))
    _say("restarts and status")
    own_start = statistics.median(pair.floor.steps["health"].seconds for pair in with_config)
    rows.append(measures.restart(here, hello, runs, own_start))
    if not quick:
        _say("one cold boot of 2 GB")
        rows.append(measures.memory(here, releases.bulky(here.served, BULKY)))
    rows.append(measures.status(here, 20 if quick else 40))
    _say("the daemon in service")
    rows += service.rows(here, hello, runs, own_start)
    _say("the operators' commands")
    rows += operators.rows(here, runs)
    _say("a roll over a thousand instances")
    rows += rolls.rows(*map(watched, (rolls.SMALL, rolls.LARGE)))
    return rows, profiles


def _profile(pairs: list[measures.Pair]) -> list[tuple[str, ...]]:
    return report.profile([pair.agent for pair in pairs], [pair.floor for pair in pairs])


def _say(what: str) -> None:
    print(f"  {what} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
