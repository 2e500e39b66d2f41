"""Two configs side by side: of two releases, of base and release, of the table and a file.

A command that finds a difference has not failed: it ends with 0, and prints nothing where there is none.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adf_agent.errors import ConfigError
from adf_agent.ops.app import App
from adf_agent.ops.configure import envfile, held
from adf_agent.ops.configure.envfile import Format
from adf_agent.ops.configure.held import Held
from adf_agent.table import Snapshot

Side = Mapping[str, Held]


@dataclass(frozen=True)
class Difference:
    """A key that the two sides do not agree on; None where one has none."""

    name: str
    before: Held | None
    after: Held | None

    @property
    def lines(self) -> list[str]:
        sides = (("-", self.before), ("+", self.after))
        return [f"{sign} {self.name}={each.line}" for sign, each in sides if each]

    @property
    def is_of_ciphers(self) -> bool:
        """Whether the two may yet be one text, which KMS never encrypts to the same twice."""
        sides = (self.before, self.after)
        return all(each is not None and each.text is None and each.form == "Secret" for each in sides)


def releases(app: App, named: Sequence[str], *, reveal: bool) -> list[Difference]:
    """From the first of two releases to the second, or from the base to the only one. Raises ConfigError."""
    seen = _seen(app, named)
    old, new = (_side(app, each, seen, reveal=reveal) for each in (None, *named)[-2:])
    return _differences(old, new)


def with_file(app: App, named: Sequence[str], path: str, kind: Format, *, reveal: bool) -> list[Difference]:
    """From what the base, or the release *named*, gets to what the file at *path* holds; `-` is standard input.

    A secret of the table is compared with the file's text where *reveal* is set alone. Raises ConfigError.
    """
    texts = envfile.load(path, kind)
    old = _side(app, named[0] if named else None, _seen(app, named), reveal=reveal)
    new = {name: Held("file", "Value", text, text) for name, text in texts.items()}
    unknown = [name for name, each in old.items() if name in new and each.text is None]
    if unknown:
        print(f"not compared without --reveal, as they are secrets: {', '.join(unknown)}", file=sys.stderr)
    kept = {name: each for name, each in new.items() if name not in unknown}
    return _differences({name: each for name, each in old.items() if name not in unknown}, kept)


def show(found: Sequence[Difference], *, as_json: bool) -> None:
    """Prints `- NAME=old` and `+ NAME=new` of each."""
    if as_json:
        sides = ((each.name, each.before, each.after) for each in found)
        parts = [{"name": name, "from": old and old.shown, "to": new and new.shown} for name, old, new in sides]
        print(json.dumps(parts, indent=1))
    else:
        print(*(line for each in found for line in each.lines), sep="\n", end="\n" if found else "")
    if not found:
        print("no difference", file=sys.stderr)
    if ciphers := [each.name for each in found if each.is_of_ciphers]:
        names = ", ".join(ciphers)
        print(f"{names}: encrypted twice, which may be the same text; --reveal compares that", file=sys.stderr)


def _seen(app: App, named: Sequence[str]) -> Snapshot:
    """Raises ConfigError for a release without a key: a slip of the hand must not look like no difference."""
    seen = app.seen(*named)
    for each in named:
        if held.is_empty(app, each, seen):
            hint = "A release without one gets the base. See `history` for the names of others."
            raise ConfigError(f"unknown release: {each} has no key of its own", hint=hint)
    return seen


def _side(app: App, release: str | None, seen: Snapshot, *, reveal: bool) -> Side:
    found = held.gets(app, release, seen, reveal=reveal)
    return {name: each for name, each in found.items() if not each.is_hidden}


def _differences(old: Side, new: Side) -> list[Difference]:
    found = (Difference(name, old.get(name), new.get(name)) for name in sorted({*old, *new}))
    return [each for each in found if _identity(each.before) != _identity(each.after)]


def _identity(side: Held | None) -> object:
    return side and side.identity
