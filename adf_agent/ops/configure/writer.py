"""A change of an app's config, written whole: its keys, the revision and the history in one transaction."""

import getpass
import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

from adf_agent import aws
from adf_agent.errors import ConfigError
from adf_agent.ops.app import App
from adf_agent.ops.configure import edit
from adf_agent.ops.configure.edit import Change
from adf_agent.ops.configure.history import Changed, Revision
from adf_agent.table import FORMS, REVISION, Attributes, Key, Snapshot

Look = Callable[[], tuple[Snapshot, Change]]  # what is there now, and what shall change
SEVERAL = "Make several changes of it; a file can be split."
# Of a transaction's parts: what another one at the same time, or too many of them, are answered with.
# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html
PASSING = {"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
ACTIONS = "dynamodb:PutItem, UpdateItem and DeleteItem"  # IAM knows a transaction by its parts
MOVED = "ConditionalCheckFailed"


class TransactsItems(Protocol):
    def transact_write_items(self, **request: Any) -> Any: ...


class _MovedError(Exception):
    """Another revision is in force than the one that was looked at."""


@dataclass(frozen=True)
class Writer:
    """Writes to *app*, only while it is at *if_revision* where that is given. Each call raises ConfigError."""

    app: App
    if_revision: int | None = None

    def write(self, what: str, look: Look, several: str = SEVERAL) -> list[Revision]:
        """What *look* wants changed, in one transaction; looked at again as often as others come first.

        Empty where nothing has to change. *several* says what to do where it is more than a transaction takes.
        """
        return self._write(what, look, several, self.if_revision)

    def _write(self, what: str, look: Look, several: str, bound: int | None) -> list[Revision]:
        return self.app.deadline.retry(lambda: self._attempt(what, look, several, bound))

    def _attempt(self, what: str, look: Look, several: str, bound: int | None) -> list[Revision]:
        seen, change = look()
        self._check_revision(seen, bound)
        change = edit.effective(change, seen)
        if not change:
            return []
        edit.check_size(change, seen, several)
        revision = _revision(seen, change, self._by, what)
        try:
            self._send(transaction(self.app, revision, change))
        except _MovedError as error:
            sentence, hint = f"others change {self.app.name} all the time", "Find out who, or try again later."
            raise ConfigError(sentence, hint=hint, transient=True) from error
        return [revision]

    def change(self, what: str, release: str | None, decide: Callable[[Snapshot], Change]) -> list[Revision]:
        """What *decide* makes of the base and the overlay of *release*."""

        def look() -> tuple[Snapshot, Change]:
            seen = self.app.seen(release)
            return seen, decide(seen)

        return self.write(what, look)

    def write_all(self, what: str, look: Look) -> Iterator[Revision]:
        """The same in as many transactions as it takes, each a revision of its own, told as soon as it is written."""

        def look_at_a_part() -> tuple[Snapshot, Change]:
            seen, change = look()
            return seen, edit.batch(change, seen)

        bound = self.if_revision
        while written := self._write(what, look_at_a_part, SEVERAL, bound):
            yield from written
            bound = None if bound is None else written[0].number

    def _send(self, request: dict[str, Any]) -> None:
        """Sent again with the same token: an answer that was lost does not make two revisions of it."""
        where = f"table {self.app.table.name} in {self.app.table.region}"
        client: TransactsItems = self.app.account.client("dynamodb")

        def send() -> None:
            try:
                client.transact_write_items(**request)
            except aws.faults() as error:
                reasons = _reasons(error)
                if reasons[:1] == [MOVED]:
                    raise _MovedError from error
                if reasons[1:2] == [MOVED]:
                    raise self._written_before() from error
                if PASSING.intersection(reasons):
                    hint = "Others write at the same time; try again."
                    raise ConfigError(f"{where} is busy", hint=hint, cause="dependency", transient=True) from error
                raise aws.fault(error, ConfigError, ACTIONS, where) from error

        self.app.deadline.retry(send)

    def _written_before(self) -> ConfigError:
        return ConfigError(
            f"the history of {self.app.name} has a later revision than {REVISION} says: somebody set that back by hand",
            hint=f"See the last revision with `history`, and give {REVISION} of {self.app.name} its number.",
        )

    @cached_property
    def _by(self) -> str:
        """Who writes: asked once, and only where there is something to write."""
        return self.app.account.caller()

    def _check_revision(self, seen: Snapshot, bound: int | None) -> None:
        if bound not in (None, seen.revision or 0):
            raise ConfigError(
                f"{self.app.name} is at revision {seen.revision or 0}, not {bound}: nothing was changed",
                hint="See `history` for what changed, and decide anew.",
            )


def transaction(app: App, revision: Revision, change: Change) -> dict[str, Any]:
    """The request that writes *change* as *revision*, where the app is still at the one before it."""
    table = app.table.name
    unmoved = "Revision = :former" if revision.number > 1 else "attribute_not_exists(Revision) OR Revision = :former"
    count = {
        "Key": _key((app.name, REVISION)),
        "UpdateExpression": "ADD Revision :one",
        "ConditionExpression": unmoved,
        "ExpressionAttributeValues": {":one": {"N": "1"}, ":former": {"N": str(revision.number - 1)}},
    }
    told = {"Item": revision.item(app.name), "ConditionExpression": "attribute_not_exists(App)"}
    parts = [_part(key, attributes) for key, attributes in change.items()]
    return {
        "TransactItems": [
            {action: {"TableName": table, **part}} for action, part in [("Update", count), ("Put", told), *parts]
        ],
        "ClientRequestToken": str(uuid.uuid4()),
    }


def _part(key: Key, attributes: Attributes | None) -> tuple[str, dict[str, Any]]:
    if attributes is None:
        return "Delete", {"Key": _key(key)}
    return "Put", {"Item": {**_key(key), **attributes}}


def _key(key: Key) -> dict[str, dict[str, str]]:
    return {"App": {"S": key[0]}, "Name": {"S": key[1]}}


def _revision(seen: Snapshot, change: Change, by: str, what: str) -> Revision:
    return Revision(
        number=(seen.revision or 0) + 1,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        by=by,
        origin=_printable(f"{_user()}@{socket.gethostname()}"),
        what=_printable(what),
        changes={key: Changed(seen.items.get(key), _form(attributes)) for key, attributes in change.items()},
    )


def _form(attributes: Attributes | None) -> str:
    return next((form for form in FORMS if form in (attributes or {})), "")


def _printable(text: str) -> str:
    """A file's or a user's name may hold anything, also bytes that are no text."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "?"


def _reasons(error: Exception) -> list[str]:
    """Why a transaction was cancelled, by its parts in their order: the revision, its history, the keys."""
    return [each.get("Code", "") for each in getattr(error, "response", {}).get("CancellationReasons", ())]
