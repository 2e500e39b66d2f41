"""What a boot of hello can't go below: Python with the libraries that it takes, and a build whose context is a tar."""

import json
import subprocess
import time
from collections.abc import Callable

from measures import PYTHON, spread
from releases import Release
from report import Row
from sides import REPOSITORY
from world import FLOOR, World

from adf_agent.__main__ import GARBAGE

TAR = "context.tar"
LIBRARY = REPOSITORY / "build/tree/usr/lib/adf-agent"
IMPORTS = f"""
import gc, sys
gc.set_threshold({GARBAGE})
sys.path.insert(0, {json.dumps(str(LIBRARY))})
import structlog, requests, tenacity, docker
"""


def rows(world: World, release: Release, runs: int) -> list[Row]:
    """No budgets: beside them, these say what is left to gain."""
    imports = [_seconds(lambda: _run(world, [PYTHON, "-BIS", "-c", IMPORTS])) for _ in range(runs)]
    folder = world.folder / "context"
    folder.mkdir()
    _run(world, ["tar", "-xf", str(world.served / release.file), "-C", str(folder)])
    _run(world, ["tar", "-cf", str(world.folder / TAR), "-C", str(folder), "."])
    more = [_build(world, "-") - _build(world, str(folder)) for _ in range(runs)]
    return [
        _row("beneath: Python with structlog, requests, tenacity and docker imported", imports),
        _row("beneath: docker build of a tar on standard input takes longer than of a folder by", more),
    ]


def _row(what: str, seconds: list[float]) -> Row:
    return Row(what, "", spread(seconds, " s"), None, tuple(seconds))


def _build(world: World, context: str) -> float:
    world.clear()
    command = [str(world.docker), "build", "--quiet", "--tag", FLOOR, context]
    return _seconds(lambda: _run(world, command))


def _run(world: World, command: list[str]) -> None:
    with (world.folder / TAR).open("ab+") as context:
        context.seek(0)
        subprocess.run(
            command, env=world.environment(), stdin=context, stdout=subprocess.DEVNULL, timeout=60, check=True
        )


def _seconds(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
