"""The command line of `adf-agent`: its words. What they do is in `commands`."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adf_agent import __version__, console, status
from adf_agent.root import Root


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    from adf_agent import commands  # noqa: PLC0415  --help does without

    status.tolerate(sys.stdout, sys.stderr)
    root = Root(Path(os.environ.get("ADF_ROOT") or "/"))
    return console.ended("adf-agent", lambda: commands.COMMANDS[arguments.command](arguments, root))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="adf-agent", description="Boots this instance's release and tells how it is.")
    parser.add_argument("--version", action="version", version=f"adf-agent {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(commands, "run", "boot the release of RELEASE_URL, supervise it, and drain it at the end")
    _command(commands, "boot", "boot the release of RELEASE_URL, then exit; the container goes on")
    # Listed here; __main__ takes it straight to its module.
    commands.add_parser("status", help=status.MEANING[0].lower() + status.MEANING[1:])
    _json(_command(commands, "settings", "the settings in force, each with its source"))
    _json(_command(commands, "drain", "leave: deregister, wait until drained, stop the container; the agent stays"))
    _json(_command(commands, "reload", "apply changed settings and config, with no request lost"))
    held = _json(_command(commands, "hold", "keep a failing instance for a person, for a while"))
    choice = held.add_mutually_exclusive_group(required=True)
    choice.add_argument("duration", nargs="?", type=_duration, metavar="DURATION", help="90s, 15m, 2h; from now")
    choice.add_argument("--off", action="store_true", help="let go")
    _json(_command(commands, "config", "the config that a container would get now: names, never values"))
    return parser


def _json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=name)
    return parser


def _duration(text: str) -> float:
    from adf_agent.notation import duration  # noqa: PLC0415

    try:
        return duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
