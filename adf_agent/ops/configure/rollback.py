"""An app's config as it was at an earlier revision."""

from collections.abc import Iterator
from functools import partial

from adf_agent.ops.app import App
from adf_agent.ops.configure import edit, history
from adf_agent.ops.configure.edit import Change
from adf_agent.ops.configure.history import Revision
from adf_agent.ops.configure.writer import Writer
from adf_agent.table import Snapshot

STEPS = "Allow several changes by --in-batches; an instance that boots in between gets a part of it."


def rollback(app: App, number: int, if_revision: int | None, *, in_batches: bool) -> Iterator[Revision]:
    """Each revision that was written to have it so; none where it is. Raises ConfigError."""
    writer, what, look = Writer(app, if_revision), f"rollback {number}", partial(_look, app, number)
    return writer.write_all(what, look) if in_batches else iter(writer.write(what, look, STEPS))


def _look(app: App, number: int) -> tuple[Snapshot, Change]:
    places = {app.name, *_places(app, number)}
    seen = app.table.snapshot(app.name, places)
    # The history after the snapshot: of what the snapshot has seen, nothing is missing in it.
    revisions = [each for each in history.since(app.table, app.name, number) if each.number <= (seen.revision or 0)]
    return seen, edit.restored(seen, revisions, number)


def _places(app: App, number: int) -> Iterator[str]:
    """The partitions that were changed since; one that another writer adds meanwhile moves the revision on."""
    return (place for each in history.since(app.table, app.name, number) for place, _ in each.changes)
