"""An app's config as it was at an earlier revision."""

from adf_agent.ops import edit, history
from adf_agent.ops.app import App
from adf_agent.ops.history import Revision
from adf_agent.ops.writer import Look, Writer
from adf_agent.table import Snapshot

STEPS = "Allow several changes by --in-batches; an instance that boots in between gets a part of it."


def rollback(app: App, number: int, if_revision: int | None, *, in_batches: bool) -> list[Revision]:
    """What was written to have it so; nothing where it is. Raises ConfigError."""
    writer, what, look = Writer(app, if_revision), f"rollback {number}", _look(app, number)
    return writer.write_all(what, look) if in_batches else writer.write(what, look, STEPS)


def _look(app: App, number: int) -> Look:
    def look() -> tuple[Snapshot, edit.Change]:
        revisions = history.since(app.table, app.name, number)
        places = dict.fromkeys([app.name, *(place for each in revisions for place, _ in each.changes)])
        seen = app.table.snapshot(app.name, places)
        return seen, edit.restored(seen, revisions, number)

    return look
