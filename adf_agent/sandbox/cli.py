"""The command `adf-sandbox`: AWS and a fleet on loopback, to play with, to break, and to watch a delivery in."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adf_agent import __version__, console
from adf_agent.layout import Layout, exemplify
from adf_agent.sandbox import isolation

STARTED = time.monotonic()
SIZE = 6  # instances of the demo: enough for a canary and two more steps
FAULTS = """
  imds-401, imds-503, imds-silence [INSTANCE]   instance metadata; of every instance where none is named
  docker-hung [INSTANCE]                        Docker takes connections and is silent
  spot-notice [INSTANCE]                        two minutes' notice to one
  throttling [ACTION]                           AWS's calls, such as dynamodb:Query, autoscaling:*; or all
  bad-release, slow-start, dies-later           a release to roll out: one that exits, one that takes 20 s to start,
                                                one that ends after a minute; prints its RELEASE_URL
  alarm [NAME]                                  the CloudWatch alarm goes into ALARM
  refresh-failed [GROUP]                        the instance refresh under way fails, and so does a rollback
  none                                          takes back all but notices and releases
"""

EXAMPLES = {
    "demo": ["adf-sandbox demo", "adf-sandbox demo --instances 2 --broken"],
    "up": ['eval "$(adf-sandbox up --instances 3 &)"', 'eval "$(adf-sandbox up --user-data user-data &)"'],
    "fault": ["adf-sandbox fault spot-notice", "adf-sandbox fault throttling dynamodb:Query", "adf-sandbox fault none"],
    "down": ["adf-sandbox down"],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = parser().parse_args(argv)
    stop = console.stopping()
    return console.ended("adf-sandbox", lambda: arguments.command(arguments, stop), "sandbox")


def parser() -> argparse.ArgumentParser:
    """The words of every command."""
    about = "A fleet and its AWS on one machine."
    parser = argparse.ArgumentParser(prog="adf-sandbox", description=about, formatter_class=Layout)
    parser.add_argument("--version", action="version", version=f"adf-sandbox {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = _command(commands, "demo", _demo, "deliver two releases to a fleet under traffic, and take all away again")
    demo.add_argument("--instances", type=_size, default=SIZE, metavar="N", help=f"{SIZE} without it")
    demo.add_argument("--broken", action="store_true", help="the second release fails: its canary is rolled back")
    up = _command(commands, "up", _up, 'serve a fleet and its AWS until stopped: eval "$(adf-sandbox up &)"')
    up.add_argument("--instances", type=_size, metavar="N", help="of the group hello; 3 without it, 0 with --user-data")
    text = "of an instance to boot by hand; each boot reads it anew"
    up.add_argument("--user-data", type=Path, metavar="FILE", help=text)
    up.add_argument("--tag", type=_tag, action="append", metavar="KEY=VALUE", help="of that instance; may be repeated")
    up.add_argument("--port", type=int, default=0, help="of AWS; any free one without it")
    up.add_argument("--imds-port", type=int, default=0, metavar="PORT", help="of instance metadata; any free one")
    fault = _command(commands, "fault", _fault, "break something in the sandbox that this shell is in")
    fault.epilog = f"faults:{FAULTS}".rstrip()
    fault.add_argument("name", metavar="NAME")
    fault.add_argument("target", nargs="?", default="", metavar="TARGET")
    _command(commands, "down", _down, "end the sandbox that this shell is in, and take away all of it")
    for name, lines in EXAMPLES.items():
        exemplify(commands.choices[name], *lines)
    return parser


def _command(commands: Any, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    about = text[0].upper() + text[1:] + "."
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=about, formatter_class=Layout)
    parser.set_defaults(command=run)
    return parser


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is no tag: write KEY=VALUE")
    return key, value


def _size(text: str) -> int:
    most = 50  # agents of 70 MB on one machine
    if not (text.isdecimal() and int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of instances from 0 to {most}")
    return int(text)


def _demo(arguments: argparse.Namespace, stop: threading.Event) -> int:
    isolation.isolate()
    from adf_agent.sandbox import demo  # noqa: PLC0415  half a second; `--help` does without

    return demo.run(arguments.instances, stop, STARTED, broken=arguments.broken)


def _up(arguments: argparse.Namespace, stop: threading.Event) -> int:
    before = dict(os.environ)
    isolation.isolate()
    from adf_agent.sandbox import up  # noqa: PLC0415

    size = arguments.instances if arguments.instances is not None else (0 if arguments.user_data else 3)
    ports = arguments.port, arguments.imds_port
    up.run(size, arguments.user_data, dict(arguments.tag) if arguments.tag else None, ports, before, stop)
    return 0


def _fault(arguments: argparse.Namespace, _: threading.Event) -> int:
    from adf_agent.sandbox import control  # noqa: PLC0415

    print(control.ask(os.environ, "fault", arguments.name, arguments.target))
    return 0


def _down(_: argparse.Namespace, stop: threading.Event) -> int:
    from adf_agent.deadline import Deadline  # noqa: PLC0415
    from adf_agent.sandbox import control  # noqa: PLC0415

    print(control.end(os.environ, Deadline(control.END_SECONDS, stop)), file=sys.stderr)
    return 0
