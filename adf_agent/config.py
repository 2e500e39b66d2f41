"""An app's whole config as a release gets it: every key of base and overlay, secrets in the clear, or an error."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, Protocol, Self

from adf_agent.deadline import Deadline
from adf_agent.errors import ConfigError
from adf_agent.secret import Answer, decrypt, resolve
from adf_agent.secret import Clients as SecretClients
from adf_agent.table import FORMS, DynamoDB, Form, Key, Origin, Snapshot, Table, content, partitions

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NAME_LIMIT = 1024  # DynamoDB's, of a range key
VALUE_LIMIT = 131_071  # bytes of NAME=value: Linux' MAX_ARG_STRLEN, 32 pages of 4 KiB, less the closing NUL
# execve(2) gives environment, arguments and the pointers to them a quarter of the stack's limit together: 2 MiB of the
# usual 8. Half of that is left to the pointers, the image's own ENV and the command.
TOTAL_LIMIT = 1 << 20
SMALLER = "Keep what is large in S3 or in the image, and only its name in the config."


class Tables(DynamoDB, Protocol):
    def put_item(self, **request: Any) -> Answer: ...  # the fleet record, by its own module


@dataclass(frozen=True)
class Clients(SecretClients):
    dynamodb: Tables


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
class Entry:
    """What an item holds: *content* of *form*, a secret still encrypted or referred to."""

    origin: Origin
    form: Form
    content: Any = field(repr=False)


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


def read(app: str, release: str | None, table: str, clients: Clients, deadline: Deadline) -> AppConfig:
    """The whole config of *release* of *app*; no key at all is a config too.

    Transient faults are tried again until *deadline*. Raises ConfigError, which names keys and never values.
    """
    store = Table(table, clients.region, clients.dynamodb)
    seen = deadline.retry(lambda: store.snapshot(app, partitions(app, release).values()))
    return resolved(app, release, seen, clients, deadline)


def resolved(app: str, release: str | None, seen: Snapshot, clients: SecretClients, deadline: Deadline) -> AppConfig:
    """The config of *release* in *seen*, with its secrets in the clear. Raises ConfigError, as `read`."""
    entries = merged(app, release, seen)
    found = {form: {name: entry.content for name, entry in entries.items() if entry.form == form} for form in FORMS}
    # Each secret is tried again by itself: one that is throttled does not ask for all the others once more.
    secrets = {
        name: deadline.retry(partial(decrypt, app, name, cipher, clients)) for name, cipher in found["Secret"].items()
    } | resolve(found["Ref"], clients, deadline)
    texts = dict(sorted((found["Value"] | secrets).items()))
    check_environment(texts)
    values = {name: Value(text, name in secrets, entries[name].origin) for name, text in texts.items()}
    return AppConfig(app, release, MappingProxyType(values), seen.revision)


def merged(app: str, release: str | None, seen: Snapshot) -> dict[str, Entry]:
    """What *release* gets of *seen*, by name: secrets as they lie there, hidden keys too. Raises ConfigError."""
    origins = {place: origin for origin, place in partitions(app, release).items()}
    keys = {name: (place, name) for place in origins for at, name in seen.items if at == place}
    return {name: _entry(keys[name], origins[keys[name][0]], seen) for name in sorted(keys)}


def _entry(key: Key, origin: Origin, seen: Snapshot) -> Entry:
    form, held = content(key, seen.items[key])
    if form != "Unset":
        check_name(key)
    return Entry(origin, form, held)


def check_name(key: Key) -> None:
    """Raises ConfigError where no environment variable can have the name."""
    if not NAME.fullmatch(key[1]) or len(key[1]) > NAME_LIMIT:
        hint = f"Rename it: letters, digits and _, no digit first, {NAME_LIMIT} at most."
        raise ConfigError(f"config key {key[1]!r} of {key[0]} can't be the name of an environment variable", hint=hint)


def check_environment(texts: Mapping[str, str]) -> None:
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
