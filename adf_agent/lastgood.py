"""The last config that an app was in service with, for a restart while the table can't be reached."""

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path

from adf_agent.config import AppConfig
from adf_agent.root import Root
from adf_agent.state import write


def _path(root: Root) -> Path:
    return root.var / "config.json"


def save(root: Root, instance_id: str, config: AppConfig) -> None:
    """Keeps *config*, secrets in the clear: for the agent's eyes only (0600)."""
    parts = {"instance_id": instance_id, **config.to_dict()}
    write(_path(root), json.dumps(parts).encode(), 0o600, durable=True)


def load(root: Root, instance_id: str, app: str, release: str) -> AppConfig | None:
    """What was saved for this very instance, app and release, else None."""
    try:
        parts = json.loads(_path(root).read_bytes())
        found = AppConfig.from_dict(parts)
        if not all(isinstance(text, str) for text in found.environment().values()):
            return None
        return found if (parts["instance_id"], found.app, found.release) == (instance_id, app, release) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def since(root: Root) -> str:
    """When it was saved, which is when it was in service last (UTC)."""
    with contextlib.suppress(OSError):
        return f"{datetime.fromtimestamp(_path(root).stat().st_mtime, UTC):%Y-%m-%dT%H:%MZ}"
    return "an unknown time"


def forget(root: Root) -> None:
    """Removes what was saved."""
    _path(root).unlink(missing_ok=True)
