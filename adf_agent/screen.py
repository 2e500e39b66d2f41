"""A boot's record as one screen, for a person."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in root
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, TypeAlias

    Status: TypeAlias = Mapping[str, Any]

SCHEMA = 1
CODES = IN_SERVICE, FAILED, NO_AGENT, UNDER_WAY = 0, 1, 3, 4  # what is known of the agent: the exit codes of `status`
MARKS = {"done": "✓", "failed": "✗", "running": "…", "stopped": "-"}
COLORS = {"done": "32", "failed": "31", "running": "33", "stopped": "2"}
# What to type next, by a failure's cause.
LOOK = {"app": "adf-agent logs", "build": "adf-agent logs --build", "settings": "adf-agent settings"}
AGENT, DOCTOR, RELOAD = "adf-agent logs --agent", "adf-agent doctor", "sudo adf-agent reload"
LONGEST = 500  # characters of an app's line: the screen is for a person, `adf-agent logs` has it whole
SYSTEMD, JOB = "run/systemd/system", "etc/init/adf-agent.conf"  # the first is there where it runs (sd_booted(3))
ODD = (
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    OverflowError,
    RecursionError,
)  # of a record that is not as we write it


def start_command(machine: str = "/") -> str:
    """What starts the agent: systemd, or upstart where our job is there and systemd does not run the *machine*."""
    upstart = not os.path.isdir(machine + SYSTEMD) and os.path.exists(machine + JOB)  # noqa: PTH110, PTH112  as root
    return "sudo initctl start adf-agent" if upstart else "sudo systemctl start adf-agent"


def screen(status: Status | None, code: int, tail: str, now: float, *, color: bool) -> str:
    """The whole of *status* on one screen. *tail* holds the app's last lines, as far as this user may read them."""
    if status is None:
        return f"no agent has run here\n  → {start_command()}"
    status, tail = printable(status), "\n".join(map(printable, tail.rstrip("\n").split("\n")))
    lines: list[str] = []
    for rows in (
        _headline(status, code, now, color),
        _degraded(status, now),
        _facts(status),
        _stages(status, now, color),
        _error(status, tail, color),
    ):
        try:
            lines.extend(rows)  # what comes before an odd one stays
        except ODD:
            lines.append("  (what stands here in the record is unknown to this version)")
    return "\n".join(lines)


def part(status: Status, name: str) -> Status:
    """A part of *status*, an empty one where it lacks it or a newer schema has something else there."""
    found = status.get(name)
    return found if isinstance(found, dict) else {}


def printable(value: Any) -> Any:
    """*value* with no text in it that could move the cursor or paint: an app's last lines may hold any byte."""
    if isinstance(value, str):
        return "".join(
            character if character.isprintable() or character == "\t" else "\N{REPLACEMENT CHARACTER}"
            for character in value
        )
    if isinstance(value, dict):
        return {printable(key): printable(part) for key, part in value.items()}
    return [printable(part) for part in value] if isinstance(value, list) else value


def _headline(status: Status, code: int, now: float, color: bool) -> Iterable[str]:  # noqa: FBT001
    phase = str(status.get("phase"))
    instance = part(status, "instance")
    who = " ".join(str(instance[key]) for key in ("id", "type", "zone") if instance.get(key)) or "unknown instance"
    paint = {IN_SERVICE: "32", UNDER_WAY: "33"}.get(code, "31")
    shown = _paint(f"no agent running; it was {phase}" if code == NO_AGENT else phase, paint, color)
    yield f"{who}: {shown} for {_span(now - status.get('since', now))}"
    schema = status.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        yield f"  (written by adf-agent {status.get('version')}, a newer one than this)"
    if code == NO_AGENT:
        start = f"  → {start_command()}"
        yield start if phase in ("stopped", "drained") else f"  → {AGENT}\n{start}"
    elif phase == "drained" and part(status, "drain").get("why") == "drain":  # else the instance leaves
        yield f"  → {RELOAD}, to serve again"


def _degraded(status: Status, now: float) -> Iterable[str]:
    for trouble in status.get("troubles") or [{"reason": reason} for reason in status.get("degraded", [])]:
        yield _row("degraded", trouble.get("reason"))
        since = f"for {_span(now - trouble['since'])} " if "since" in trouble else ""
        yield _row("", f"{since}→ {trouble.get('hint') or DOCTOR}")


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


def _row(name: str, text: object) -> str:
    return f"  {name:<10} {text}"


def _stages(status: Status, now: float, color: bool) -> Iterable[str]:  # noqa: FBT001
    for stage in status.get("stages", []):
        yield _stage(stage, now, color)


def _stage(stage: Status, now: float, color: bool) -> str:  # noqa: FBT001
    state, tries = str(stage.get("state")), stage.get("retries")
    seconds = stage.get("seconds", max(0.0, now - stage.get("started", now)))
    mark = _paint(MARKS.get(state, "?"), COLORS.get(state, "0"), color)
    again = f"  ({tries.get('number')} tries failed: {tries.get('reason')})" if tries else ""
    return f"  {mark} {stage.get('name', ''):<10} {seconds:7.2f} s  {stage.get('fact', '')}{again}".rstrip()


def _error(status: Status, tail: str, color: bool) -> Iterable[str]:  # noqa: FBT001
    error = status.get("error")
    if not error:
        return
    yield _paint(f"  {error.get('sentence')}", "31", color)
    yield f"  stage {error.get('stage')}, cause {error.get('cause')}, exit code {error.get('exit_code')}"
    steps = [error.get("hint"), LOOK.get(error.get("cause"), DOCTOR)]
    held = status.get("phase") == "held"
    steps += [f"once it is mended: {RELOAD}", "or let it go: sudo adf-agent hold --off"] if held else []
    replaced = status.get("group") or status.get("phase") != "failed"  # another one comes in its place
    steps += [] if replaced else [f"once it is mended: {start_command()}"]
    yield from (f"  → {step}" for step in steps if step)
    if tail:
        yield "  last lines:"
        yield from (f"    {line if len(line) <= LONGEST else line[:LONGEST] + ' …'}" for line in tail.splitlines())
    elif error.get("lines"):
        yield f"  {error['lines']} last lines are kept for root and adm: sudo adf-agent status"
    elif error.get("cause") == "app":
        yield "  the app wrote no line"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _paint(text: str, color: str, on: bool) -> str:  # noqa: FBT001
    return f"\x1b[{color}m{text}\x1b[0m" if on else text
