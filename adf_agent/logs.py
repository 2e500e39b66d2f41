"""`adf-agent logs`: finds the right source of the app's, the build's or the agent's lines; its own tool prints them."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from adf_agent import status
from adf_agent.console import explain
from adf_agent.errors import AgentError
from adf_agent.notation import duration
from adf_agent.root import Root
from adf_agent.screen import part, start_command

MEANING = "the app's, the build's or the agent's log"
WHY_NO_JSON = """\
The lines are passed on as they are, and so there is no --json: those of the agent are JSON objects anyway, one a line,
where the output is no terminal."""
LINES = "100"  # where neither -n nor --since says how many: a log may be weeks long
ASK_SECONDS = 10.0  # for Docker to say whether it knows the container
NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # of a container, or its id: what Docker could know
UNIT = "adf-agent"  # of systemd; and the job of upstart


@dataclass(frozen=True)
class Wish:
    """Which *lines* (a number, or all) since when (epoch seconds), and whether to go on with those that come."""

    follow: bool = False
    lines: str = LINES
    since: float | None = None


def options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """*parser* with the options of this command."""
    source = parser.add_mutually_exclusive_group()
    for name, text in (
        ("app", "the app's output (default); of a container that is gone, the last lines that were kept"),
        ("build", "the output of the last build"),
        ("agent", "the agent's own log"),
    ):
        source.add_argument(f"--{name}", dest="source", action="store_const", const=name, help=text)
    parser.add_argument("-f", "--follow", action="store_true", help="go on with the lines that come, until Ctrl-C")
    parser.add_argument("-n", "--lines", type=_lines, metavar="N", help=f"how many, or all ({LINES}; all with --since)")
    parser.add_argument("--since", type=_moment, metavar="TIME", help="10m, 2h (ago), or 2024-05-01T12:00:00Z")
    parser.set_defaults(source="app")
    parser.epilog = WHY_NO_JSON
    return parser


def _lines(text: str) -> str:
    if text != "all" and not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines: write 50, or all")
    return text


def _moment(text: str) -> float:
    try:
        return moment(text, time.time())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def moment(text: str, now: float) -> float:
    """Epoch seconds, from `10m` before *now*, or a time of ISO 8601, the machine's own where it has no zone.

    Raises ValueError.
    """
    with suppress(ValueError):
        return now - duration(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: write 10m, 2h or 2024-05-01T12:00:00Z") from None


def run(arguments: argparse.Namespace, root: Root) -> NoReturn:
    """Becomes the tool that prints the lines: Ctrl-C, a pipe's end and the exit code are its own. Raises AgentError."""
    lines = arguments.lines or (LINES if arguments.since is None else "all")
    wish = Wish(arguments.follow, lines, arguments.since)
    if arguments.source == "build":
        _become(build(root, wish))
    if arguments.source == "agent":
        _become(agent(root, wish, Path("/"), terminal=sys.stdout.isatty()))
    _become(app(root, wish))


def app(root: Root, wish: Wish) -> list[str]:
    """The command for the app's lines: Docker has them, whatever the log driver, since engine 20.10."""
    record = _record(root)
    told = str(part(record, "container").get("id") or ""), root.container(str(part(record, "instance").get("id")))
    container = next(filter(NAME.fullmatch, told), root.container("unknown"))
    if not _exists(container):
        return _kept(root, wish, record)
    since = [] if wish.since is None else [f"--since={wish.since:.3f}"]
    follow = ["--follow"] if wish.follow else []
    if wish.follow:
        explain("adf-agent", "the lines end with this container; those of the next: adf-agent logs -f")
    return ["docker", "logs", f"--tail={wish.lines}", *since, *follow, "--", container]


def _record(root: Root) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):  # what it would tell is guessed, then
        return status.read(str(root.status)) or {}
    return {}


