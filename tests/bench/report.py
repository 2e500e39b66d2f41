"""The table: for a terminal, for programs and for docs/performance.md."""

import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from growth import Growth
    from sides import Boot
    from world import World

BEGIN, END = "<!-- {}: written by `make bench`, not by hand -->", "<!-- {} ends -->"


@dataclass(frozen=True)
class Row:
    """A figure against its budget; *met* is None where there is none. *values* are what the figure was made from."""

    what: str
    budget: str
    figure: str
    met: bool | None
    values: tuple[float, ...]

    @property
    def verdict(self) -> str:
        return {True: "met", False: "missed", None: ""}[self.met]

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.what, self.budget, self.figure, self.verdict


HEADER = ("what", "budget", "figure", "verdict")
STEPS = ("step", "agent: begins at", "agent: takes", "floor: takes")


def machine(world: "World") -> str:
    """What was measured on, with no name of it."""
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    facts = world.engine.info()
    client = subprocess.run([world.docker, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    parts = (
        f"{os.cpu_count()} cores of {processor[1] if processor else platform.machine()}",
        f"{int(memory[1]) / 2**20:.0f} GiB of memory" if memory else "",
        f"Linux {platform.release().partition('-')[0]}",
        f"Docker engine {facts['ServerVersion']} ({facts['Driver']}) with client {client.split()[2].strip(',')}",
        f"Python {platform.python_version()}",
    )
    return ", ".join(filter(None, parts))


def profile(agent: Sequence["Boot"], floor: Sequence["Boot"]) -> list[tuple[str, ...]]:
    """Where the time goes: medians of each step, of both sides."""
    names = dict.fromkeys([*agent[0].steps, *floor[0].steps])
    first = statistics.median(min(step.began for step in boot.steps.values()) for boot in agent)
    rows: list[tuple[str, ...]] = [("interpreter and imports, before the first stage", "0.000 s", f"{first:.3f} s", "")]
    for name in sorted(names, key=lambda name: _median(agent, name, "began") or 0):
        taken = (_median(agent, name, "began"), _median(agent, name, "seconds"), _median(floor, name, "seconds"))
        rows.append((name, *("" if value is None else f"{value:.3f} s" for value in taken)))
    whole = (statistics.median(boot.seconds for boot in side) for side in (agent, floor))
    rows.append(("start to service", "", *(f"{value:.3f} s" for value in whole)))
    return rows


def _median(boots: Sequence["Boot"], name: str, field: str) -> float | None:
    values = [getattr(boot.steps[name], field) for boot in boots if name in boot.steps]
    return statistics.median(values) if values else None


def text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown's."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def page(where: str, rows: Sequence[Row], profiles: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """What `write` puts between the marks `bench`."""
    parts = [
        _dated(where),
        markdown(HEADER, [row.cells for row in rows]),
        *(f"## {title}\n\n{markdown(STEPS, steps)}" for title, steps in profiles.items()),
    ]
    return "\n\n".join(parts)


def grown(where: str, growths: Sequence["Growth"]) -> str:
    """What `write` puts between the marks `growth`: each plot, which lies beside the page, and its table."""
    parts = (
        f"### {growth.title}\n\n![{growth.title}]({growth.name}.svg)\n\n{markdown(growth.header, growth.rows)}"
        for growth in growths
    )
    return "\n\n".join([_dated(where), *parts])


def _dated(where: str) -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}, `make bench`, on {where}."


def write(path: Path, mark: str, content: str) -> None:
    """Replaces what is between the marks *mark* in the file at *path*."""
    begins, ends = BEGIN.format(mark), END.format(mark)
    before, begin, rest = path.read_text().partition(begins)
    _, end, after = rest.partition(ends)
    if not begin or not end:
        raise SystemExit(f"bench: {path} has no {begins} … {ends}")
    path.write_text(f"{before}{begin}\n\n{content}\n\n{end}{after}")
