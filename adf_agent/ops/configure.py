"""The command `adf-config`: an app's config, looked at and changed. What only one command needs is imported there."""

import argparse
import sys

from adf_agent.ops import options

TYPE_CHECKING = False  # as in typing, which takes `--help` longer to import than much of what it does
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping, Sequence

    from adf_agent.ops.app import App
    from adf_agent.ops.edit import Change
    from adf_agent.ops.entries import Entries
    from adf_agent.ops.history import Revision
    from adf_agent.table import Snapshot

SECONDS = 300.0  # for all that AWS is asked: fifty writers at once take turns


def main(argv: "Sequence[str] | None" = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = options.parse(sys.argv[1:] if argv is None else argv)
    from adf_agent import console, log  # noqa: PLC0415

    log.configure(sys.stderr)
    stop = console.stopping()

    def run() -> int:
        COMMANDS[arguments.command](_app(arguments, stop), arguments)
        return 0

    return console.ended("adf-config", run, "ops")


def _app(arguments: argparse.Namespace, stop: "threading.Event") -> "App":
    from adf_agent.deadline import Deadline  # noqa: PLC0415
    from adf_agent.ops.account import Account  # noqa: PLC0415
    from adf_agent.ops.app import App  # noqa: PLC0415

    account = Account()
    return App(arguments.app, account.table(arguments.table), account, Deadline(SECONDS, stop))


def _list(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops import view  # noqa: PLC0415

    view.show(app, arguments.release, reveal=arguments.reveal, as_json=arguments.json)


def _get(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops import view  # noqa: PLC0415

    print(view.value(app, arguments.release, arguments.name, reveal=arguments.reveal))


def _diff(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops import compare  # noqa: PLC0415

    sides = arguments.releases
    if arguments.file:
        found = compare.with_file(app, sides, arguments.file, arguments.format, reveal=arguments.reveal)
    else:
        found = compare.releases(app, sides, reveal=arguments.reveal)
    compare.show(found, as_json=arguments.json)


def _export(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops import envfile  # noqa: PLC0415

    resolved = app.resolved(arguments.release, app.seen(arguments.release))
    sys.stdout.write(envfile.write(resolved.environment(), arguments.format))


def _history(app: "App", arguments: argparse.Namespace) -> None:
    import json  # noqa: PLC0415

    from adf_agent.ops import history  # noqa: PLC0415

    found = history.latest(app.table, app.name, arguments.limit)
    if arguments.json:
        print(json.dumps([history.shown(each) for each in found], indent=1))
    else:
        print(*history.lines(found), sep="\n", end="\n" if found else "")


def _set(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops import entries  # noqa: PLC0415

    plain, references = entries.pairs(arguments.pairs), entries.pairs(arguments.ref)
    entries.check_once([*plain, *references, *arguments.secret])
    new = {**entries.plain(plain), **entries.referred(references)}
    _assign(app, arguments, new, entries.ask(arguments.secret), "set")


def _import(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops import entries, envfile  # noqa: PLC0415

    texts = envfile.load(arguments.file, arguments.format)
    secrets, what = entries.chosen(texts, arguments.secret), f"import {arguments.file}"
    _assign(app, arguments, entries.plain(texts), secrets, what)


def _assign(app: "App", arguments: argparse.Namespace, new: "Entries", secrets: "Mapping[str, str]", what: str) -> None:
    from adf_agent.ops import edit, entries  # noqa: PLC0415

    new = {**new, **entries.encrypted(app, secrets, arguments.kms_key)}
    _change(app, arguments, what, lambda seen: edit.assigned(app.name, arguments.release, seen, new))


def _unset(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops import edit  # noqa: PLC0415

    what, decide = ("hide", edit.hidden) if arguments.hide else ("unset", edit.removed)
    _change(app, arguments, what, lambda seen: decide(app.name, arguments.release, seen, arguments.names))


def _promote(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops import edit  # noqa: PLC0415

    release, names = arguments.release, arguments.names
    # Two changes, as each may take all the keys that one can; what the release gets is the same after either.
    _change(app, arguments, f"promote {release}", lambda seen: edit.promoted(app.name, release, seen, names))
    arguments.if_revision = None
    _change(app, arguments, f"promote {release}", lambda seen: edit.emptied(app.name, release, seen, names))


def _change(app: "App", arguments: argparse.Namespace, what: str, decide: "Callable[[Snapshot], Change]") -> None:
    from adf_agent.ops.writer import Writer  # noqa: PLC0415

    _tell(Writer(app, arguments.if_revision).change(what, arguments.release, decide))


def _rollback(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops import rollback  # noqa: PLC0415

    _tell(rollback.rollback(app, arguments.revision, arguments.if_revision, in_batches=arguments.in_batches))


def _tell(written: "list[Revision]") -> None:
    for each in written:
        print(f"revision {each.number}: {each.summary}", flush=True)
    if not written:
        print("nothing to change", file=sys.stderr)


def _clean(app: "App", arguments: argparse.Namespace) -> None:
    from adf_agent.ops import cleaning  # noqa: PLC0415

    release = arguments.release
    print(*cleaning.plan(app, release), sep="\n")
    if not arguments.yes:
        cleaning.confirm(f"remove them from {app.table.name}?")
    written = cleaning.clean(app, release)
    _tell(written)
    if written:
        undo = f"adf-config -a {app.name} rollback --in-batches {written[0].number - 1}"
        print(f"to undo it: {undo}", file=sys.stderr)


def _init(app: "App", _: argparse.Namespace) -> None:
    from adf_agent.ops import schema  # noqa: PLC0415

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
