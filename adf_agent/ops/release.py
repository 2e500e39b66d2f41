"""The command `adf-release`: made, built once, verified. What only one command needs is imported there."""

import argparse
import os
import sys

from adf_agent import __version__

TYPE_CHECKING = False  # as in typing, which takes `--help` longer to import than much of what it does
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from typing import Any


def main(argv: "Sequence[str] | None" = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    from adf_agent import console, log  # noqa: PLC0415

    log.configure(sys.stderr)
    return console.ended("adf-release", lambda: arguments.command(arguments, console.stopping()) or 0, "ops")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="adf-release", description="Releases: made, built once, verified.")
    parser.add_argument("--version", action="version", version=f"adf-release {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    made = _command(commands, "create", _create, "make a release of a git commit, and deliver it")
    made.add_argument("--ref", default="HEAD", metavar="REF", help="a commit, branch or tag (%(default)s)")
    made.add_argument("--name", metavar="NAME", help="the release's; else the tag on the commit, else 12 of its digits")
    places = "a folder (the current one), s3://bucket/prefix, or github:owner/repository"
    made.add_argument("--to", default=".", metavar="PLACE", help=places)
    made.add_argument("--allow-dirty", action="store_true", help="leave out what is not committed, knowingly")
    built = _command(commands, "build", _build, "build a release's image once, and push it to a registry")
    built.add_argument("url", metavar="RELEASE_URL")
    built.add_argument("--push", required=True, metavar="REGISTRY/REPOSITORY", help="where the image goes")
    built.add_argument("--builder", choices=["auto", "buildkit", "classic"], default="auto", help="as ADF_BUILDER")
    checked = _command(commands, "verify", _verify, "find what an instance would refuse, before it does")
    checked.add_argument("url", metavar="RELEASE_URL")
    checked.add_argument("--json", action="store_true", help="for programs")
    return parser


def _command(commands: "Any", name: str, run: "Callable[..., int | None]", text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=run)
    return parser


def _create(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import create  # noqa: PLC0415

    made = create.create(arguments.ref, arguments.name, arguments.to, stop, allow_dirty=arguments.allow_dirty)
    print(f"RELEASE_URL={made}")


def _build(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import build  # noqa: PLC0415

    print(build.build(arguments.url, arguments.push, arguments.builder, stop))


def _verify(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import verify  # noqa: PLC0415

    verify.verify(arguments.url, stop, as_json=arguments.json)
