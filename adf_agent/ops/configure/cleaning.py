"""The clean-up after a roll: a former release's own keys go, once no instance runs it any more."""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

from adf_agent.errors import AgentError, ConfigError
from adf_agent.ops import fleet
from adf_agent.ops.app import App
from adf_agent.ops.configure import edit
from adf_agent.ops.configure.edit import Change
from adf_agent.ops.configure.held import one_line
from adf_agent.ops.configure.history import Revision
from adf_agent.ops.configure.writer import Writer
from adf_agent.table import Snapshot, own

NAMED = 5  # instances in a sentence


def plan(app: App, release: str) -> dict[str, str]:
    """The keys that would go, and why each. Raises ConfigError where there are none, or an instance runs *release*."""
    _refuse_live(app, release)
    return edit.why(app.name, release, app.seen(release))


def lines(app: App, release: str, planned: Mapping[str, str]) -> Iterator[str]:
    """The plan for people."""
    yield f"{len(planned)} keys of {own(app.name, release)}, which no other release reads, would go:"
    yield from (f"  {one_line(name):<40} {reason}" for name, reason in planned.items())


def clean(app: App, release: str, names: Collection[str]) -> Iterator[Revision]:
    """Removes *names*, in as many changes as it takes, and gives each revision. Raises ConfigError."""
    return Writer(app).write_all(f"clean {release}", partial(_look, app, release, names))


def _look(app: App, release: str, names: Collection[str]) -> tuple[Snapshot, Change]:
    _refuse_live(app, release)  # before each change: one may have been launched meanwhile
    seen = app.seen(release)
    return seen, edit.cleaned(app.name, release, seen, names)


def undo(app: App, written: Sequence[Revision]) -> str:
    """What to type to have *written* undone, and nothing else."""
    numbers = [each.number for each in written]
    if numbers != [*range(numbers[0], numbers[0] + len(numbers))]:
        return "others changed the config meanwhile: see `history` before a rollback"
    command = f"adf-config -a {app.name} rollback --in-batches --if-revision {numbers[-1]} {numbers[0] - 1}"
    return f"to undo it, as long as nothing else is changed: {command}"


def confirm(question: str) -> None:
    """Asks on standard error. Raises AgentError unless the answer is yes."""
    if not sys.stdin.isatty():
        raise AgentError("nobody can be asked here: nothing was changed", hint="Say --yes.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise AgentError("nothing was changed")


def _refuse_live(app: App, release: str) -> None:
    if found := fleet.live(app, release):
        names = ", ".join(f"{one_line(each.instance_id)} ({one_line(each.phase)})" for each in found[:NAMED])
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise ConfigError(
            f"{release} still runs on {names}{more}: nothing was removed",
            hint="Replace them first. An instance counts as gone two hours after its last sign, or out of its group.",
        )
