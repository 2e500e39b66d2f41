"""The last boots of this instance, kept for `adf-agent analyze` to compare the next one with."""

import json
from collections.abc import Mapping
from typing import Any

import structlog

from adf_agent.errors import AgentError
from adf_agent.root import Root
from adf_agent.state import write

KEPT = 10
KEPT_PARTS = ("version", "agent", "phase", "since", "began", "seconds", "instance", "release", "stages", "error")
KEPT_STAGES = 40  # of a boot; it has eight
KEPT_TEXT = 300  # characters of one text
MOST_BYTES = 1 << 20  # of the file; more is none of ours
log = structlog.get_logger()


def keep(root: Root, parts: Mapping[str, Any]) -> None:
    """Adds a boot that has ended, *parts* of the record with `began` (epoch seconds) and `seconds`; 10 are kept.

    World-readable, as the record is. Where that can't be, on a full disk, the log says so and the boot goes on.
    """
    entry = {name: parts[name] for name in KEPT_PARTS if name in parts}
    entry = _cut({**entry, "stages": [dict(stage) for stage in entry["stages"][:KEPT_STAGES]]})
    ours = [boot for boot in load(root) if _id(entry) in ("", _id(boot))]  # a disk may come from another instance
    data = json.dumps({"schema": 1, "boots": [*ours, entry][-KEPT:]}, ensure_ascii=False, indent=1)
    try:
        write(root.var / "boots.json", data.encode(errors="replace"), 0o644)
    except AgentError as error:
        log.warning("history.not_written", reason=error.sentence)


def load(root: Root) -> list[dict[str, Any]]:
    """The boots that were kept, oldest first; none where there is no file, or none that makes sense."""
    try:
        with (root.var / "boots.json").open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))["boots"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
    boots = [boot for boot in found if isinstance(boot, dict)] if isinstance(found, list) else []
    return [boot for boot in boots if isinstance(boot.get("instance") or {}, dict)]


def _id(boot: Mapping[str, Any]) -> str:
    """Whose boot it was; "" where it failed before that was known."""
    return str((boot.get("instance") or {}).get("id", ""))


def _cut(value: Any) -> Any:
    """*value* with no text longer than KEPT_TEXT."""
    if isinstance(value, str):
        return value if len(value) <= KEPT_TEXT else f"{value[: KEPT_TEXT - 1]}…"
    if isinstance(value, dict):
        return {key: _cut(part) for key, part in value.items()}
    return [_cut(part) for part in value] if isinstance(value, list) else value
