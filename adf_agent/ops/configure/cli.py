"""The command `adf-config`: an app's config, looked at and changed. What only one command needs is imported there."""

import argparse
import sys

from adf_agent.ops.configure import options

TYPE_CHECKING = False  # as in typing, which takes `--help` longer to import than much of what it does
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from adf_agent.ops.app import App
    from adf_agent.ops.configure.edit import Change
    from adf_agent.ops.configure.entries import Entries
    from adf_agent.ops.configure.history import Revision
    from adf_agent.table import Snapshot

SECONDS = 300.0  # for all that AWS is asked: fifty writers at once take turns


def main(argv: "Sequence[str] | None" = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = options.parse(sys.argv[1:] if argv is None else argv)
    from adf_agent import console, log, status  # noqa: PLC0415

    out: Any = sys.stdout
    if out:  # none where it is closed
        out.reconfigure(encoding="utf-8")  # as a container gets it, whatever this terminal's locale
    status.tolerate(sys.stderr)
    log.configure(sys.stderr)

    def run() -> int:
        COMMANDS[arguments.command](_app(arguments), arguments)
        return 0

    return console.ended("adf-config", run, "ops")


def _app(arguments: argparse.Namespace) -> "App":
    import threading  # noqa: PLC0415

    from adf_agent.deadline import Deadline  # noqa: PLC0415
    from adf_agent.ops.account import Account  # noqa: PLC0415
    from adf_agent.ops.app import App  # noqa: PLC0415

    account = Account()
    # Nothing sets the event: a change is whole or not there, so Ctrl-C may end anything at once, also a question.
    return App(arguments.app, account.table(arguments.table), account, Deadline(SECONDS, threading.Event()))


def _list(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops.configure import view  # noqa: PLC0415

    view.show(app, arguments.release, reveal=arguments.reveal, as_json=arguments.json)


def _get(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops.configure import view  # noqa: PLC0415

    print(view.value(app, arguments.release, arguments.name, reveal=arguments.reveal))


def _diff(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops.configure import compare  # noqa: PLC0415

    sides = arguments.releases
    if arguments.file:
        found = compare.with_file(app, sides, arguments.file, arguments.format, reveal=arguments.reveal)
    else:
        found = compare.releases(app, sides, reveal=arguments.reveal)
    compare.show(found, as_json=arguments.json)


def _export(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops.configure import envfile, held  # noqa: PLC0415

    seen = app.seen(arguments.release)
    resolved = app.resolved(arguments.release, seen)
    held.doubt(app, arguments.release, seen)
    sys.stdout.write(envfile.write(resolved.environment(), arguments.format))


def _history(app: "App", arguments: argparse.Namespace) -> None:
    import json  # noqa: PLC0415

    from adf_agent.ops.configure import history  # noqa: PLC0415

    found = history.latest(app.table, app.name, arguments.limit)
    if arguments.json:
        print(json.dumps([history.shown(each) for each in found], indent=1))
    else:
        print(*history.lines(found), sep="\n", end="\n" if found else "")
    if not found:
        print(f"no change of {app.name} is known", file=sys.stderr)


def _set(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops.configure import entries  # noqa: PLC0415

    plain, references = entries.pairs(arguments.pairs), entries.pairs(arguments.ref)
    entries.check_once([*plain, *references, *arguments.secret])
    new = {**entries.plain(plain), **entries.referred(references)}
    _assign(app, arguments, new, entries.ask(arguments.secret), "set")


def _import(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops.configure import entries, envfile  # noqa: PLC0415

    texts = envfile.load(arguments.file, arguments.format)
    secrets, what = entries.chosen(texts, arguments.secret), f"import {arguments.file}"
    _assign(app, arguments, entries.plain(texts), secrets, what)


def _assign(app: "App", arguments: argparse.Namespace, new: "Entries", secrets: "Mapping[str, str]", what: str) -> None:
    from adf_agent.ops.configure import edit, entries  # noqa: PLC0415

    new = {**new, **entries.encrypted(app, secrets, arguments.kms_key)}
    release, bound = arguments.release, arguments.if_revision
    _change(app, release, what, lambda seen: edit.assigned(app.name, release, seen, new), bound)


def _unset(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops.configure import edit  # noqa: PLC0415

    what, decide = ("hide", edit.hidden) if arguments.hide else ("unset", edit.removed)
    release, bound = arguments.release, arguments.if_revision
    _change(app, release, what, lambda seen: decide(app.name, release, seen, arguments.names), bound)


def _promote(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops.configure import edit  # noqa: PLC0415

    release, names = arguments.release, arguments.names
    # Two changes, as each may take all the keys that one can; what the release gets is the same after either.
    what, bound = f"promote {release}", arguments.if_revision
    _change(app, release, what, lambda seen: edit.promoted(app.name, release, seen, names), bound)
    _change(app, release, what, lambda seen: edit.emptied(app.name, release, seen, names))


def _change(
    app: "App", release: "str | None", what: str, decide: "Callable[[Snapshot], Change]", bound: "int | None" = None
) -> None:
    from adf_agent.ops.configure.writer import Writer  # noqa: PLC0415

    _tell(Writer(app, bound).change(what, release, decide))


def _rollback(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops.configure import rollback  # noqa: PLC0415

    _tell(rollback.rollback(app, arguments.revision, arguments.if_revision, in_batches=arguments.in_batches))


def _tell(written: "Iterable[Revision]") -> "list[Revision]":
    told = []
    for each in written:
        print(f"revision {each.number}: {each.summary}", flush=True)
        told.append(each)
    if not told:
        print("nothing to change", file=sys.stderr)
    return told


def _clean(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops.configure import cleaning  # noqa: PLC0415

    release = arguments.release
    planned = cleaning.plan(app, release)
    print(*cleaning.lines(app, release, planned), sep="\n", flush=True)
    if not arguments.yes:
        cleaning.confirm(f"remove them from {app.table.name}?")
    if written := _tell(cleaning.clean(app, release, planned)):
        print(cleaning.undo(app, written), file=sys.stderr)


def _init(app: "App", _: argparse.Namespace) -> None:
    from adf_agent.ops.configure import schema  # noqa: PLC0415

    for line in schema.make(app.table, app.account.client("dynamodb"), app.deadline):
        print(line, flush=True)


COMMANDS = {
    "list": _list,
    "get": _get,
    "set": _set,
    "unset": _unset,
    "diff": _diff,
    "history": _history,
    "rollback": _rollback,
    "promote": _promote,
    "clean": _clean,
    "import": _import,
    "export": _export,
    "init": _init,
}
