"""Speed and memory, as ratios in one run to a shell pipeline that boots with no agent.

Removes the build cache of the Docker engine that it uses, again and again.
"""

import argparse
import json
import os
import signal
import statistics
import sys
from pathlib import Path

import measures
import operators
import releases
import report
import rolls
import service
from releases import MB
from report import Row
from world import World, world

HEAVY = 333 * MB  # of ballast, of which gzip leaves 300
BULKY = 2000 * MB


def main() -> int:
    """Prints the table; 1 where a budget was missed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the small release only, and fewer runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into FILE, between its marks")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # else nothing would be cleaned up
    with world() as here:
        where = report.machine(here)
        print(
            f"{where}; load {os.getloadavg()[0]:.1f}\nThe engine's build cache is removed before each boot.", flush=True
        )
        rows, profiles = _measure(here, quick=arguments.quick)
    print(report.text(report.HEADER, [row.cells for row in rows]))
    for title, steps in profiles.items():
        print(f"\n{title}\n{report.text(report.STEPS, steps)}")
    if arguments.json:
        listed = [{"what": row.what, "budget": row.budget, "met": row.met, "values": row.values} for row in rows]
        arguments.json.write_text(json.dumps({"machine": where, "rows": listed, "profiles": profiles}, indent=1))
    if arguments.write:
        report.write(arguments.write, report.page(where, "make bench", rows, profiles))
    return any(row.met is False for row in rows)


def _measure(here: World, *, quick: bool) -> tuple[list[Row], dict[str, list[tuple[str, ...]]]]:
    runs = 3 if quick else 9
    hello = releases.hello(here.served)
    _say("cold boots of hello, with config")
    with_config = measures.cold(here, hello, runs, config=True)
    _say("cold boots of hello, without config")
    without = measures.cold(here, hello, runs, config=False)
    rows = [
        measures.cold_row("cold boot, hello, with config", 1.0, with_config),
        measures.cold_row("cold boot, hello, without config", 1.3, without),
    ]
    profiles = {"Where the time goes: cold boot of hello, with config": _profile(with_config)}
    if not quick:
        _say("cold boots of 300 MB")
        pairs = measures.cold(here, releases.heavy(here.served, HEAVY), 5, config=True)
        rows.append(measures.cold_row("cold boot, 300 MB", 0.9, pairs))
        profiles["Where the time goes: cold boot of 300 MB"] = _profile(pairs)
    _say("restarts and status")
    own_start = statistics.median(pair.floor.steps["health"].seconds for pair in with_config)
    rows.append(measures.restart(here, hello, runs, own_start))
    if not quick:
        _say("one cold boot of 2 GB")
        rows.append(measures.memory(here, releases.bulky(here.served, BULKY)))
    rows.append(measures.status(here, 20 if quick else 40))
    _say("the daemon in service")
    rows += service.rows(here, hello, runs)
    _say("the operators' commands")
    rows += operators.rows(here, runs)
    _say("a roll over a thousand instances")
    rows += rolls.rows(here)
    return rows, profiles


def _profile(pairs: list[measures.Pair]) -> list[tuple[str, ...]]:
    return report.profile([pair.agent for pair in pairs], [pair.floor for pair in pairs])


def _say(what: str) -> None:
    print(f"  {what} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
