"""The words of `adf-config`: commands, options, and what of them can be meant."""

import argparse
import os
import re

from adf_agent import __version__
from adf_agent.layout import Layout, exemplify

TYPE_CHECKING = False  # as in typing, which takes `--help` longer to import than much of what it does
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

WHERE = ("-a", "--app", "-r", "--release", "--table")  # may stand before the command
SHORT = {"-l": "list", "-s": "set", "-d": "unset"}  # as the original adf-config had them

EXAMPLES = {
    "list": ["adf-config -a web list", "adf-config -a web -r v43 list --reveal"],
    "get": ["adf-config -a web get GREETING"],
    "set": [
        "adf-config -a web set GREETING=Hello LEVEL=info",
        "adf-config -a web -r v43 set --secret PASSWORD <password",
        "adf-config -a web set --ref TOKEN=ssm:/web/token",
    ],
    "unset": ["adf-config -a web unset LEVEL", "adf-config -a web -r v43 unset --hide LEVEL"],
    "diff": ["adf-config -a web diff v42 v43", "adf-config -a web diff --file .env"],
    "history": ["adf-config -a web history --limit 5"],
    "rollback": ["adf-config -a web rollback 17"],
    "promote": ["adf-config -a web promote v43"],
    "clean": ["adf-config -a web clean v42"],
    "import": ["adf-config -a web import .env --secret PASSWORD"],
    "export": ["adf-config -a web -r v43 export >.env"],
    "init": ["adf-config init", "adf-config init --table config-eu"],
}


def parse(words: "Sequence[str]") -> argparse.Namespace:
    """What *words* say: *command* is its name. Ends the process with the usage where that can't be meant."""
    known = parser()
    arguments = known.parse_args(_command_first([*words]))
    _check(known, arguments)
    return arguments


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Ends with the usage where *arguments* can't be meant."""
    from adf_agent.location import NAME  # noqa: PLC0415

    if arguments.command == "set" and not (arguments.pairs or arguments.secret or arguments.ref):
        parser.error("set what? NAME=VALUE, --secret NAME or --ref NAME=ssm:/...")
    if arguments.command == "diff" and len(arguments.releases) not in ((0, 1) if arguments.file else (1, 2)):
        parser.error("diff what? Two releases, one to compare with the base, or --file FILE with one or none")
    if not arguments.app and arguments.command != "init":
        parser.error("which app? Name it by -a APP, or by ADF_APP in the environment")
    for name in (arguments.app or None, arguments.release, *getattr(arguments, "releases", ())):
        if name is not None and not re.fullmatch(NAME, name):
            parser.error(f"{name!r} is no name of an app or a release: 1 to 100 of A-Z a-z 0-9 . _ -")


def _command_first(words: "list[str]") -> "list[str]":
    """The same with the command before the options that say where, and spelt out where it is the original's."""
    at = 0
    while at < len(words) and words[at].startswith(WHERE):
        at += 2 if words[at] in WHERE else 1  # -aweb, --app=web
    return [*(SHORT.get(word, word) for word in words[at : at + 1]), *words[:at], *words[at + 1 :]]


def parser() -> argparse.ArgumentParser:
    """The words of every command."""
    usage = "adf-config [-a APP] [-r RELEASE] [--table TABLE] COMMAND ..."
    text = "An app's config: looked at and changed. APP may be named by ADF_APP, TABLE by ADF_CONFIG_TABLE."
    parser = argparse.ArgumentParser(prog="adf-config", usage=usage, description=text, formatter_class=Layout)
    parser.add_argument("--version", action="version", version=f"adf-config {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", prog="adf-config")
    listed = _command(commands, "list", "every key that a release gets, without secrets (also: -l)")
    _release(listed).add_argument("--reveal", action="store_true", help="show secrets too")
    _json(listed)
    got = _release(_command(commands, "get", "one key's value, alone"))
    got.add_argument("name", metavar="NAME")
    got.add_argument("--reveal", action="store_true", help="also where it is a secret")
    _set_parser(_release(_writing(commands, "set", "give keys values (also: -s)")))
    gone = _release(_writing(commands, "unset", "take keys away (also: -d)"))
    gone.add_argument("names", nargs="+", metavar="NAME")
    gone.add_argument("--hide", action="store_true", help="with -r: the release shall not get the base's key either")
    compared = _command(commands, "diff", "two releases, or base and a release, or either and a file")
    compared.add_argument("releases", nargs="*", metavar="RELEASE", help="two of them, or one to compare with the base")
    compared.add_argument("--file", metavar="FILE", help="compare the base, or the one RELEASE, with this file")
    _format(compared).add_argument("--reveal", action="store_true", help="compare and show secrets too")
    _json(compared)
    told = _json(_command(commands, "history", "the changes, the latest first"))
    told.add_argument("--limit", type=_positive, default=20, metavar="N", help="how many (20)")
    back = _writing(commands, "rollback", "have base and overlays again as they were at a revision")
    back.add_argument("revision", type=_whole, metavar="REVISION", help="as `history` shows it")
    back.add_argument("--in-batches", action="store_true", help="allow several changes, each of a revision of its own")
    promoted = _writing(commands, "promote", "make a release's own keys the base's")
    promoted.add_argument("release", metavar="RELEASE")
    promoted.add_argument("names", nargs="*", metavar="NAME", help="these alone; all of them without any")
    cleaned = _command(commands, "clean", "remove the keys that only a former release had")
    cleaned.add_argument("release", metavar="RELEASE")
    cleaned.add_argument("--yes", action="store_true", help="do not ask")
    taken = _release(_writing(commands, "import", "give keys the values in a file"))
    taken.add_argument("file", metavar="FILE", help="- for standard input")
    _secret(_format(taken), "of those in the file: encrypt it")
    _format(_release(_command(commands, "export", "what a container would get, secrets in the clear")))
    _command(commands, "init", "make the table: on-demand, TTL, point-in-time recovery")
    for name, lines in EXAMPLES.items():
        exemplify(commands.choices[name], *lines)
    return parser


def _command(commands: "Any", name: str, text: str) -> argparse.ArgumentParser:
    about = text[0].upper() + text[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=about, formatter_class=Layout)
    parser.set_defaults(command=name, release=None)
    app, table = os.environ.get("ADF_APP", ""), os.environ.get("ADF_CONFIG_TABLE") or "adf-config"
    parser.add_argument("-a", "--app", default=app, metavar="APP", help="the app (ADF_APP)")
    parser.add_argument("--table", default=table, metavar="TABLE", help="the table (ADF_CONFIG_TABLE, adf-config)")
    return parser


def _release(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("-r", "--release", metavar="RELEASE", help="the overlay of this release; the base without it")
    return parser


def _writing(commands: "Any", name: str, text: str) -> argparse.ArgumentParser:
    parser = _command(commands, name, text)
    parser.add_argument("--if-revision", type=_whole, metavar="N", help="refuse where the app is at another revision")
    return parser


def _set_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pairs", nargs="*", metavar="NAME=VALUE")
    _secret(parser, "a secret, its value asked for or read from standard input")
    parser.add_argument("--ref", action="append", default=[], metavar="NAME=ssm:/...", help="a secret kept elsewhere")


def _secret(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--secret", action="append", default=[], metavar="NAME", help=text)
    parser.add_argument("--kms-key", default="alias/adf-config", metavar="KEY", help="encrypts secrets (%(default)s)")


def _format(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--format", choices=["env", "json"], default="env", help="of the file (%(default)s)")
    return parser


def _json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _positive(text: str) -> int:
    if not _whole(text):
        raise argparse.ArgumentTypeError("give 1 or more")
    return int(text)


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)
