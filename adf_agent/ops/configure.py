"""The command `adf-config`: an app's config, looked at and changed. What only one command needs is imported there."""

import argparse
import os
import sys

from adf_agent import __version__

TYPE_CHECKING = False  # as in typing, which takes `--help` longer to import than much of what it does
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from typing import Any

    from adf_agent.ops.app import App
    from adf_agent.ops.writer import Writer

SHORT = {"-l": "list", "-s": "set", "-d": "unset"}  # as the original adf-config had them
SECONDS = 300.0  # for all that AWS is asked: fifty writers at once take turns


def main(argv: "Sequence[str] | None" = None) -> int:
    """Runs one command and returns its exit code."""
    parser = _parser()
    arguments = parser.parse_args(_long([*(sys.argv[1:] if argv is None else argv)]))
    if not arguments.app and arguments.command is not _init:
        parser.error("which app? Name it by -a APP, or by ADF_APP in the environment")
    from adf_agent import console, log  # noqa: PLC0415

    log.configure(sys.stderr)
    return console.ended("adf-config", lambda: arguments.command(arguments, console.stopping()) or 0, "ops")


def _long(words: "list[str]") -> "list[str]":
    """The same with the original's short form, where one is the command, spelt out."""
    first = next((at for at, word in enumerate(words) if word in SHORT or word in SHORT.values()), len(words))
    return [*words[:first], *(SHORT.get(word, word) for word in words[first : first + 1]), *words[first + 1 :]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="adf-config", description="An app's config: looked at and changed.")
    parser.add_argument("--version", action="version", version=f"adf-config {__version__}")
    _place(parser, os.environ.get("ADF_APP", ""), os.environ.get("ADF_CONFIG_TABLE") or "adf-config")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listed = _command(commands, "list", _list, "every key that a release gets, without secrets (also: -l)")
    _release(listed).add_argument("--reveal", action="store_true", help="show secrets too")
    _json(listed)
    got = _release(_command(commands, "get", _get, "one key's value, alone"))
    got.add_argument("name", metavar="NAME")
    got.add_argument("--reveal", action="store_true", help="also where it is a secret")
    _set_parser(_release(_writing(commands, "set", _set, "give keys values (also: -s)")))
    gone = _release(_writing(commands, "unset", _unset, "take keys away (also: -d)"))
    gone.add_argument("names", nargs="+", metavar="NAME")
    gone.add_argument("--hide", action="store_true", help="with -r: the release shall not get the base's key either")
    compared = _command(commands, "diff", _diff, "two releases, or base and a release, or either and a file")
    compared.add_argument("releases", nargs="*", metavar="RELEASE", help="two of them, or one to compare with the base")
    compared.add_argument("--file", metavar="FILE", help="compare the base, or the one RELEASE, with this file")
    _format(compared).add_argument("--reveal", action="store_true", help="compare and show secrets too")
    _json(compared)
    told = _json(_command(commands, "history", _history, "the changes, the latest first"))
    told.add_argument("--limit", type=_whole, default=20, metavar="N", help="how many (20)")
    back = _writing(commands, "rollback", _rollback, "have base and overlays again as they were at a revision")
    back.add_argument("revision", type=_whole, metavar="REVISION", help="as `history` shows it")
    back.add_argument("--in-batches", action="store_true", help="allow several changes, each of a revision of its own")
    promoted = _writing(commands, "promote", _promote, "make a release's own keys the base's")
    promoted.add_argument("release", metavar="RELEASE")
    promoted.add_argument("names", nargs="*", metavar="NAME", help="these alone; all of them without any")
    cleaned = _command(commands, "clean", _clean, "remove the keys that only a former release had")
    cleaned.add_argument("release", metavar="RELEASE")
    cleaned.add_argument("--yes", action="store_true", help="do not ask")
    taken = _release(_writing(commands, "import", _import, "give keys the values in a file"))
    taken.add_argument("file", metavar="FILE", help="- for standard input")
    _secret(_format(taken), "of those in the file: encrypt it")
    _format(_release(_command(commands, "export", _export, "what a container would get, secrets in the clear")))
    _command(commands, "init", _init, "make the table: on-demand, TTL, point-in-time recovery")
    return parser


def _command(commands: "Any", name: str, run: "Callable[..., int | None]", text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=run, release=None)
    _place(parser, argparse.SUPPRESS, argparse.SUPPRESS)  # before the command or after it
    return parser


def _place(parser: argparse.ArgumentParser, app: str, table: str) -> None:
    parser.add_argument("-a", "--app", default=app, metavar="APP", help="the app (ADF_APP)")
    parser.add_argument("--table", default=table, metavar="TABLE", help="the table (ADF_CONFIG_TABLE, adf-config)")


def _release(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("-r", "--release", metavar="RELEASE", help="the overlay of this release; the base without it")
    return parser


def _writing(commands: "Any", name: str, run: "Callable[..., int | None]", text: str) -> argparse.ArgumentParser:
    parser = _command(commands, name, run, text)
    parser.add_argument("--if-revision", type=_whole, metavar="N", help="refuse where the app is at another revision")
    return parser


def _set_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pairs", nargs="*", metavar="NAME=VALUE")
    _secret(parser, "a secret, its value asked for or read from standard input")
    parser.add_argument("--ref", action="append", default=[], metavar="NAME=ssm:/…", help="a secret kept elsewhere")


def _secret(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--secret", action="append", default=[], metavar="NAME", help=text)
    parser.add_argument("--kms-key", default="alias/adf-config", metavar="KEY", help="encrypts secrets (%(default)s)")


def _format(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--format", choices=["env", "json"], default="env", help="of the file (%(default)s)")
    return parser


def _json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _app(arguments: argparse.Namespace, stop: "threading.Event") -> "App":
    from adf_agent.deadline import Deadline  # noqa: PLC0415
    from adf_agent.ops.account import Account  # noqa: PLC0415
    from adf_agent.ops.app import App  # noqa: PLC0415

    account = Account()
    return App(arguments.app, account.table(arguments.table), account, Deadline(SECONDS, stop))


def _list(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import view  # noqa: PLC0415

    view.show(_app(arguments, stop), arguments.release, reveal=arguments.reveal, as_json=arguments.json)


def _get(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import view  # noqa: PLC0415

    print(view.value(_app(arguments, stop), arguments.release, arguments.name, reveal=arguments.reveal))


def _diff(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import compare  # noqa: PLC0415

    app, sides = _app(arguments, stop), arguments.releases
    if arguments.file:
        found = compare.with_file(app, sides, arguments.file, arguments.format, reveal=arguments.reveal)
    else:
        found = compare.releases(app, sides, reveal=arguments.reveal)
    compare.show(found, as_json=arguments.json)


def _export(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import envfile  # noqa: PLC0415

    app = _app(arguments, stop)
    resolved = app.resolved(arguments.release, app.seen(arguments.release))
    sys.stdout.write(envfile.write(resolved.environment(), arguments.format))


def _history(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import history  # noqa: PLC0415

    history.show(_app(arguments, stop), arguments.limit, as_json=arguments.json)


def _set(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import edit, secrets  # noqa: PLC0415
