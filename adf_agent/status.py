"""What a person sees of the boot, and the exit code that a script reads, with nothing but status.json at hand."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from adf_agent.root import STATUS, TAIL, boot_id, started

TYPE_CHECKING = False  # as in root
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, TypeAlias

    Status: TypeAlias = Mapping[str, Any]

# Little else is imported: the screen must come at once, and when all else is broken.
MEANING = "How the boot went and how the app is"
IN_SERVICE, FAILED, NO_AGENT, UNDER_WAY = 0, 1, 3, 4
SCHEMA = 1
SERVING = ("in service", "warmed", "standby")
ENDED = ("failed", "held")
MARKS = {"done": "✓", "failed": "✗", "running": "…", "stopped": "-"}
COLORS = {"done": "32", "failed": "31", "running": "33", "stopped": "2"}


def main(argv: Sequence[str] | None = None) -> int:
    """`adf-agent status`. Returns its exit code."""
    arguments = options(argparse.ArgumentParser(prog="adf-agent status", description=f"{MEANING}.")).parse_args(argv)
    root = os.environ.get("ADF_ROOT") or "/"
    tolerate(sys.stdout, sys.stderr)
    try:
        return _show(arguments, os.path.join(root, STATUS), os.path.join(root, TAIL))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:  # or not what we wrote
        print(f"adf-agent: the status can't be read: {error}\n  → See {os.path.join(root, STATUS)}.", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130


def tolerate(*streams: Any) -> None:
    """Lets *streams* of a locale without arrows and ticks, such as C, write something in their place."""
    for stream in streams:
        stream.reconfigure(errors="replace")


def options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """*parser* with the options of this command."""
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--wait", action="store_true", help="until the boot has ended")
    parser.add_argument("--strict", action="store_true", help="1 also where degraded, warmed or standby")
    return parser


def _show(arguments: argparse.Namespace, path: str, tail: str) -> int:
    now = boot_id()
    if arguments.wait:
        wait(lambda: read(path), lambda found: alive(found, now, started))
    found = read(path)
    running = found is not None and alive(found, now, started)
    rebooted = found is not None and found.get("agent", {}).get("boot_id") != now
    code = verdict(found, running=running, rebooted=rebooted, strict=arguments.strict)
    if arguments.json:
        print(json.dumps({"running": running, **(found or {"phase": None})}, indent=1))
    else:
        color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(screen(found, code, _lines(tail), time.time(), color=color))
    return code


def _lines(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:  # not for this user's eyes, or none
        return ""


def read(path: str) -> Status | None:
    """The record at *path*, replaced whole and so never torn; None where there is none. Raises OSError, ValueError."""
    try:
        with open(path, "rb") as file:
            status = json.load(file)
    except FileNotFoundError:
        return None
    if not isinstance(status, dict):
        raise ValueError(f"{path} is no record of an agent")  # noqa: TRY004  as for what is no JSON at all
    return status


def alive(status: Status, boot_id: str, started: Callable[[int], int]) -> bool:
    """Whether the very process that wrote *status* still runs."""
    agent = status.get("agent", {})
    return bool(agent.get("boot_id") == boot_id and 0 < agent.get("started", 0) == started(agent.get("pid", 0)))


def verdict(status: Status | None, *, running: bool, rebooted: bool, strict: bool) -> int:
    """The exit code: 0 in service, 1 failed or held, 3 no agent running, 4 booting or draining."""
    if status is None:
        return NO_AGENT
    phase = status.get("phase")
    if phase in ENDED:
        return FAILED
    left_alone = status.get("agent", {}).get("mode") == "boot" and not rebooted  # `boot` ends and leaves the container
    if phase in SERVING and (running or left_alone):
        return FAILED if strict and (status.get("degraded") or phase != SERVING[0]) else IN_SERVICE
    return UNDER_WAY if running else NO_AGENT


def screen(status: Status | None, code: int, tail: str, now: float, *, color: bool) -> str:
    """The whole of *status* on one screen. *tail* holds the app's last lines, as far as this user may read them."""
    if status is None:
        return "no agent has run here\n  start it: systemctl start adf-agent"
    status, tail = _printable(status), "\n".join(map(_printable, tail.rstrip("\n").split("\n")))
    lines = [_headline(status, code, now, color)]
    if status.get("schema") != SCHEMA:
        lines.append(f"  (written by adf-agent {status.get('version')}, a newer one than this)")
    lines += [_row("degraded", reason) for reason in status.get("degraded", [])]
    lines += _facts(status)
    lines += [_stage(stage, now, color) for stage in status.get("stages", [])]
    lines += _error(status, tail, color)
    return "\n".join(lines)


