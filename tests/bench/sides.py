"""One boot by either side, timed: the agent from its start to `in service`, the floor from its start to an answer."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from releases import PORT
from world import APP, FLOOR, TABLE, World

REPOSITORY = Path(__file__).parents[2]
AGENT = REPOSITORY / "build/tree/usr/bin/adf-agent"  # as the packages bring it
UNIT = (REPOSITORY / "systemd/adf-agent.service").read_text()
HEAPS = dict(re.findall(r"^Environment=(MALLOC_\w+)=(.*)$", UNIT, re.MULTILINE))  # … and as systemd starts it
SCRIPT = Path(__file__).with_name("floor.sh")
LIMIT = 300  # seconds for one boot
SAMPLE_SECONDS = 0.02
CONFIG = f"""
import boto3
for page in boto3.client("dynamodb", "{{region}}").get_paginator("query").paginate(TableName="{TABLE}",
        KeyConditionExpression="App = :app", ExpressionAttributeValues={{{{":app": {{{{"S": "{APP}"}}}}}}}}):
    for item in page["Items"]:
        if "Value" in item: print(item["Name"]["S"] + "=" + item["Value"]["S"])
"""


@dataclass(frozen=True)
class Step:
    """A stage of the agent or a step of the floor: when it began after the start, and how long it took (seconds)."""

    began: float
    seconds: float
    fact: str = ""


@dataclass(frozen=True)
class Boot:
    """*seconds* from start to service, and what they went to."""

    seconds: float
    steps: dict[str, Step]


@contextmanager
def _process(world: World, command: list[str | Path], **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """A process and all that it starts; where the context is left before it has ended, it is asked to end."""
    with (
        (world.folder / "errors.log").open("w") as errors,
        subprocess.Popen(
            command,
            env=world.environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
    if process.returncode != 0:
        said = (world.folder / "errors.log").read_text()
        raise SystemExit(f"bench: {command} ended with {process.returncode}:\n{said}")


def agent(world: World, watch: Callable[[int], object] = lambda _: None) -> Boot:
    """A boot by `adf-agent boot`, up to the moment that status.json calls `in service`.

    *watch* is given the process's id, again and again while it runs.
    """
    started = time.time()
    deadline = time.monotonic() + LIMIT
    with _process(world, [AGENT, "boot"], **HEAPS) as process:
        while process.poll() is None and time.monotonic() < deadline:
            watch(process.pid)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SAMPLE_SECONDS)
    status = json.loads((world.root / "run/adf-agent/status.json").read_bytes())
    steps = {each["name"]: Step(each["started"] - started, each["seconds"], each["fact"]) for each in status["stages"]}
    return Boot(status["since"] - started, steps)


def floor(world: World, *, config: bool, **environment: str) -> Boot:
    """A boot by floor.sh, its seconds as it counts them itself."""
    if config:
        (world.folder / "config.py").write_text(CONFIG.format(region=world.cloud.imds.instance.region))
        environment["FLOOR_CONFIG"] = f"{sys.executable} {world.folder / 'config.py'}"
    with _process(world, ["bash", SCRIPT, FLOOR, str(world.port), str(PORT), "/"], **environment) as process:
        output, _ = process.communicate(timeout=LIMIT)
    seconds = {name: float(value) for name, value in map(str.split, output.splitlines())}
    total = seconds.pop("total")
    steps, began = {}, 0.0
    for name, value in seconds.items():
        steps[name] = Step(began, value)
        began += value
    return Boot(total, steps)
