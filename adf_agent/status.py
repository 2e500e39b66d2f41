"""What a person sees of the boot, and the exit code that a script reads, with nothing but status.json at hand."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from adf_agent.root import STATUS, TAIL, boot_id, started
from adf_agent.screen import AGENT, CODES, ODD, part, screen

TYPE_CHECKING = False  # as in root
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeAlias

    Status: TypeAlias = Mapping[str, Any]

# Little else is imported: the screen must come at once, and when all else is broken.
MEANING = "How the boot went and how the app is"
IN_SERVICE, FAILED, NO_AGENT, UNDER_WAY = CODES
SERVING = ("in service", "warmed", "standby")
ENDED = ("failed", "held")
TORN_SECONDS = 0.02  # on a full disk a record is written over the former one: whole again after this


def main(argv: Sequence[str] | None = None) -> int:
    """`adf-agent status`. Returns its exit code."""
    arguments = options(argparse.ArgumentParser(prog="adf-agent status", description=f"{MEANING}.")).parse_args(argv)
    root = os.environ.get("ADF_ROOT") or "/"
    tolerate(sys.stdout, sys.stderr)
    try:
        return _show(arguments, os.path.join(root, STATUS), os.path.join(root, TAIL))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stdout = None  # somebody's `head`; Python would complain at its exit
        return 141
    except (OSError, *ODD) as error:
        what, next_step = "the status can't be read", AGENT
        if isinstance(error, PermissionError):
            next_step = "sudo adf-agent status"
        elif isinstance(error, OSError) and not error.filename:  # a full disk, behind `>`
            what, next_step, sys.stdout = "the answer can't be written", "df -h", None
        print(f"adf-agent: {what}: {error}\n  → {next_step}", file=sys.stderr)
        return FAILED


def tolerate(*streams: Any) -> None:
    """Lets *streams* of a locale without arrows and ticks, such as C, write something in their place."""
    for stream in streams:
        stream.reconfigure(errors="replace")


def options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """*parser* with the options of this command."""
    parser.add_argument("--json", action="store_true", help="for programs")
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--wait", action="store_true", help="until the boot has ended")
    until.add_argument("--watch", action="store_true", help="draw it anew as it changes, until Ctrl-C")
    parser.add_argument("--strict", action="store_true", help="1 also where degraded, warmed or standby")
    return parser


def _show(arguments: argparse.Namespace, path: str, tail: str) -> int:
    now = boot_id()

    def look() -> tuple[Status | None, int, bool]:
        found = read(path)
        running = found is not None and alive(found, now, started)
        rebooted = found is not None and part(found, "agent").get("boot_id") != now
        return found, verdict(found, running=running, rebooted=rebooted, strict=arguments.strict), running

    def shown(found: Status | None, code: int, running: bool) -> str:  # noqa: FBT001  what look() tells
        if arguments.json:
            return json.dumps({"running": running, **(found or {"phase": None})}, indent=1)
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        return screen(found, code, _lines(tail), time.time(), color=color)

    if arguments.watch:
        from adf_agent import watch  # noqa: PLC0415  only then

        watch.watch(look, lambda seen: shown(*seen), sys.stdout)
    if arguments.wait:
        wait(lambda: read(path), lambda found: alive(found, now, started))
    seen = look()
    print(shown(*seen), flush=True)
    return seen[1]


def _lines(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:  # not for this user's eyes, or none
        return ""


def read(path: str) -> Status | None:
    """The record at *path*, None where there is none. Raises OSError, ValueError."""
    try:
        status = _parsed(path)
    except FileNotFoundError:
        return None
    except ValueError:
        time.sleep(TORN_SECONDS)
        status = _parsed(path)
    if not isinstance(status, dict):
        raise ValueError(f"{path} is no record of an agent")  # noqa: TRY004  as for what is no JSON at all
    return status


def _parsed(path: str) -> Any:
    with open(path, "rb") as file:
        try:
            return json.load(file)
        except RecursionError:
            raise ValueError(f"{path} is nested too deeply") from None


def alive(status: Status, boot_id: str, started: Callable[[int], int]) -> bool:
    """Whether the very process that wrote *status* still runs."""
    agent = part(status, "agent")
    pid, since = agent.get("pid"), agent.get("started")
    return isinstance(pid, int) and bool(since) and agent.get("boot_id") == boot_id and since == started(pid)


def verdict(status: Status | None, *, running: bool, rebooted: bool, strict: bool) -> int:
    """The exit code: 0 in service, 1 failed or held, 3 no agent running, 4 booting or draining."""
    if status is None:
        return NO_AGENT
    phase = status.get("phase")
    if phase in ENDED:
        return FAILED
    left_alone = part(status, "agent").get("mode") == "boot" and not rebooted  # it ends and leaves the container
    if phase in SERVING and (running or left_alone):
        return FAILED if strict and (status.get("degraded") or phase != SERVING[0]) else IN_SERVICE
    return UNDER_WAY if running else NO_AGENT


def wait(read_now: Callable[[], Status | None], is_alive: Callable[[Status], bool]) -> None:
    """Returns when the boot has ended, or no agent is there to end it."""
    while (status := read_now()) and status.get("phase") == "booting" and is_alive(status):
        time.sleep(0.1)  # the one wait here: there is no stop event to heed, and Ctrl-C ends it
