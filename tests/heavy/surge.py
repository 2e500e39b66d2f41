"""As many requests a second as this machine sustains, through a roll: what becomes of them."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from wrk import Figures, Users

COMMANDS = Path(sys.executable).parent
INSTANCES = 4
PATH = "/health"  # a file; the app's page is a shell's work, and this would measure forks
RAMP = (1, 2, 4, 8, 16, 32)  # connections
RAMP_SECONDS, BEFORE_SECONDS, MOST_SECONDS = 3, 10, 240
ENOUGH = 0.9  # of the greatest rate: with more connections requests only wait for longer
LATE_SECONDS = 0.25  # p99: the app's queue is full, and connections are tried again by the kernel
UP_SECONDS, DOWN_SECONDS = 120.0, 120.0


@dataclass(frozen=True)
class Surge:
    """A roll under the load of *users*; *code* is adf-roll's, *roll* its seconds."""

    users: Users
    before: Figures
    during: Figures
    code: int
    roll: float


def surges() -> Iterator[Surge]:
    """A roll to v2 with connections that are kept alive, and one back to v1 with a new one for each request."""
    with _sandbox() as environment:
        for release, alive in (("v2", True), ("v1", False)):
            users = _sustained(environment["FLEET"] + PATH, alive=alive)
            yield _surge(users, f"s3://releases/{release}.tar.gz", environment)


def _sustained(url: str, *, alive: bool) -> Users:
    """The fewest connections that come to ENOUGH of the greatest rate with nothing lost."""
    tried = {each: Users(url, each, alive).ask(RAMP_SECONDS) for each in RAMP}
    assert not any(figures.failed for figures in tried.values()), f"lost with no roll: {tried}"
    quick = {each: figures.rate for each, figures in tried.items() if figures.p99 <= LATE_SECONDS}
    return Users(url, next((each for each in quick if quick[each] >= ENOUGH * max(quick.values())), RAMP[0]), alive)


def _surge(users: Users, url: str, environment: dict[str, str]) -> Surge:
    before = users.ask(BEFORE_SECONDS)
    words = ["start", "hello", url, "--yes", "--bake", "5s", "--batch", "50%"]
    with users.asking(MOST_SECONDS) as figures:
        began = time.monotonic()
        done = subprocess.run([COMMANDS / "adf-roll", *words], env=environment, stdout=sys.stderr, check=False)
        took = time.monotonic() - began
        _settled(environment)
    return Surge(users, before, figures[0], done.returncode, took)


def _settled(environment: dict[str, str]) -> None:
    """Waits until the last of the former release has left."""
    keys = {"aws_access_key_id": "sandbox", "aws_secret_access_key": "sandbox", "region_name": "eu-west-1"}
    client = boto3.client("autoscaling", endpoint_url=environment["AWS_ENDPOINT_URL"], **keys)
    deadline = time.monotonic() + DOWN_SECONDS
    while len(found := client.describe_auto_scaling_instances()["AutoScalingInstances"]) > INSTANCES:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


@contextmanager
def _sandbox() -> Iterator[dict[str, str]]:
    """The environment of a shell in a sandbox with a fleet."""
    command = [str(COMMANDS / "adf-sandbox"), "up", "--instances", str(INSTANCES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            lines = [shlex.split(line) for line in process.stdout]  # it closes its output once all is up
            kept = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
            yield {**kept, **dict(line[1].split("=", 1) for line in lines if line[0] == "export")}
        finally:
            process.terminate()
            process.wait(DOWN_SECONDS)
