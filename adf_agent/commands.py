"""What each command of `adf-agent` does. `cli` has the words; what only one of them needs is imported in it."""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adf_agent import status
from adf_agent.clients import Clients
from adf_agent.errors import AgentError, SettingsError, Stopped, unexpected
from adf_agent.root import Root
from adf_agent.screen import printable, start_command

if TYPE_CHECKING:
    from adf_agent.deadline import Deadline
    from adf_agent.launch import Launch
    from adf_agent.record import Record
    from adf_agent.state import Ledger

ASK_SECONDS = 10.0  # for IMDS, where a person waits for an answer


def _settings(arguments: argparse.Namespace, root: Root) -> int:
    try:
        launched = _launch(root)
    except SettingsError:
        _tell_sources(root)
        raise
    shown = launched.settings.shown()
    if arguments.json:
        print(json.dumps(shown, indent=1))
        return 0
    for name, setting in shown.items():
        print(f"{name:<20} {setting['source']:<10} {'' if setting['value'] is None else setting['value']}")
    for warning in launched.warnings:
        print(f"adf-agent: {warning}", file=sys.stderr)
    return 0


def _tell_sources(root: Root) -> None:
    """On standard error: what each source of settings holds, where they make no sense together."""
    from adf_agent import launch  # noqa: PLC0415

    for name, source, text in launch.given(root, Clients(root).metadata(_asking())):
        print(f"{name:<20} {source:<10} {printable(text)}".rstrip(), file=sys.stderr)


def _config(arguments: argparse.Namespace, root: Root) -> int:
    from adf_agent import config  # noqa: PLC0415

    launched = _launch(root)
    settings = launched.settings
    if settings.app is None:
        raise AgentError("no config is read here", hint="Set ADF_APP to name the app whose config is to be read.")
    clients = Clients(root).config(launched.identity.region)
    read = config.read(settings.app, settings.release, settings.config_table, clients, _asking())
    if arguments.json:
        kinds = {name: {"secret": value.secret, "from": value.origin} for name, value in read.values.items()}
        print(
            json.dumps({"app": read.app, "release": read.release, "revision": read.revision, "keys": kinds}, indent=1)
        )
        return 0
    for name in read.names:
        print(f"{name:<40} {read.values[name].origin:<8} {'secret' if read.values[name].secret else ''}".rstrip())
    print(read.fact, file=sys.stderr)
    return 0


def _boot(arguments: argparse.Namespace, root: Root) -> int:  # noqa: ARG001  every command is called alike
    from adf_agent import boot, launch, member, works  # noqa: PLC0415
    from adf_agent.deadline import Deadline  # noqa: PLC0415

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with only_agent(root, "boot") as (host, record, ledger):
        do, fleet = None, None
        try:
            do = boot.read(host, record, ledger, Deadline(launch.patience(root), stop))
            fleet = works.tell_fleet(do)
            boot.boot(do, member.Member(host, record, do.launched, do.launched.target))
            record.add(phase="warmed" if do.launched.warm else "in service")
        except AgentError as error:
            record.fail(error)
            if not (do and do.is_held()):
                works.give_up(host, record, ledger, do, error)
            return error.exit_code
        except Stopped:
            record.add(phase="stopped")
            return 128 + signal.SIGTERM
        finally:
            if fleet:
                fleet.close(works.CLOSE_SECONDS)
    return 0


def _run(arguments: argparse.Namespace, root: Root) -> int:  # noqa: ARG001
    import time  # noqa: PLC0415
    from queue import SimpleQueue  # noqa: PLC0415

    from adf_agent import launch, supervise  # noqa: PLC0415
    from adf_agent.notify import Notify  # noqa: PLC0415

    orders: SimpleQueue[supervise.Order] = SimpleQueue()  # its put may be called by a signal's handler
    asked: dict[int, supervise.Order] = {
        signal.SIGTERM: "stop",
        signal.SIGINT: "stop",
        signal.SIGHUP: "reload",
        signal.SIGUSR1: "drain",
    }
    for number in asked:
        signal.signal(number, lambda sent, _: orders.put(asked[sent]))
    notify = Notify.of_environment(os.environ, time.monotonic)
    with only_agent(root, "run") as (host, record, ledger):
        record.listen(notify.status)
        return supervise.Supervisor(host, record, ledger, notify, orders, launch.patience(root)).run()


