"""The command `adf-release`: made, built once, verified. What only one command needs is imported there."""

import argparse
import functools
import os
import sys

from adf_agent import __version__
from adf_agent.layout import Layout, exemplify

TYPE_CHECKING = False  # as in typing, which takes `--help` longer to import than much of what it does
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from typing import Any

    from adf_agent.mask import Mask
    from adf_agent.notation import Limits
    from adf_agent.signature import Key

EXAMPLES = {
    "create": [
        "adf-release create",
        "adf-release create --ref v43 --to s3://releases/web >>user-data",
        "export $(adf-release create --to github:example/web)",
    ],
    "build": ["adf-release build s3://releases/v43.tar.gz --push registry.example.com/web"],
    "verify": [
        "adf-release verify s3://releases/v43.tar.gz",
        "adf-release verify docker://registry.example.com/web:v43",
    ],
}


def main(argv: "Sequence[str] | None" = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = parser().parse_args(argv)
    from adf_agent import console, log, status  # noqa: PLC0415

    status.tolerate(sys.stdout, sys.stderr)
    mask = functools.cache(_mask)  # each line of a build goes through it

    def shown(text: str) -> str:
        return mask()(text)

    log.configure(sys.stderr, shown)
    return console.ended("adf-release", lambda: arguments.command(arguments, console.stopping()) or 0, "ops", shown)


def _mask() -> "Mask":
    """Shows a text as a build's log may have it: GitHub, a proxy or a registry may quote what it was sent."""
    from pathlib import Path  # noqa: PLC0415

    from adf_agent import engine, mask  # noqa: PLC0415

    hide = mask.Mask()
    hide.add([*mask.secretive(os.environ), *engine.logins(Path.home() / ".docker")])
    return hide


def parser() -> argparse.ArgumentParser:
    """The words of every command."""
    parser = argparse.ArgumentParser(
        prog="adf-release", description="Releases: made, built once, verified.", formatter_class=Layout
    )
    parser.add_argument("--version", action="version", version=f"adf-release {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    made = _command(commands, "create", _create, "make a release of a git commit, and deliver it")
    made.add_argument("--ref", default="HEAD", metavar="REF", help="a commit, branch or tag (%(default)s)")
    made.add_argument("--name", metavar="NAME", help="the release's; else the tag on the commit, else 12 of its digits")
    places = "a folder (the current one), s3://bucket/prefix, or github:owner/repository"
    made.add_argument("--to", default=".", metavar="PLACE", help=places)
    made.add_argument("--sign", metavar="KEYFILE", help="minisign's secret key: its signature is delivered too")
    made.add_argument("--allow-dirty", action="store_true", help="leave out what is not committed, knowingly")
    _time(made)
    built = _command(commands, "build", _build, "build a release's image once, and push it to a registry")
    built.description = (
        f"{built.description} Prints the image's own RELEASE_URL. What the repository has of this release already is "
        "not built again. The Docker engine is left as it was, but for the builder's cache; logins are Docker's own."
    )
    built.add_argument("url", metavar="RELEASE_URL")
    built.add_argument("--push", required=True, metavar="REGISTRY/REPOSITORY", help="where the image goes")
    built.add_argument("--builder", choices=["auto", "buildkit", "classic"], default="auto", help="as ADF_BUILDER")
    _bounds(built)
    checked = _command(commands, "verify", _verify, "find what an instance would refuse, before it does")
    checked.add_argument("url", metavar="RELEASE_URL")
    text = "what the AMI has as ADF_RELEASE_KEYS: by one of them it must be signed"
    checked.add_argument("--key", type=_keys, default=(), metavar="KEYS", help=text)
    checked.add_argument("--json", action="store_true", help="for programs")
    _bounds(checked)
    for name, lines in EXAMPLES.items():
        exemplify(commands.choices[name], *lines)
    return parser


def _command(commands: "Any", name: str, run: "Callable[..., int | None]", text: str) -> argparse.ArgumentParser:
    about = text[0].upper() + text[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=about, formatter_class=Layout)
    parser.set_defaults(command=run)
    return parser


def _time(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timeout", type=_duration, default="15m", metavar="TIME", help="for all of it (%(default)s)")


def _bounds(parser: argparse.ArgumentParser) -> None:
    """The options that say how long it may take and how much a release may hold, as a boot's settings do."""
    _time(parser)
    text = "what the AMI sets as ADF_ARCHIVE_LIMIT, if anything: members=200000,bytes=10g,ratio=250"
    parser.add_argument("--archive-limit", type=_limits, default="", metavar="LIMITS", help=text)


def _duration(text: str) -> float:
    from adf_agent import notation  # noqa: PLC0415

    return float(_told(lambda: notation.duration(text)))


def _limits(text: str) -> "Limits":
    from adf_agent import notation  # noqa: PLC0415

    limits: Limits = _told(lambda: notation.Limits.parse(text))
    return limits


def _keys(text: str) -> "tuple[Key, ...]":
    from adf_agent import signature  # noqa: PLC0415

    keys: tuple[Key, ...] = _told(lambda: signature.keys(text))
    return keys


def _told(parse: "Callable[[], Any]") -> "Any":
    """What *parse* returns; what it refuses is said as it says it, which argparse does of this one error alone."""
    try:
        return parse()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _create(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.deadline import Deadline  # noqa: PLC0415
    from adf_agent.ops.release import create  # noqa: PLC0415

    deadline = Deadline(arguments.timeout, stop)
    sign, allow_dirty = arguments.sign, arguments.allow_dirty
    made = create.create(arguments.ref, arguments.name, arguments.to, deadline, sign=sign, allow_dirty=allow_dirty)
    print(f"RELEASE_URL={made}")


def _build(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.deadline import Deadline  # noqa: PLC0415
    from adf_agent.ops.release import build  # noqa: PLC0415

    deadline = Deadline(arguments.timeout, stop)
    print(build.build(arguments.url, arguments.push, arguments.builder, arguments.archive_limit, deadline))


def _verify(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.deadline import Deadline  # noqa: PLC0415
    from adf_agent.ops.release import verify  # noqa: PLC0415

    deadline = Deadline(arguments.timeout, stop)
    verify.verify(arguments.url, arguments.archive_limit, arguments.key, deadline, as_json=arguments.json)
