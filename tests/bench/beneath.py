"""What two of the agent's terms cost by themselves: its libraries' imports, and a tar as context."""

import json
import shlex

import measures
import sides
from measures import PYTHON
from releases import Release
from report import Row
from sides import REPOSITORY, Boot
from world import World

from adf_agent.__main__ import GARBAGE

LIBRARY = REPOSITORY / "build/tree/usr/lib/adf-agent"
IMPORTS = f"""
import gc, sys
gc.set_threshold({GARBAGE})
sys.path.insert(0, {json.dumps(str(LIBRARY))})
import structlog, requests, tenacity, docker
"""


def row(world: World, what: str, release: Release, runs: int, *, config: bool) -> Row:
    """No budget: the pipeline under these terms, against the pipeline as it is."""
    first = shlex.join([PYTHON, "-BIS", "-c", IMPORTS])

    def held(world: World) -> Boot:
        return sides.floor(world, config=config, FLOOR_FIRST=first, FLOOR_TAR="1")

    pairs = measures.cold(world, release, runs, config=config, agent=held)
    return measures.cold_row(f"the pipeline after the agent's imports, by a tar: {what}", None, pairs)
