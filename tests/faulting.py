"""Which cells of the fault matrix are tried; as a plugin (`pytest -p faulting tests/faults`), the page of what came.

Without FAULTS it is a sample that is always the same, with `FAULTS=all` the whole, else the cells whose names have it
in them. The page is written where all were tried and none failed.
"""

import os
import platform
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from matrix import FAULTS, SAMPLE, STAGES, Cell, Fault, Stage, cells, reason

ASKED = os.environ.get("FAULTS", "")
BEGIN, END = "<!-- faults: written by `make faults`, not by hand -->", "<!-- faults end -->"
PAGE = Path(__file__).parent.parent / "docs/reliability.md"


@dataclass(frozen=True)
class Tried:
    """A cell that ended as it should: how, and in how many *seconds* from the fault on."""

    stage: Stage
    fault: Fault
    tenth: int
    outcome: str
    seconds: float


def chosen() -> list[Cell]:
    if not ASKED:
        return [*SAMPLE]
    return [cell for cell in cells() if ASKED == "all" or ASKED.replace(" ", "_") in str(cell)]


def page(tried: Sequence[Tried], seconds: float) -> str:
    """What stands between the marks."""
    typed = [each for each in tried if each.outcome[0].isdigit()]
    head = (
        f"{datetime.now(UTC):%Y-%m-%d}, `make faults`, on {machine()}: {len(tried)} cells in {seconds:.0f} s; "
        f"{len(tried) - len(typed)} ended in service, stopped or drained as asked, {len(typed)} in a typed failure; "
        "after each of them the next start served."
    )
    return f"{head}\n\n{table(tried)}"


def table(tried: Iterable[Tried]) -> str:
    """A row a fault, a column a stage: how it ended, and the longest time from the fault to the end."""
    found: dict[tuple[Stage, Fault], list[Tried]] = defaultdict(list)
    for each in tried:
        found[each.stage, each.fault].append(each)
    rows = [["", *STAGES], ["---"] * (len(STAGES) + 1)]
    rows += [[fault, *(entry(stage, fault, found[stage, fault]) for stage in STAGES)] for fault in FAULTS]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def entry(stage: Stage, fault: Fault, tried: Sequence[Tried]) -> str:
    if why := reason(stage, fault):
        return f"*{why}*"
    if not tried:
        return "not tried"
    outcomes = ", ".join(sorted({each.outcome for each in tried}))
    many = f"{len(tried)} times " if len(tried) > 1 else ""
    return f"{many}{outcomes}, {max(each.seconds for each in tried):.0f} s"


def machine() -> str:
    """What was tried on, with no name of it."""
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    parts = (
        f"{os.cpu_count()} cores of {processor[1] if processor else platform.machine()}",
        f"{int(memory[1]) / 2**20:.0f} GiB of memory" if memory else "",
        f"Linux {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
    )
    return ", ".join(filter(None, parts))


def write(path: Path, content: str) -> None:
    """Replaces what is between the marks in the file at *path*."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{path} has no {BEGIN}"
    assert end, f"{path} has no {END}"
    path.write_text(f"{before}{BEGIN}\n\n{content}\n\n{END}{after}")


def collected(terminalreporter: pytest.TerminalReporter) -> list[Tried]:
    reports = terminalreporter.getreports("passed")
    return [Tried(*value) for each in reports for name, value in each.user_properties if name == "cell"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried = collected(terminalreporter)
    failed = len(terminalreporter.getreports("failed")) + len(terminalreporter.getreports("error"))
    terminalreporter.section("faults tried")
    terminalreporter.write_line(f"{len(tried)} cells, {failed} not as they should")
    if ASKED == "all" and not failed and len(tried) == len([*cells()]):
        write(PAGE, page(tried, time.time() - _began))
        terminalreporter.write_line(f"written: {PAGE}")


_began = time.time()
