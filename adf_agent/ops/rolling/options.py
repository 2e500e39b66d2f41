"""The words of `adf-roll`: commands, options, and what of them can be meant."""

import argparse
import re
import sys

from adf_agent import __version__
from adf_agent.layout import Layout, exemplify

TYPE_CHECKING = False  # as in typing, which takes `--help` longer to import than much of what it does
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from adf_agent.ops.rolling.wishes import Wishes

WHOLE = 100  # percent
EXAMPLES = {
    "plan": ["adf-roll plan web s3://releases/web/v43.tar.gz"],
    "start": [
        "adf-roll start web s3://releases/web/v43.tar.gz --canary 10% --bake 5m --alarm web-errors",
        "adf-roll start web docker://registry.example.com/web:v43 --check ./smoke-test --clean",
        "adf-roll start web --image ami-0123456789abcdef0 --yes --detach --alarm web-errors",
    ],
    "watch": ["adf-roll watch web", "adf-roll watch web --json | jq .event"],
    "status": ["adf-roll status web"],
    "back": ["adf-roll back web --batch 50%"],
}


def parse(words: "Sequence[str]") -> argparse.Namespace:
    """What *words* say: *command* is its name. Ends the process with the usage where that can't be meant."""
    known = parser()
    arguments = known.parse_args(words)
    if wrong := _wrong(arguments):
        known.error(wrong)
    return arguments


def wishes(arguments: argparse.Namespace) -> "Wishes":
    """What the words of `start` or `plan` ask for."""
    from adf_agent.ops.rolling.wishes import Wishes  # noqa: PLC0415

    return Wishes(
        group=arguments.group,
        url=arguments.url,
        name=arguments.name,
        image=arguments.image or "",
        replace=arguments.replace,
        canary=arguments.canary,
        bake=arguments.bake,
        check=arguments.check,
        alarms=tuple(dict.fromkeys(arguments.alarm)),
        clean=getattr(arguments, "clean", False),
        batch=arguments.batch,
    )


def _wrong(arguments: argparse.Namespace) -> str:
    """Why *arguments* can't be meant; "" where they can."""
    if arguments.command in ("start", "plan") and (wrong := _wrong_wishes(arguments)):
        return wrong
    if arguments.command in ("start", "back") and not arguments.yes and not _terminal():
        return "nobody can be asked here: say --yes"
    if arguments.command == "start" and arguments.detach:
        return _unguarded(arguments)
    return ""


def _wrong_wishes(arguments: argparse.Namespace) -> str:
    from adf_agent.location import NAME  # noqa: PLC0415

    if not (arguments.url or arguments.image or arguments.replace):
        return "roll to what? A RELEASE_URL, --image AMI, or --replace to renew every instance as it is"
    if arguments.name and not arguments.url:
        return "--name is that of a release: give its RELEASE_URL too"
    if arguments.name and not re.fullmatch(NAME, arguments.name):
        return f"{arguments.name!r} is no name of a release: 1 to 100 of A-Z a-z 0-9 . _ -"
    if arguments.check and not arguments.bake:
        return "--check has no time to run: give it a --bake"
    if getattr(arguments, "clean", False) and not arguments.url:
        return "--clean is for the config of a release that goes: give the RELEASE_URL of another"
    return ""


def _unguarded(arguments: argparse.Namespace) -> str:
    """Why nobody may leave the roll alone."""
    if arguments.check:
        return "--check runs here, and --detach leaves: give one of them"
    if arguments.clean:
        return "--clean is done here at the end, and --detach leaves: give one of them"
    return "" if arguments.alarm else "--detach leaves the canary to alarms, and there is none: give an --alarm"


def _terminal() -> bool:
    return bool(sys.stdin) and sys.stdin.isatty()


def parser() -> argparse.ArgumentParser:
    """The words of every command."""
    text = (
        "A release onto an Auto Scaling group: a canary first, then the rest. EC2 Auto Scaling's own instance refresh "
        "does it, and goes on when this ends. Exit codes: 0 done, 1 rolled back or failed, 2 usage, 3 refused, "
        "4 detached or under way; `back` ends 0 where it went back."
    )
    parser = argparse.ArgumentParser(prog="adf-roll", description=text, formatter_class=Layout)
    parser.add_argument("--version", action="version", version=f"adf-roll {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _wished(_command(commands, "plan", "what a roll would change, and what would go wrong; changes nothing"))
    started = _wished(_command(commands, "start", "roll, and watch over it until it ends"))
    started.add_argument("--clean", action="store_true", help="then remove the config that only the former release had")
    started.add_argument("--detach", action="store_true", help="leave once it has started: alarms alone guard it")
    _yes(started)
    _command(commands, "watch", "join a roll: watch over it until it ends")
    _command(commands, "status", "one look at the roll, or at how the last one ended")
    back = _command(commands, "back", "to the release before: a rollback during a roll, a new roll after it")
    _batch(back)
    _yes(back)
    for name, lines in EXAMPLES.items():
        exemplify(commands.choices[name], *lines)
    return parser


def _command(commands: "Any", name: str, text: str) -> argparse.ArgumentParser:
    about = text[0].upper() + text[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=about, formatter_class=Layout)
    parser.set_defaults(command=name)
    parser.add_argument("group", metavar="GROUP", help="the Auto Scaling group")
    parser.add_argument("--json", action="store_true", help="for programs: an event a line")
    return parser


def _wished(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options that say what a roll is to be."""
    parser.add_argument("url", nargs="?", default="", metavar="RELEASE_URL")
    parser.add_argument("--name", default="", metavar="NAME", help="the release's; derived from the URL without it")
    parser.add_argument("--image", type=_image, metavar="AMI", help="another image: ami-...")
    parser.add_argument("--replace", action="store_true", help="renew every instance, though nothing else changes")
    parser.add_argument("--canary", default="1", type=_canary, metavar="N", help="instances, or N%% (%(default)s)")
    parser.add_argument("--bake", default="2m", type=_seconds, metavar="TIME", help="to judge it (%(default)s)")
    parser.add_argument("--check", default="", metavar="CMD", help="run by a shell, with ADF_CANARY set; 0 is well")
    parser.add_argument("--alarm", action="append", default=[], metavar="NAME", help="in ALARM it all goes back")
    _batch(parser)
    return parser


def _batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", default="10%", type=_percent, metavar="N%", help="launched at once (%(default)s)")


def _yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _image(text: str) -> str:
    if not re.fullmatch(r"ami-[0-9a-f]{8,17}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no AMI: write ami-..., no alias, which can't be rolled back to")
    return text


def _canary(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,3}|(?:100|[1-9]\d?)%", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of instances nor a percentage")
    return text


def _percent(text: str) -> int:
    form = re.fullmatch(r"(\d{1,3})%?", text, re.ASCII)
    if not form or not 1 <= int(form[1]) <= WHOLE:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage: 1% to 100%")
    return int(form[1])


def _seconds(text: str) -> int:
    from adf_agent import notation  # noqa: PLC0415

    try:
        return int(notation.duration(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
