"""The clean-up after a roll: a former release's own keys go, once no instance runs it any more."""

import sys
from collections.abc import Iterator
from functools import partial

from adf_agent.errors import AgentError, ConfigError
from adf_agent.ops import edit, fleet
from adf_agent.ops.app import App
from adf_agent.ops.history import Revision
from adf_agent.ops.writer import Writer
from adf_agent.table import Snapshot, partitions

NAMED = 5  # instances in a sentence


def plan(app: App, release: str) -> Iterator[str]:
    """What would go and why, line by line. Raises ConfigError where there is nothing, or an instance runs *release*."""
    _refuse_live(app, release)
    reasons = edit.why(app.name, release, app.seen(release))
    yield f"{len(reasons)} keys of {partitions(app.name, release)['overlay']}, which no other release reads, would go:"
    yield from (f"  {name:<40} {reason}" for name, reason in reasons.items())


def clean(app: App, release: str) -> list[Revision]:
    """Removes them, in as many changes as it takes. Raises ConfigError, and what has gone by then has its revisions."""
    # An overlay that is empty in the end is what was wanted; at the start it was refused by the plan.
    return Writer(app).write_all(f"clean {release}", partial(_look, app, release))


def _look(app: App, release: str) -> tuple[Snapshot, edit.Change]:
    _refuse_live(app, release)  # before each change: one may have been launched meanwhile
    seen = app.seen(release)
    return seen, edit.cleaned(app.name, release, seen)


def confirm(question: str) -> None:
    """Asks on standard error. Raises AgentError unless the answer is yes."""
    if not sys.stdin.isatty():
        raise AgentError("nobody can be asked here: nothing was changed", hint="Say --yes.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise AgentError("nothing was changed")


def _refuse_live(app: App, release: str) -> None:
    if found := fleet.live(app, release):
        names = ", ".join(f"{each.instance_id} ({each.phase})" for each in found[:NAMED])
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise ConfigError(
            f"{release} still runs on {names}{more}: nothing was removed",
            hint="Replace them first. An instance counts as gone two hours after its last sign, or out of its group.",
        )
