"""`adf-agent doctor`: every check at once, a few seconds for all of them, then the findings."""

import argparse
import functools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import structlog

from adf_agent import mask, status
from adf_agent.clients import Clients
from adf_agent.deadline import Deadline
from adf_agent.doctor import (
    agent,
    balancers,
    collect,
    engine,
    machine,
    metadata,
    permissions,
    ports,
    ranking,
    release,
    table,
    unit,
)
from adf_agent.doctor.case import MARGIN, Case
from adf_agent.doctor.check import Finding, run
from adf_agent.notation import in_words
from adf_agent.root import Root, started
from adf_agent.state import State, load

# From the process's start to the last check's end, as Python takes up to half a second to end; for the checks at least.
WHOLE_SECONDS, LEAST_SECONDS = 4.2, 2.5
# The roots of trouble first: with nothing else to go by, they come first on the screen.
CHECKS: Mapping[str, Callable[[Case], Iterable[Finding]]] = {
    "agent": agent.agent,
    "clock": machine.clock,
    "disk": machine.disk,
    "memory": machine.memory,
    "unit": unit.unit,
    "docker": engine.docker,
    "docker's disk": machine.data_root,
    "builder": engine.builder,
    "imds": metadata.imds,
    "hop limit": metadata.hop_limit,
    "user-data": metadata.user_data,
    "tags": metadata.tags,
    "settings": metadata.settings,
    "credentials": metadata.credentials,
    "release": release.release,
    "registry": engine.registry,
    "config": table.config,
    "ports": ports.ports,
    "group": balancers.group,
    "hooks": balancers.hooks,
    "balancers": balancers.balancers,
    "group's balancers": balancers.attached,
    "permissions": permissions.permissions,
    "group's permissions": permissions.of_group,
}


def examine(root: Root) -> tuple[Case, list[Finding]]:
    """Tries everything; the findings, ranked, with no credentials in them."""
    _quiet()
    seconds = max(WHOLE_SECONDS - _age(), LEAST_SECONDS)
    deadline = Deadline(seconds, threading.Event())
    case = Case(Clients(root), _record(root), _state(root), deadline.lasting(seconds - 2 * MARGIN))
    found = run({name: functools.partial(check, case) for name, check in CHECKS.items()}, deadline)
    shown = [Finding(each.level, mask.urls(each.sentence), mask.urls(each.fix), each.check) for each in found]
    return case, ranking.ranked(shown, case.error)


def main(root: Root, arguments: argparse.Namespace, say: Callable[[str], object]) -> int:
    """Says the findings, makes the archive where `--collect` asks for it, and returns the exit code.

    What hangs is left behind in threads that end with the process: they are daemons, and write nothing.
    """
    with collect.archive(arguments.collect) if arguments.collect else nullcontext() as target:
        case, findings = examine(root)
        seconds = _age()
        parts = collect.fill(target, case, findings, seconds) if target else []
    if arguments.json:
        say(ranking.as_json(findings, seconds, parts))
    else:
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        say(ranking.screen(findings, color=color))
    if target and not arguments.json:
        lines = (f"  {part.name:<20} {in_words(part.size):>9}  {part.what}" for part in parts)
        say("\n".join([f"\n{arguments.collect} has, with every known secret masked:", *lines]))
    return ranking.exit_code(findings)


def _age() -> float:
    """Seconds since this process started: on a busy machine the imports alone take a second."""
    ticks = started(os.getpid()) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks)


def _quiet() -> None:
    """The findings say what the boot's own functions would log; and two tries are enough, where a person waits."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "2")


def _record(root: Root) -> Mapping[str, Any] | None:
    try:
        return status.read(str(root.status))
    except (OSError, ValueError):
        return None


def _state(root: Root) -> State | None:
    """What the agent keeps to itself; None for a user that may not read it."""
    try:
        json.loads((root.var / "state.json").read_bytes())
    except FileNotFoundError:
        return State()
    except (OSError, ValueError):
        return None
    return load(root)
