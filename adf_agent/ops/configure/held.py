"""What a release gets for a key, as far as whoever asks may see it, and as one line shows it."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adf_agent import config
from adf_agent.config import Entry
from adf_agent.ops.app import App
from adf_agent.secret import check_reference
from adf_agent.table import Form, Snapshot, own

MASK, HIDDEN = "***", "(hidden)"


@dataclass(frozen=True, slots=True)
class Held:
    """What an item, or a line of a file, holds for a key; *text* is None where it is kept back, or there is none."""

    origin: str
    form: Form
    content: Any = field(repr=False)
    text: str | None = field(repr=False)

    @property
    def is_hidden(self) -> bool:
        """Whether the overlay keeps the base's key from the release."""
        return self.form == "Unset"

    @property
    def is_secret(self) -> bool:
        return self.form in ("Secret", "Ref")

    @property
    def identity(self) -> object:
        """Alike for two that hold the same, as far as can be seen."""
        return (self.form, self.content) if self.text is None else self.text

    @property
    def line(self) -> str:
        """Its text, or what stands for it; no text looks like that."""
        if self.text is not None:
            return one_line(self.text)
        if self.is_hidden:
            return HIDDEN
        return f"{MASK} {self.content}" if self.form == "Ref" else MASK

    @property
    def shown(self) -> dict[str, Any]:
        """For programs."""
        facts = {"value": self.text, "secret": self.is_secret, "from": self.origin}
        return {**facts, "reference": self.content} if self.form == "Ref" else facts


def gets(app: App, release: str | None, seen: Snapshot, *, reveal: bool) -> dict[str, Held]:
    """By name, what a container of *release* gets, and what is hidden from it; KMS is asked only with *reveal*.

    Raises ConfigError.
    """
    texts = app.resolved(release, seen).environment() if reveal else {}
    return {name: _held(name, each, texts) for name, each in config.merged(app.name, release, seen).items()}


def is_empty(app: App, release: str | None, seen: Snapshot) -> bool:
    """Whether *release* is named, and has no key of its own: it may be a slip of the hand."""
    return release is not None and not any(place == own(app.name, release) for place, _ in seen.items)


def doubt(app: App, release: str | None, seen: Snapshot) -> None:
    """Says so on standard error."""
    if is_empty(app, release, seen):
        print(f"{app.name}@{release} holds no key: is {release} the release's name?", file=sys.stderr)


def revision(seen: Snapshot) -> str:
    """Which one that is; a table written by hand has none."""
    return "no revision" if seen.revision is None else f"revision {seen.revision}"


def one_line(text: str) -> str:
    """*text* as it is where it is one line and can't be taken for anything else, else quoted as JSON does."""
    if text.isprintable() and text and text == text.strip() and not text.startswith(('"', MASK, HIDDEN)):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted if quoted.isprintable() else json.dumps(text)  # an escape sequence would be the terminal's


def _held(name: str, entry: Entry, texts: Mapping[str, str]) -> Held:
    if entry.form == "Ref":
        check_reference(name, entry.content)  # else it may be a secret in the wrong place
    text = entry.content if entry.form == "Value" else texts.get(name)
    return Held(entry.origin, entry.form, entry.content, text)
