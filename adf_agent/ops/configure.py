"""The command `adf-config`: an app's config, looked at and changed. What only one command needs is imported there."""

import argparse
import os
import sys

from adf_agent import __version__
from adf_agent.ops.layout import Layout

TYPE_CHECKING = False  # as in typing, which takes `--help` longer to import than much of what it does
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from adf_agent.ops.app import App
    from adf_agent.ops.edit import Change
    from adf_agent.ops.entries import Entries
    from adf_agent.ops.history import Revision
    from adf_agent.table import Snapshot

WHERE = ("-a", "--app", "-r", "--release", "--table")  # may stand before the command
SHORT = {"-l": "list", "-s": "set", "-d": "unset"}  # as the original adf-config had them
SECONDS = 300.0  # for all that AWS is asked: fifty writers at once take turns


def main(argv: "Sequence[str] | None" = None) -> int:
    """Runs one command and returns its exit code."""
    parser = _parser()
    arguments = parser.parse_args(_command_first([*(sys.argv[1:] if argv is None else argv)]))
    if not arguments.app and arguments.command is not _init:
        parser.error("which app? Name it by -a APP, or by ADF_APP in the environment")
    if arguments.command is _set and not (arguments.pairs or arguments.secret or arguments.ref):
        parser.error("set what? NAME=VALUE, --secret NAME or --ref NAME=ssm:/…")
    if arguments.command is _diff and len(arguments.releases) not in ((0, 1) if arguments.file else (1, 2)):
        parser.error("diff what? Two releases, one to compare with the base, or --file FILE with one or none")
    from adf_agent import console, log  # noqa: PLC0415

    log.configure(sys.stderr)
    return console.ended("adf-config", lambda: arguments.command(arguments, console.stopping()) or 0, "ops")


def _command_first(words: "list[str]") -> "list[str]":
    """The same with the command before the options that say where, and spelt out where it is the original's."""
    at = 0
    while at < len(words) and words[at].partition("=")[0] in WHERE:
        at += 1 if "=" in words[at] else 2
    return [*(SHORT.get(word, word) for word in words[at : at + 1]), *words[:at], *words[at + 1 :]]


def _parser() -> argparse.ArgumentParser:
    usage = "adf-config [-a APP] [-r RELEASE] [--table TABLE] COMMAND …"
    text = "An app's config: looked at and changed. APP may be named by ADF_APP, TABLE by ADF_CONFIG_TABLE."
    parser = argparse.ArgumentParser(prog="adf-config", usage=usage, description=text, formatter_class=Layout)
    parser.add_argument("--version", action="version", version=f"adf-config {__version__}")
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
    about = text[0].upper() + text[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=about, formatter_class=Layout)
    parser.set_defaults(command=run, release=None)
    app, table = os.environ.get("ADF_APP", ""), os.environ.get("ADF_CONFIG_TABLE") or "adf-config"
    parser.add_argument("-a", "--app", default=app, metavar="APP", help="the app (ADF_APP)")
    parser.add_argument("--table", default=table, metavar="TABLE", help="the table (ADF_CONFIG_TABLE, adf-config)")
    return parser


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
    import json  # noqa: PLC0415

    from adf_agent.ops import history  # noqa: PLC0415

    app = _app(arguments, stop)
    found = history.latest(app.table, app.name, arguments.limit)
    if arguments.json:
        print(json.dumps([history.shown(each) for each in found], indent=1))
    else:
        print(*history.lines(found), sep="\n")


def _set(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import entries  # noqa: PLC0415

    plain, references = entries.pairs(arguments.pairs), entries.pairs(arguments.ref)
    new = {**entries.plain(plain), **entries.referred(references)}
    _assign(_app(arguments, stop), arguments, new, entries.ask(arguments.secret), "set")


def _import(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import entries, envfile  # noqa: PLC0415

    texts = envfile.load(arguments.file, arguments.format)
    secrets, what = entries.chosen(texts, arguments.secret), f"import {arguments.file}"
    _assign(_app(arguments, stop), arguments, entries.plain(texts), secrets, what)


def _assign(app: "App", arguments: argparse.Namespace, new: "Entries", secrets: "Mapping[str, str]", what: str) -> None:
    from adf_agent.ops import edit, entries  # noqa: PLC0415

    new = {**new, **entries.encrypted(app, secrets, arguments.kms_key)}
    _change(app, arguments, what, lambda seen: edit.assigned(app.name, arguments.release, seen, new))


def _unset(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import edit  # noqa: PLC0415

    app, what, decide = _app(arguments, stop), "unset", edit.removed
    if arguments.hide:
        what, decide = "hide", edit.hidden
    _change(app, arguments, what, lambda seen: decide(app.name, arguments.release, seen, arguments.names))


def _promote(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import edit  # noqa: PLC0415

    app, release, names = _app(arguments, stop), arguments.release, arguments.names
    # Two changes, as each may take all the keys that one can; what the release gets is the same after either.
    _change(app, arguments, f"promote {release}", lambda seen: edit.promoted(app.name, release, seen, names))
    arguments.if_revision = None
    _change(app, arguments, f"promote {release}", lambda seen: edit.emptied(app.name, release, seen, names))


def _change(app: "App", arguments: argparse.Namespace, what: str, decide: "Callable[[Snapshot], Change]") -> None:
    from adf_agent.ops.writer import Writer  # noqa: PLC0415

    _tell(Writer(app, arguments.if_revision).change(what, arguments.release, decide))


def _rollback(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import rollback  # noqa: PLC0415

    app, number = _app(arguments, stop), arguments.revision
    _tell(rollback.rollback(app, number, arguments.if_revision, in_batches=arguments.in_batches))


def _tell(written: "list[Revision]") -> None:
    for each in written:
        print(f"revision {each.number}: {each.summary}", flush=True)
    if not written:
        print("nothing to change", file=sys.stderr)


def _clean(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import cleaning  # noqa: PLC0415

    app, release = _app(arguments, stop), arguments.release
    print(*cleaning.plan(app, release), sep="\n")
    if not arguments.yes:
        cleaning.confirm(f"remove them from {app.table.name}?")
    written = cleaning.clean(app, release)
    _tell(written)
    if written:
        undo = f"adf-config -a {app.name} rollback --in-batches {written[0].number - 1}"
        print(f"to undo it: {undo}", file=sys.stderr)


def _init(arguments: argparse.Namespace, stop: "threading.Event") -> None:
    from adf_agent.ops import schema  # noqa: PLC0415

    app = _app(arguments, stop)
    for line in schema.make(app.table, app.account.client("dynamodb"), app.deadline):
        print(line, flush=True)
