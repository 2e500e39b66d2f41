"""The command line, and the one place where clients are made.

What only one command needs is imported there.
"""

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adf_agent import __version__, status
from adf_agent.errors import AgentError, Stopped
from adf_agent.root import Root

if TYPE_CHECKING:
    from adf_agent.deadline import Deadline
    from adf_agent.launch import Launch

ASK_SECONDS = 10.0  # for IMDS, where a person waits for an answer


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parser().parse_args(argv)
    status.tolerate(sys.stdout, sys.stderr)
    try:
        code: int = arguments.command(arguments, Root(Path(os.environ.get("ADF_ROOT") or "/")))
    except AgentError as error:
        print(f"adf-agent: {error.sentence}", *filter(None, [error.hint]), sep="\n  → ", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        sys.stderr.close()  # somebody's `head`; nothing is left to say, and Python would complain at its exit
        return 128 + signal.SIGPIPE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="adf-agent", description="Boots this instance's release and tells how it is.")
    parser.add_argument("--version", action="version", version=f"adf-agent {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _command(commands, "boot", _boot, "boot the release of RELEASE_URL, then exit; the container goes on")
    # Listed here; __main__ takes it straight to its module.
    commands.add_parser("status", help=status.MEANING[0].lower() + status.MEANING[1:])
    shown = _command(commands, "settings", _settings, "the settings in force, each with its source")
    shown.add_argument("--json", action="store_true", help="for programs")
    shown = _command(commands, "config", _config, "the config that a container would get now: names, never values")
    shown.add_argument("--json", action="store_true", help="for programs")
    return parser


def _command(commands: Any, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=run)
    return parser


def _settings(arguments: argparse.Namespace, root: Root) -> int:
    launched = _launch(root)
    shown = launched.settings.shown()
    if arguments.json:
        print(json.dumps(shown, indent=1))
        return 0
    for name, setting in shown.items():
        print(f"{name:<20} {setting['source']:<10} {'' if setting['value'] is None else setting['value']}")
    for warning in launched.warnings:
        print(f"adf-agent: {warning}", file=sys.stderr)
    return 0


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
    from adf_agent import boot, launch, log, record, state  # noqa: PLC0415
    from adf_agent.deadline import Deadline  # noqa: PLC0415

    log.configure(sys.stderr)
    state.prepare(root)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with state.only_agent(root):
        written = record.Record(root, "boot")
        try:
            boot.boot(Clients(root), written, state.Ledger(root), Deadline(launch.patience(root), stop))
        except AgentError as error:
            written.fail(error)
            return error.exit_code
        except Stopped:
            written.add(phase="stopped")
            return 128 + signal.SIGTERM
        except Exception as error:
            hint = "This is a fault of adf-agent's: please report it, with the lines of its log."
            written.fail(AgentError(f"unexpected: {type(error).__name__}", hint=hint))
            raise
        written.add(phase="in service")
    return 0


def _asking() -> "Deadline":
    from adf_agent.deadline import Deadline  # noqa: PLC0415

    return Deadline(ASK_SECONDS, threading.Event())


def _launch(root: Root) -> "Launch":
    from adf_agent import launch, log  # noqa: PLC0415

    log.configure(sys.stderr)
    clients = Clients(root)
    deadline = _asking()
    return launch.read(root, clients.metadata(deadline), clients.ec2, None, deadline)


class Clients:
    """The clients of this machine: boot's Host. One boto3 session, each client made when it is first asked for."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self._session: Any = None
        self._lock = threading.Lock()
        # Registry logins and credential helpers are Docker's own; the SDK and the docker command read the same ones.
        os.environ.setdefault("DOCKER_CONFIG", str(root.etc / "docker"))

    def metadata(self, deadline: "Deadline") -> Any:
        from adf_agent.instance import ENDPOINT, Metadata  # noqa: PLC0415

        return Metadata(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ENDPOINT, deadline)

    def docker(self, timeout: float) -> Any:
        import docker  # noqa: PLC0415

        return docker.DockerClient.from_env(timeout=timeout)

    def ec2(self, region: str) -> Any:
        return self._aws("ec2", region)

    def s3(self, region: str) -> Any:
        return self._aws("s3", region)

    def config(self, region: str) -> Any:
        from adf_agent.config import Clients as ConfigClients  # noqa: PLC0415

        return ConfigClients(
            region=region,
            dynamodb=self._aws("dynamodb", region),
            kms=lambda: self._aws("kms", region),
            ssm=lambda: self._aws("ssm", region),
            secretsmanager=lambda: self._aws("secretsmanager", region),
        )

    def _aws(self, service: str, region: str) -> Any:
        """A client of *service*, for AWS_REGION or the instance's *region*. Raises AgentError without credentials."""
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        with self._lock:  # making a client is not safe among threads
            self._session = self._session or boto3.session.Session(region_name=os.environ.get("AWS_REGION") or region)
            if self._session.get_credentials() is None:
                self._session = None  # it would not look again
                raise AgentError(
                    "there are no AWS credentials",
                    hint="Attach an instance profile to the instance.",
                    cause="dependency",
                    transient=True,  # a profile's reach IMDS some seconds after the start
                )
            return self._session.client(
                service, config=Config(retries={"mode": "standard"}, connect_timeout=5, read_timeout=20)
            )