def _exists(container: str) -> bool:
    """Whether Docker knows *container*. Raises AgentError where it does not say."""
    ask = ["docker", "container", "inspect", "--format={{.Id}}", "--", container]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, errors="replace", timeout=ASK_SECONDS, check=False)
    except FileNotFoundError as error:
        raise _missing("docker") from error
    except subprocess.TimeoutExpired as error:
        raise AgentError("Docker does not answer", hint="sudo journalctl -u docker -n 50", cause="host") from error
    said = answer.stderr.strip()
    if answer.returncode == 0 or "no such container" in said.lower():
        return answer.returncode == 0
    if "permission denied" in said:
        raise AgentError("this user may not use Docker", hint="sudo adf-agent logs", cause="host")
    raise AgentError(f"Docker does not tell: {said}", hint="sudo journalctl -u docker -n 50", cause="host")


def _kept(root: Root, wish: Wish, record: Mapping[str, Any]) -> list[str]:
    if part(record, "error").get("stage") == "image":
        raise AgentError("the build failed, and there was no app to say anything", hint="adf-agent logs --build")
    if not _has_lines(root.tail, "adf-agent logs"):
        raise AgentError("no container is here, and no last lines of one", hint="adf-agent status")
    explain("adf-agent", "the container is gone: these are the last lines of the app, kept when it last failed")
    return tail(root.tail, Wish(lines=wish.lines, since=wish.since))


def build(root: Root, wish: Wish) -> list[str]:
    """The command for the build's lines."""
    path = root.var / "build.log"
    if not _has_lines(path, "adf-agent logs --build") and not wish.follow:
        raise AgentError(
            "no build has run here",
            hint="What is pulled or at hand is not built: see the stage `image` in adf-agent status.",
        )
    return tail(path, wish)


def agent(root: Root, wish: Wish, machine: Path, *, terminal: bool) -> list[str]:
    """The command for the agent's lines, of the journal or of upstart's file below *machine*, `/`."""
    if not root.whole_machine:
        raise AgentError(
            "where the log of an agent below ADF_ROOT goes is not known here",
            hint="It is the standard error of whatever started it.",
        )
    if (machine / "run/systemd/system").is_dir():  # as sd_booted(3) has it
        _check_journal(machine)
        since = [] if wish.since is None else [f"--since=@{wish.since:.3f}"]
        # A person needs the times of systemd's own lines too; a program the agent's lines as they were written.
        form = f"--output={'short-iso' if terminal else 'cat'}"
        follow = ["--follow"] if wish.follow else []
        return ["journalctl", f"--unit={UNIT}", "--no-pager", form, f"--lines={wish.lines}", *since, *follow]
    path = machine / f"var/log/upstart/{UNIT}.log"
    if not _has_lines(path, "adf-agent logs --agent"):
        raise AgentError(
            f"neither systemd nor {path} has a log of the agent",
            hint=f"By hand, it is the standard error of whatever started it; else: {start_command()}",
        )
    return tail(path, wish)


def _check_journal(machine: Path) -> None:
    """Raises AgentError where the journal is for other users: journalctl would say that there is nothing."""
    files = [file for place in ("var", "run") for file in (machine / place / "log/journal").glob("*/system.journal")]
    if files and not any(os.access(file, os.R_OK) for file in files):
        raise AgentError("this user may not read the system's journal", hint="sudo adf-agent logs --agent")


def tail(path: Path, wish: Wish) -> list[str]:
    """The command for the lines of a file, which knows no times; a new file of its name is followed too."""
    if wish.since is not None:
        explain("adf-agent", f"--since does not count: the lines of {path} have no times")
    return [
        "tail",
        f"--lines={'+1' if wish.lines == 'all' else wish.lines}",
        *(["-F"] if wish.follow else []),
        str(path),
    ]


def _has_lines(path: Path, command: str) -> bool:
    try:
        with path.open("rb") as file:
            return bool(file.read(1))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise AgentError(f"{path} can't be read: {error.strerror}", hint=f"sudo {command}", cause="host") from error


def _become(command: list[str]) -> NoReturn:
    sys.stdout.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606  a fixed command, and no shell
    except FileNotFoundError as error:
        raise _missing(command[0]) from error


def _missing(command: str) -> AgentError:
    return AgentError(
        f"there is no command `{command}` here",
        hint=f"Install it, or see that it is on the PATH ({os.environ.get('PATH')}).",
    )
