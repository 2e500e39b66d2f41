"""The command `adf-sandbox`: AWS on loopback to play with, and a whole boot in it to look at."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adf_agent import __version__, console
from adf_agent.errors import AgentError

if TYPE_CHECKING:
    from adf_agent.sandbox.cloud import Cloud

STARTED = time.monotonic()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    stop = console.stopping()
    return console.ended("adf-sandbox", lambda: arguments.command(arguments, stop), "sandbox")


def _explain(*lines: str) -> None:
    """To standard error: standard output is for a shell's eval, or for the demo."""
    print(f"adf-sandbox: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="adf-sandbox", description="An instance and its AWS on one machine.")
    parser.add_argument("--version", action="version", version=f"adf-sandbox {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(commands, "demo", _demo, "boot examples/hello, show how it went, and take everything away again")
    up = _command(commands, "up", _up, 'serve AWS and instance metadata until stopped: eval "$(adf-sandbox up &)"')
    up.add_argument("--user-data", type=Path, metavar="FILE", help="the instance's; each boot reads it anew")
    up.add_argument("--tag", type=_tag, action="append", metavar="KEY=VALUE", help="an instance tag; may be repeated")
    up.add_argument("--port", type=int, default=0, help="of AWS; any free one without it")
    up.add_argument("--imds-port", type=int, default=0, metavar="PORT", help="of instance metadata; any free one")
    return parser


def _command(commands: Any, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=run)
    return parser


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is no tag: write KEY=VALUE")
    return key, value


def _demo(arguments: argparse.Namespace, stop: threading.Event) -> int:  # noqa: ARG001  every command is called alike
    from adf_agent.sandbox import demo, machine  # noqa: PLC0415  half a second; `--help` does without

    machine.isolate()
    return demo.run(demo.hello(), stop, STARTED)


def _up(arguments: argparse.Namespace, stop: threading.Event) -> int:
    from adf_agent.sandbox import machine  # noqa: PLC0415

    before = dict(os.environ)
    machine.isolate()
    _check_readable(arguments.user_data)
    instance = machine.instance(arguments.user_data, dict(arguments.tag) if arguments.tag else None)
    with machine.folder() as root, _cloud(instance, arguments) as cloud:
        machine.furnish(cloud)
        print(machine.shell(machine.environment(cloud, root), before), flush=True)
        # At its end a shell's $( ) goes on, with this process in the background.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _explain(
            f"instance {instance.instance_id}, its metadata on {cloud.imds.endpoint}, AWS on {cloud.endpoint}",
            f"  in it: the bucket {machine.BUCKET}, the KMS key {machine.KEY}; until Ctrl-C or: kill {os.getpid()}",
        )
        stop.wait()
        removed = _clear(instance.instance_id, root)
    _explain(f"removed {', '.join([*removed, str(root)])}; AWS and metadata are gone")
    return 0


def _check_readable(path: Path | None) -> None:
    try:
        if path:
            path.read_bytes()
    except OSError as error:
        raise AgentError(f"{path} can't be read: {error.strerror}") from error


def _cloud(instance: Any, arguments: argparse.Namespace) -> "Cloud":
    import socket  # noqa: PLC0415

    from adf_agent.sandbox.cloud import Cloud  # noqa: PLC0415

    for port in (arguments.port, arguments.imds_port):
        try:
            socket.create_server(("127.0.0.1", port)).close()  # moto's server would wait for ever
        except (OSError, OverflowError) as error:
            raise AgentError(f"port {port} of 127.0.0.1 can't be had: {error}", hint="Choose another one.") from error
    return Cloud(instance, port=arguments.port, imds_port=arguments.imds_port)


def _clear(instance_id: str, root: Path) -> list[str]:
    from adf_agent.root import Root  # noqa: PLC0415
    from adf_agent.sandbox import machine  # noqa: PLC0415

    folders = Root(root)
    if not folders.var.exists():  # no agent ran: Docker holds nothing, and may not even be there
        return []
    return machine.clear(machine.engine(), instance_id, folders)
