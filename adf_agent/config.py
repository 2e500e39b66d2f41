"""The config table's format, and an app's whole config as it is read from there: every key, or an error."""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, Literal, Protocol, Self

from adf_agent.deadline import Deadline
from adf_agent.errors import ConfigError
from adf_agent.secret import Answer, asking, decrypt, pages, resolve
from adf_agent.secret import Clients as SecretClients

Item = Mapping[str, Mapping[str, Any]]  # as DynamoDB has it: {"Value": {"S": "text"}}
Origin = Literal["base", "overlay"]
Form = Literal["Value", "Secret", "Ref", "Unset"]

SCHEMA = "hash key App (S) and range key Name (S)"
FORMS: dict[Form, str] = {"Value": "S", "Secret": "B", "Ref": "S", "Unset": "BOOL"}  # an item has one, of this type
REVISION = "#revision"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
VALUE_LIMIT = 131_071  # bytes of NAME=value: Linux' MAX_ARG_STRLEN, 32 pages of 4 KiB, less the closing NUL
# execve(2) gives environment, arguments and the pointers to them a quarter of the stack's limit together: 2 MiB of the
# usual 8. Half of that is left to the pointers, the image's own ENV and the command.
TOTAL_LIMIT = 1 << 20
SMALLER = "Keep what is large in S3 or in the image, and only its name in the config."


class DynamoDB(Protocol):
    def get_item(self, **request: Any) -> Answer: ...
    def query(self, **request: Any) -> Answer: ...
    def put_item(self, **request: Any) -> Answer: ...  # the fleet record, by its own module


@dataclass(frozen=True)
class Clients(SecretClients):
    dynamodb: DynamoDB


@dataclass(frozen=True, repr=False, slots=True)
class Value:
    """A key's text, which prints as `***`."""

    _text: str
    secret: bool
    origin: Origin

    def __repr__(self) -> str:
        return "***"

    def reveal(self) -> str:
        return self._text