def _printable(value: Any) -> Any:
    """*value* with no text in it that could move the cursor or paint: an app's last lines may hold any byte."""
    if isinstance(value, str):
        return "".join(
            character if character.isprintable() or character == "\t" else "\N{REPLACEMENT CHARACTER}"
            for character in value
        )
    if isinstance(value, dict):
        return {key: _printable(part) for key, part in value.items()}
    return [_printable(part) for part in value] if isinstance(value, list) else value


def _headline(status: Status, code: int, now: float, color: bool) -> str:  # noqa: FBT001
    phase = str(status.get("phase"))
    if code == NO_AGENT:
        phase = f"no agent running; it was {phase}"
    instance = status.get("instance", {})
    who = " ".join(str(instance[key]) for key in ("id", "type", "zone") if instance.get(key)) or "unknown instance"
    paint = {IN_SERVICE: "32", UNDER_WAY: "33"}.get(code, "31")
    return f"{who}: {_paint(phase, paint, color)} for {_span(now - status.get('since', now))}"


def _facts(status: Status) -> Iterable[str]:
    if release := status.get("release"):
        digest = f"  sha256 {release['digest'][:12]}" if release.get("digest") else ""
        yield _row("release", f"{release.get('name')}  {str(release.get('url')).partition('#')[0]}{digest}")
    if config := status.get("config"):
        revision = "" if config.get("revision") is None else f", revision {config['revision']}"
        partitions = " + ".join(config.get("partitions", []))
        yield _row("config", f"{config.get('keys')} keys from {partitions} in {config.get('table')}{revision}")
    if container := status.get("container"):
        ports = " ".join(f"{container.get('address')}:{port}" for port in container.get("ports", [])) or "no port"
        yield _row("container", f"{container.get('name')} {container.get('id', '')[:12]}  {ports}")
    if probe := status.get("probe"):
        yield _row("probe", probe.get("answer", ""))
    if group := status.get("group"):
        yield _row("group", str(group))
    if restarts := status.get("restarts"):
        yield _row("restarts", f"{restarts} in a row")
    if drain := status.get("drain"):
        yield _row("drain", f"for {drain.get('why')}")
        yield from (f"    {seconds:7.2f} s  {step}" for step, seconds in drain.get("steps", {}).items())


def _row(name: str, text: str) -> str:
    return f"  {name:<10} {text}"


def _stage(stage: Status, now: float, color: bool) -> str:  # noqa: FBT001
    state = str(stage.get("state"))
    seconds = stage.get("seconds", max(0.0, now - stage.get("started", now)))
    mark = _paint(MARKS.get(state, "?"), COLORS.get(state, "0"), color)
    return f"  {mark} {stage.get('name', ''):<10} {seconds:7.2f} s  {stage.get('fact', '')}".rstrip()


def _error(status: Status, tail: str, color: bool) -> Iterable[str]:  # noqa: FBT001
    error = status.get("error")
    if not error:
        return
    yield _paint(f"  {error.get('sentence')}", "31", color)
    yield f"  stage {error.get('stage')}, cause {error.get('cause')}, exit code {error.get('exit_code')}"
    if error.get("hint"):
        yield f"  → {error['hint']}"
    if tail:
        yield "  last lines:"
        yield from (f"    {line}" for line in tail.splitlines())
    elif error.get("lines"):
        yield f"  {error['lines']} last lines are kept for root and adm: sudo adf-agent status"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _paint(text: str, color: str, on: bool) -> str:  # noqa: FBT001
    return f"\x1b[{color}m{text}\x1b[0m" if on else text


def wait(read_now: Callable[[], Status | None], is_alive: Callable[[Status], bool]) -> None:
    """Returns when the boot has ended, or no agent is there to end it."""
    while (status := read_now()) and status.get("phase") == "booting" and is_alive(status):
        time.sleep(0.1)  # the one wait here: there is no stop event to heed, and Ctrl-C ends it