@contextmanager
def only_agent(root: Root, mode: str) -> "Iterator[tuple[Clients, Record, Ledger]]":
    """Clients, record and state of the one agent of *root*; what nobody expected is written down.

    It is raised as an AgentError: Python would print its own text, which may hold anything, into the journal.
    """
    import structlog  # noqa: PLC0415

    from adf_agent import log, state  # noqa: PLC0415
    from adf_agent.record import Record  # noqa: PLC0415

    log.configure(sys.stderr)
    state.prepare(root)
    with state.only_agent(root):
        record = Record(root, mode)
        log.configure(sys.stderr, record.mask)
        try:
            yield Clients(root, record.mask.add), record, state.Ledger(root)
        except AgentError as error:  # before there was a boot to fail
            record.fail(error)
            error.sentence, error.hint = record.mask(error.sentence), record.mask(error.hint)
            raise
        except (Stopped, BrokenPipeError):  # no fault of anybody's
            raise
        except Exception as error:
            structlog.get_logger().error("unexpected", exc_info=error)
            fault = unexpected(error)
            record.fail(fault)
            raise fault from error


def _drain(arguments: argparse.Namespace, root: Root) -> int:
    from adf_agent import order  # noqa: PLC0415

    found = order.give(root, "drain")
    if found is None:
        return _no_agent()
    steps = (found.get("drain") or {}).get("steps", {})
    if arguments.json:
        print(json.dumps({"phase": found["phase"], "steps": steps}, indent=1))
    else:
        print(*(f"{seconds:8.2f} s  {step}" for step, seconds in steps.items()), "drained", sep="\n")
    return 0


def _reload(arguments: argparse.Namespace, root: Root) -> int:
    from adf_agent import order  # noqa: PLC0415

    found = order.give(root, "reload")
    if found is None:
        return _no_agent()
    shown = {"phase": found["phase"], "reload": found.get("reload")}
    print(json.dumps(shown, indent=1) if arguments.json else "reloaded")
    return 0


def _no_agent() -> int:
    print(f"adf-agent: no agent is running here\n  → {start_command()}", file=sys.stderr)
    return status.NO_AGENT


def _hold(arguments: argparse.Namespace, root: Root) -> int:
    from adf_agent import hold  # noqa: PLC0415

    if arguments.off:
        hold.end(root)
    else:
        hold.begin(root, arguments.duration)
    if arguments.json:
        print(json.dumps({"seconds": round(hold.left(root))}))
    elif arguments.off:
        print("a failing instance is no longer kept")
    else:
        until = f"for {arguments.duration:.0f} s from now"
        print(f"a failing instance is kept {until}; to let go: sudo adf-agent hold --off")
    return 0


def _doctor(arguments: argparse.Namespace, root: Root) -> int:
    from adf_agent.doctor import command  # noqa: PLC0415

    return command.main(root, arguments, print)


def _logs(arguments: argparse.Namespace, root: Root) -> int:
    from adf_agent import logs  # noqa: PLC0415

    logs.run(arguments, root)


def _analyze(arguments: argparse.Namespace, root: Root) -> int:
    from adf_agent import analyze  # noqa: PLC0415

    print(analyze.answer(arguments, root))
    return 0


def _asking() -> "Deadline":
    from adf_agent.deadline import Deadline  # noqa: PLC0415

    return Deadline(ASK_SECONDS, threading.Event())


def _launch(root: Root) -> "Launch":
    from adf_agent import launch, log  # noqa: PLC0415

    log.configure(sys.stderr)
    clients, deadline = Clients(root), _asking()
    return launch.read(root, clients.metadata(deadline), clients.ec2, None, deadline)


COMMANDS: dict[str, Callable[[argparse.Namespace, Root], int]] = {
    "run": _run,
    "boot": _boot,
    "settings": _settings,
    "config": _config,
    "drain": _drain,
    "reload": _reload,
    "hold": _hold,
    "doctor": _doctor,
    "logs": _logs,
    "analyze": _analyze,
}
