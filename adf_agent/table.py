"""The config table's format: its partitions, what an item may hold, the revision; and its items as of one revision."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol

from adf_agent.errors import ConfigError
from adf_agent.secret import Answer, asking, pages

Origin = Literal["base", "overlay"]
Form = Literal["Value", "Secret", "Ref", "Unset"]
Key = tuple[str, str]  # partition and name
Attributes = Mapping[str, Mapping[str, Any]]  # an item as DynamoDB has it, without its key: {"Value": {"S": "text"}}

SCHEMA = "hash key App (S) and range key Name (S)"
FORMS: dict[Form, str] = {"Value": "S", "Secret": "B", "Ref": "S", "Unset": "BOOL"}  # an item has one, of this type
REVISION = "#revision"


class DynamoDB(Protocol):
    def get_item(self, **request: Any) -> Answer: ...
    def query(self, **request: Any) -> Answer: ...


@dataclass(frozen=True)
class Snapshot:
    """The config items of some partitions of one app at *revision*, None in a table written by hand."""

    revision: int | None
    items: Mapping[Key, Attributes] = field(repr=False)


@dataclass(frozen=True)
class Table:
    """The config table *name* in *region*. Each call raises ConfigError, transient where it may pass."""

    name: str
    region: str
    client: DynamoDB

    def snapshot(self, app: str, places: Iterable[str]) -> Snapshot:
        """What the partitions *places* of *app* hold, in their order.

        A Query beside a transaction may see half of it: that none came between, only an unmoved revision says.
        """
        before = self.revision(app)
        items = {(place, name): attributes for place in places for name, attributes in self.items(place)}
        after = self.revision(app)
        if after != before:
            raise ConfigError(
                f"the config of {app} changed from revision {before} to {after} while it was read",
                hint="Something writes to it without a pause: find it.",
                transient=True,
            )
        return Snapshot(after, items)

    def revision(self, app: str) -> int | None:
        key = {"App": {"S": app}, "Name": {"S": REVISION}}
        with self.asking("GetItem"):
            item = self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True).get("Item")
        try:
            return None if item is None else int(item["Revision"]["N"])
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"item {REVISION} of {app} has no whole number (N) Revision", hint="Correct it."
            ) from error

    def items(self, place: str, after: str = "", most: int | None = None) -> list[tuple[str, Attributes]]:
        """Name and attributes of a partition's items, by name, but for those that are not config (`#…`).

        With *after* those of greater names alone; with *most* so many of the greatest, the greatest first.
        """
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": "App = :app",
            "ExpressionAttributeValues": {":app": {"S": place}},
            "ConsistentRead": True,
        }
        if after:
            request["KeyConditionExpression"] += " AND #name > :after"
            request["ExpressionAttributeNames"] = {"#name": "Name"}  # a reserved word
            request["ExpressionAttributeValues"][":after"] = {"S": after}
        if most is not None:
            request |= {"Limit": most, "ScanIndexForward": False}
        with self.asking("Query"):
            answers = pages(self.client.query, request, "LastEvaluatedKey", "ExclusiveStartKey")
            found = (_parted(item) for page in answers for item in page["Items"] if item["Name"]["S"][:1] != "#")
            return [*islice(found, most)]

    def asking(self, action: str) -> AbstractContextManager[None]:
        where, another = f"{self.name} in {self.region}", "name another one by ADF_CONFIG_TABLE."
        return asking(
            f"dynamodb:{action}",
            f"table {where}",
            ResourceNotFoundException=(f"there is no config table {where}", f"Make it (adf-config init), or {another}"),
            ValidationException=(f"table {where} can't be read by {SCHEMA}", f"Make one with those, or {another}"),
        )


def partitions(app: str, release: str | None) -> dict[Origin, str]:
    """The hash keys that *release* is configured under; the overlay's keys outrank the base's."""
    return {"base": app} if release is None else {"base": app, "overlay": own(app, release)}


def own(app: str, release: str | None) -> str:
    """The hash key of what *release* alone has: its overlay, or without one the base."""
    return app if release is None else f"{app}@{release}"


def content(key: Key, attributes: Attributes) -> tuple[Form, Any]:
    """Which of FORMS the item has, and what that holds. Raises ConfigError, which holds no value."""
    which = f"config key {key[1]!r} of {key[0]}"
    forms = [form for form in FORMS if form in attributes and attributes[form] != {"BOOL": False}]
    if len(forms) != 1:
        has = " and ".join(forms) or "no Value, Secret, Ref or Unset"
        raise ConfigError(f"{which} has {has}", hint="Give it one of Value, Secret, Ref and, in an overlay, Unset.")
    [form] = forms
    if FORMS[form] not in attributes[form]:
        hint = f"Write it with {form} of type {FORMS[form]}."
        raise ConfigError(f"{which} has {form} of type {', '.join(attributes[form])}, not {FORMS[form]}", hint=hint)
    return form, attributes[form][FORMS[form]]


def _parted(item: Attributes) -> tuple[str, Attributes]:
    return item["Name"]["S"], {name: value for name, value in item.items() if name not in ("App", "Name")}
