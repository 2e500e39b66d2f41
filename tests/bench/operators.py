"""The operators' commands: how soon they answer, and how fast they list a config of ten thousand keys."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from measures import spread
from report import Row
from world import TABLE, World

APP = "bench-operator"
KEYS, BATCH = 10_000, 25  # BATCH: the API's limit
OWN = Path(sys.executable).parent
BARE = f"""
import sys, boto3
pages = boto3.client("dynamodb").get_paginator("query").paginate(
    TableName="{TABLE}", ConsistentRead=True,
    KeyConditionExpression="App = :app", ExpressionAttributeValues={{":app": {{"S": sys.argv[1]}}}})
for page in pages:
    for item in page["Items"]:
        print(item["Name"]["S"], item["Value"]["S"])
"""


def rows(world: World, runs: int) -> list[Row]:
    """What is measured of them, each as whole processes in turn with what they are held against."""
    return [_help(world, "adf-config", 4 * runs), _help(world, "adf-release", 4 * runs), _list(world, runs)]


def _help(world: World, command: str, runs: int) -> Row:
    pairs = _pairs(world, [str(OWN / command), "--help"], [sys.executable, "-c", "pass"], runs)
    return _row(f"{command} --help", 2.5, "python3 -c pass", pairs)


def _list(world: World, runs: int) -> Row:
    """Both ask moto's server, of which each answer takes far longer than DynamoDB's."""
    fill(world, APP, KEYS)
    command = [str(OWN / "adf-config"), "list", "-a", APP, "--table", TABLE]
    pairs = _pairs(world, command, [sys.executable, "-c", BARE, APP], runs)
    return _row(f"adf-config list, {KEYS:,} keys", 1.3, "a bare boto3 Query", pairs)


def _row(what: str, budget: float, floor: str, pairs: list[tuple[float, float]]) -> Row:
    ratios = [own / bare for own, bare in pairs]
    own, bare = (statistics.median(pair[side] for pair in pairs) * 1000 for side in (0, 1))
    figure = f"{spread(ratios)}: {own:.0f} ms to {bare:.0f} ms"
    return Row(what, f"≤ {budget} x {floor}", figure, statistics.median(ratios) <= budget, tuple(ratios))


def _pairs(world: World, own: list[str], bare: list[str], runs: int) -> list[tuple[float, float]]:
    """Seconds of both, one right after the other; a first pair is not counted."""
    return [(_timed(world, own), _timed(world, bare)) for _ in range(runs + 1)][1:]


def _timed(world: World, command: list[str]) -> float:
    environment = world.environment() | world.keys
    started = time.perf_counter()
    subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
    return time.perf_counter() - started


def fill(world: World, app: str, keys: int) -> None:
    """So many keys in a partition of their own, with short values: a config is 1 MiB at most."""
    table = world.cloud.client("dynamodb")
    for start in range(0, keys, BATCH):
        names = (f"KEY_{number:05}" for number in range(start, min(keys, start + BATCH)))
        items = [{"App": {"S": app}, "Name": {"S": name}, "Value": {"S": "a short value"}} for name in names]
        table.batch_write_item(RequestItems={TABLE: [{"PutRequest": {"Item": item}} for item in items]})
