"""What a cold boot can't go below: the pipeline, held to what the agent is held to, against the pipeline as it is."""

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


def row(world: World, release: Release, runs: int, *, config: bool) -> Row:
    """No budget: beside the row above, it says what is left to gain.

    The pipeline starts a Python that imports the agent's libraries, downloads to a file, hashes it, and streams it.
    """
    first = shlex.join([PYTHON, "-BIS", "-c", IMPORTS])

    def held(world: World) -> Boot:
        return sides.floor(world, config=config, FLOOR_FIRST=first, FLOOR_TAR="1")

    pairs = measures.cold(world, release, runs, config=config, agent=held)
    return measures.cold_row("beneath: the pipeline, with the agent's imports and a checked tar", None, pairs)
