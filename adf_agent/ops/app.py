"""An app's config in the table, as an operator's commands reach it."""

from dataclasses import dataclass

from adf_agent import config
from adf_agent.config import AppConfig
from adf_agent.deadline import Deadline
from adf_agent.ops.account import Account
from adf_agent.table import Snapshot, Table, partitions


@dataclass(frozen=True)
class App:
    """The app *name* in *table*. All that AWS is asked is tried again until *deadline*. Raises ConfigError."""

    name: str
    table: Table
    account: Account
    deadline: Deadline

    def seen(self, *releases: str | None) -> Snapshot:
        """The base's items, and those of each release's overlay, all of one revision."""
        places = dict.fromkeys(place for each in (None, *releases) for place in partitions(self.name, each).values())
        return self.deadline.retry(lambda: self.table.snapshot(self.name, places))

    def resolved(self, release: str | None, seen: Snapshot) -> AppConfig:
        """What a container of *release* would get, secrets in the clear."""
        return config.resolved(self.name, release, seen, self.account.config(), self.deadline)
