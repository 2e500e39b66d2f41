"""The command line of `adf-agent`: its words. What they do is in `commands`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adf_agent import __version__, console, logs, status
from adf_agent.layout import Layout, exemplify
from adf_agent.root import Root

EXAMPLES = {
    "run": ["adf-agent run", "sudo systemctl start adf-agent"],
    "boot": ["adf-agent boot && adf-agent status"],
    "status": ["adf-agent status", "adf-agent status --wait && curl http://127.0.0.1/", "adf-agent status --watch"],
    "settings": ["adf-agent settings", "adf-agent settings --json | jq .RELEASE_URL"],
    "drain": ["sudo adf-agent drain && sudo reboot"],
    "reload": ["sudo adf-agent reload"],
    "hold": ["sudo adf-agent hold 2h", "sudo adf-agent hold --off"],
    "doctor": ["adf-agent doctor", "sudo adf-agent doctor --collect ticket.tar.gz"],
    "logs": ["adf-agent logs -f", "adf-agent logs --build", "sudo adf-agent logs --agent --since 10m"],
    "analyze": ["adf-agent analyze", "adf-agent analyze --svg boot.svg"],
    "config": ["adf-agent config"],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = parser().parse_args(argv)
    from adf_agent import commands  # noqa: PLC0415  --help does without

    status.tolerate(sys.stdout, sys.stderr)
    root = Root(Path(os.environ.get("ADF_ROOT") or "/"))
    return console.ended("adf-agent", lambda: commands.COMMANDS[arguments.command](arguments, root), hide=_shown)


def _shown(text: str) -> str:
    from adf_agent import mask  # noqa: PLC0415  most commands have no error to tell

    return mask.urls(text)


def parser() -> argparse.ArgumentParser:
    """The words of every command: `--help`, the man page and the completions are made from it."""
    about = "Boots this instance's release and tells how it is."
    parser = argparse.ArgumentParser(prog="adf-agent", description=about, formatter_class=Layout)
    parser.add_argument("--version", action="version", version=f"adf-agent {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(commands, "run", "boot the release of RELEASE_URL, supervise it, and drain it at the end")
    _command(commands, "boot", "boot the release of RELEASE_URL, then exit; the container goes on")
    # Its words and help; to do it, __main__ goes straight to its module.
    status.options(_command(commands, "status", status.MEANING[0].lower() + status.MEANING[1:]))
    _json(_command(commands, "settings", "the settings in force, each with its source"))
    _json(_command(commands, "drain", "leave: deregister, wait until drained, stop the container; the agent stays"))
    _json(_command(commands, "reload", "apply changed settings and config, with no request lost"))
    held = _json(_command(commands, "hold", "keep a failing instance for a person, for a while"))
    choice = held.add_mutually_exclusive_group(required=True)
    choice.add_argument("duration", nargs="?", type=_duration, metavar="DURATION", help="90s, 15m, 2h; from now")
    choice.add_argument("--off", action="store_true", help="let go")
    examined = _json(_command(commands, "doctor", "try what this instance depends on, and say what to mend"))
    examined.add_argument("--collect", metavar="FILE", help="make an archive for a ticket, secrets masked")
    logs.options(_command(commands, "logs", logs.MEANING))
    drawn = _json(_command(commands, "analyze", "where the boot's time went, beside the last boots"))
    drawn.add_argument("--svg", metavar="FILE", help="draw it as a waterfall too (-: on standard output, alone)")
    _json(_command(commands, "config", "the config that a container would get now: names, never values"))
    for name, lines in EXAMPLES.items():
        exemplify(commands.choices[name], *lines)
    return parser


def _json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    about = text[0].upper() + text[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=about, formatter_class=Layout)
    parser.set_defaults(command=name)
    return parser


def _duration(text: str) -> float:
    from adf_agent.notation import duration  # noqa: PLC0415

    try:
        return duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
