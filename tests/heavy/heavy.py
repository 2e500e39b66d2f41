"""As many requests as this machine sustains through a roll, and a herd of agents against an AWS that throttles."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import docker
import herd
import report
import surge
from herd import Run
from surge import Surge
from throttle import buckets
from wrk import Figures

from adf_agent.engine import find_buildkit

BEGIN, END = "<!-- load: written by `make load`, not by hand -->", "<!-- load ends -->"
# Agents, their share of what AWS lets an account do, and how long their hook waits.
STRAINED = (200, 0.1, 300)  # as a thousand with half of the limits: more than can be called in the hook's time
DRAWN = (1000, 1.0, 300)
HERDS = ((10, 1.0, 300), (100, 1.0, 300), DRAWN, STRAINED, (200, 0.1, 600))
STEP = 10  # seconds, of the curve
SURGES = ("connections", "adf-roll", "", "requests", "failed", "requests a second", "p50", "p99", "longest")
TIMES = ("in service: 50 %", "90 %", "99 %", "100 %")
RUNS = (
    "agents",
    "of AWS's limits",
    "hook waits",
    *TIMES,
    "lost",
    "calls",
    "refused",
    "calls of an agent: mean",
    "most",
)
Rows = list[tuple[str, ...]]


def main() -> int:
    """Prints what it finds; 1 where a request was lost, a roll failed or an instance was lost."""
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put it into FILE, between its marks")
    arguments = parser.parse_args()
    began, where = time.monotonic(), _machine()
    _say(where)
    rolled = list(surge.surges())
    runs = {key: _herd(*key) for key in HERDS}
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d}, `make load`, in {time.monotonic() - began:.0f} s, on {where}.",
        "### A roll under load",
        report.markdown(SURGES, _surge_rows(rolled)),
        "### A herd of agents",
        report.markdown(RUNS, [_run_row(*key[1:], made) for key, made in runs.items()]),
        *_curves(runs[DRAWN]),
    ]
    print("\n\n".join(parts))
    if arguments.write:
        _write(arguments.write, "\n\n".join(parts))
    lost = [each for each in rolled if each.code or each.before.failed or each.during.failed]
    return bool(lost) or any(made.failed for key, made in runs.items() if key != STRAINED)


def _herd(size: int, share: float, hook: int) -> Run:
    _say(f"{size} agents, {share:g} of AWS's limits")
    with TemporaryDirectory(prefix="adf-herd-") as folder:
        return herd.run(size, buckets(share), Path(folder), hook)


def _machine() -> str:
    command = find_buildkit(os.environ.get("PATH", os.defpath))
    world = SimpleNamespace(engine=docker.from_env(), docker=command)
    found = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split()
    return f"{report.machine(cast('Any', world))}, wrk {found[1]}, load {os.getloadavg()[0]:.1f} before"


def _surge_rows(rolled: Sequence[Surge]) -> Rows:
    rows = []
    for each in rolled:
        kept = "kept alive" if each.users.alive else "a new one for each request"
        ended = f"{each.code}, after {each.roll:.0f} s"
        rows += [
            (f"{each.users.connections}, {kept}", "", "before", *_cells(each.before)),
            ("", ended, "during the roll", *_cells(each.during)),
        ]
    return rows


def _cells(found: Figures) -> tuple[str, ...]:
    latencies = (f"{1000 * seconds:.1f} ms" for seconds in (found.p50, found.p99, found.longest))
    return f"{found.requests:,}", f"{found.failed}", f"{found.rate:,.0f}", *latencies


def _run_row(share: float, hook: int, made: Run) -> tuple[str, ...]:
    each = made.each()
    shares = (f"{made.share_in_service(share):.0f} s" for share in (0.5, 0.9, 0.99, 1))
    counted = f"{len(made.calls):,}", f"{made.throttled:.0%}", f"{sum(each) / made.size:.0f}", f"{each[-1]}"
    return f"{made.size:,}", f"{share:g}", f"{hook} s", *shares, f"{len(made.failed)}", *counted


def _curves(made: Run) -> list[str]:
    """Of one run, in steps: calls a second, with those that were refused; and how many are in service."""
    refused = [call for call in made.calls if call.throttled]
    offered = made.offered(STEP)
    ends = [STEP * number for number in range(1, len(offered) + 1)]
    served = [sum(at <= end for at in made.booted.values()) for end in ends]
    calls = [offered, herd.rate(refused, STEP, len(offered))]
    title = f"{made.size:,} agents"
    return [
        _chart(f"{title}: calls a second, and those refused", ends[-1], max(offered), calls),
        _chart(f"{title}: in service", ends[-1], made.size, [served]),
    ]


def _chart(title: str, last: float, most: float, lines: Sequence[Sequence[float]]) -> str:
    """Mermaid's, which the places that show Markdown draw."""
    drawn = "\n".join(f"  line [{', '.join(f'{value:.0f}' for value in line)}]" for line in lines)
    axes = f'  x-axis "seconds" {STEP} --> {last:.0f}\n  y-axis 0 --> {most:.0f}'
    return f'```mermaid\nxychart-beta\n  title "{title}"\n{axes}\n{drawn}\n```'


def _write(path: Path, content: str) -> None:
    """Replaces what is between the marks in the file at *path*."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"load: {path} has no {BEGIN} … {END}")
    path.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")


def _say(what: str) -> None:
    print(f"  {what} …", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