@dataclass(frozen=True)
class AppConfig:
    """The merged config of *app* for *release* (None: base alone). *revision* is None in a table written by hand."""

    app: str
    release: str | None
    values: Mapping[str, Value]
    revision: int | None

    def environment(self) -> dict[str, str]:
        return {name: value.reveal() for name, value in self.values.items()}

    def secrets(self) -> tuple[str, ...]:
        """The secrets' texts, to be masked in output: the longest first, as one may be a part of another."""
        texts = {value.reveal() for value in self.values.values() if value.secret} - {""}
        return tuple(sorted(texts, key=lambda text: (-len(text), text)))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.values))

    @cached_property
    def fingerprint(self) -> str:
        """12 hexadecimal digits of what the container would get; another one means that it has to be recreated."""
        return hashlib.sha256(json.dumps(sorted(self.environment().items())).encode()).hexdigest()[:12]

    @property
    def fact(self) -> str:
        revision = "no revision" if self.revision is None else f"revision {self.revision}"
        return f"{len(self.values)} keys of {' and '.join(partitions(self.app, self.release).values())}, {revision}"

    def shown(self, table: str) -> dict[str, Any]:
        """What the record has of it: no value."""
        places = list(partitions(self.app, self.release).values())
        return {"table": table, "partitions": places, "keys": len(self.values), "revision": self.revision}

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, secrets in the clear: for a file of mode 0600."""
        values = {name: [value.reveal(), value.secret, value.origin] for name, value in self.values.items()}
        return {"app": self.app, "release": self.release, "values": values, "revision": self.revision}

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> Self:
        """From what `to_dict` gave. Raises KeyError, TypeError or AttributeError for anything else."""
        values = {name: Value(*value) for name, value in parts["values"].items()}
        return cls(parts["app"], parts["release"], MappingProxyType(values), parts["revision"])


def partitions(app: str, release: str | None) -> dict[Origin, str]:
    """The hash keys that *release* is configured under; the overlay's keys outrank the base's."""
    return {"base": app} if release is None else {"base": app, "overlay": f"{app}@{release}"}


def read(app: str, release: str | None, table: str, clients: Clients, deadline: Deadline) -> AppConfig:
    """The whole config of *release* of *app*; no key at all is a config too.

    Transient faults are tried again until *deadline*. Raises ConfigError, which names keys and never values.
    """
    revision, items = deadline.retry(partial(_snapshot, app, release, table, clients))
    found: dict[Form, dict[str, Any]] = {form: {} for form in FORMS}
    for name, item in sorted(items.items()):
        form, content = _form(name, item)
        found[form][name] = content
    # Each secret is tried again by itself: one that is throttled does not ask for all the others once more.
    secrets = {
        name: deadline.retry(partial(decrypt, app, name, cipher, clients)) for name, cipher in found["Secret"].items()
    } | resolve(found["Ref"], clients, deadline)
    texts = dict(sorted((found["Value"] | secrets).items()))
    _check_environment(texts)
    origins: dict[str, Origin] = {name: "base" if items[name]["App"]["S"] == app else "overlay" for name in texts}
    values = {name: Value(text, name in secrets, origins[name]) for name, text in texts.items()}
    return AppConfig(app, release, MappingProxyType(values), revision)


def _snapshot(app: str, release: str | None, table: str, clients: Clients) -> tuple[int | None, dict[str, Item]]:
    """The revision and, by name, the items of that revision, the overlay's before the base's.

    A Query beside a transaction may see half of it: that none came between, only an unmoved revision says.
    """
    before = _revision(app, table, clients)
    items = {
        item["Name"]["S"]: item
        for partition in partitions(app, release).values()
        for item in _items(partition, table, clients)
    }
    after = _revision(app, table, clients)
    if after != before:
        raise ConfigError(
            f"the config of {app} changed from revision {before} to {after} while it was read",
            hint="Something writes to it without a pause: find it.",
            transient=True,
        )
    return after, {name: item for name, item in items.items() if not name.startswith("#")}


def _revision(app: str, table: str, clients: Clients) -> int | None:
    key = {"App": {"S": app}, "Name": {"S": REVISION}}
    with _asking_table("GetItem", table, clients.region):
        item: Item | None = clients.dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item")
    try:
        return None if item is None else int(item["Revision"]["N"])
    except (KeyError, ValueError) as error:
        raise ConfigError(f"item {REVISION} of {app} has no whole number (N) Revision", hint="Correct it.") from error


def _items(partition: str, table: str, clients: Clients) -> list[Item]:
    request = {
        "TableName": table,
        "KeyConditionExpression": "App = :app",
        "ExpressionAttributeValues": {":app": {"S": partition}},
        "ConsistentRead": True,
    }
    with _asking_table("Query", table, clients.region):
        answers = pages(clients.dynamodb.query, request, "LastEvaluatedKey", "ExclusiveStartKey")
        try:
            return [item for page in answers for item in page["Items"]]
        except KeyError as error:
            raise ConfigError(
                f"dynamodb:Query on table {table} was answered by something that is not DynamoDB",
                hint="See HTTPS_PROXY, AWS_ENDPOINT_URL_DYNAMODB and the VPC's endpoints.",
                cause="dependency",
                transient=True,
            ) from error


def _form(name: str, item: Item) -> tuple[Form, Any]:
    """Which of FORMS *item* has, and what that holds. Raises ConfigError."""
    key = f"config key {name!r} of {item['App']['S']}"
    forms = [form for form in FORMS if form in item and item[form] != {"BOOL": False}]
    if len(forms) != 1:
        has = " and ".join(forms) or "no Value, Secret, Ref or Unset"
        raise ConfigError(f"{key} has {has}", hint="Give it one of Value, Secret, Ref and, in an overlay, Unset.")
    [form] = forms
    if FORMS[form] not in item[form]:
        hint = f"Write it with {form} of type {FORMS[form]}."
        raise ConfigError(f"{key} has {form} of type {', '.join(item[form])}, not {FORMS[form]}", hint=hint)
    if form != "Unset" and not NAME.fullmatch(name):
        hint = "Rename it: letters, digits and _, and no digit first."
        raise ConfigError(f"{key} can't be the name of an environment variable", hint=hint)
    return form, item[form][FORMS[form]]


def _asking_table(action: str, table: str, region: str) -> AbstractContextManager[None]:
    where, make = f"{table} in {region}", f"Make it with {SCHEMA}, or name another one by ADF_CONFIG_TABLE."
    return asking(
        f"dynamodb:{action}",
        f"table {where}",
        ResourceNotFoundException=(f"there is no config table {where}", make),
        ValidationException=(f"table {where} can't be read by {SCHEMA}", make),
    )


def _check_environment(texts: Mapping[str, str]) -> None:
    """Raises ConfigError where Linux would not start a process with *texts* as its environment."""
    sizes = {name: len(f"{name}={text}".encode()) for name, text in texts.items()}
    for name, size in sizes.items():
        if "\0" in texts[name]:
            raise ConfigError(f"the value of config key {name} holds a NUL character", hint="Write it without.")
        if size > VALUE_LIMIT:
            raise ConfigError(f"config key {name} is {size:,} bytes, of {VALUE_LIMIT:,} allowed", hint=SMALLER)
    if (total := sum(sizes.values())) > TOTAL_LIMIT:
        largest = max(sizes, key=lambda name: sizes[name])
        sentence = f"the config is {total:,} bytes, of {TOTAL_LIMIT:,} allowed; {largest} alone is {sizes[largest]:,}"
        raise ConfigError(sentence, hint=SMALLER)
