"""The history of an app's config: what each revision changed, by whom and from where; both directions of its items."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from adf_agent.errors import ConfigError
from adf_agent.ops.configure.held import one_line
from adf_agent.table import Attributes, Key, Table

GONE = {"": "-", "Unset": "!"}  # the marks of what a release does not get any more
DIGITS = 12  # of a revision as an item's name, so that names sort as numbers do


@dataclass(frozen=True)
class Changed:
    """What a revision did to a key: *before* is its former item, None for none; *form* the new one's, "" for none."""

    before: Attributes | None = field(repr=False)
    form: str

    @property
    def mark(self) -> str:
        """`+` where the key is new, `-` where it is gone, `~` where it has another value, `!` where it is hidden."""
        if self.form in GONE:
            return GONE[self.form]
        return "+" if self.before is None else "~"


@dataclass(frozen=True)
class Revision:
    """One change of an app's config. *at* is ISO 8601 in UTC, *by* an ARN, *origin* user@host, *what* the command."""

    number: int
    at: str
    by: str
    origin: str
    what: str
    changes: Mapping[Key, Changed]

    @property
    def summary(self) -> str:
        """`web: +A ~B; web@v42: -C`."""
        names: dict[str, list[str]] = {}
        for (place, key), changed in self.changes.items():
            names.setdefault(place, []).append(changed.mark + one_line(key))
        return "; ".join(f"{place}: {' '.join(changed)}" for place, changed in names.items())

    def item(self, app: str) -> dict[str, Any]:
        """The whole item, as DynamoDB has it."""
        texts = {"Name": name(self.number), "At": self.at, "By": self.by, "From": self.origin, "What": self.what}
        changes = [{"M": _attributes(key, changed)} for key, changed in self.changes.items()]
        return {"App": {"S": partition(app)}, **{k: {"S": v} for k, v in texts.items()}, "Changes": {"L": changes}}

    @classmethod
    def of_item(cls, number: str, item: Mapping[str, Any]) -> Self:
        """From what `item` gave, *number* being its name. Raises ConfigError for anything else."""
        try:
            at, by, origin, what = (item[each]["S"] for each in ("At", "By", "From", "What"))
            return cls(int(number), at, by, origin, what, dict(_changed(each["M"]) for each in item["Changes"]["L"]))
        except (KeyError, TypeError, ValueError) as error:
            hint = "Somebody wrote to the history by hand; see the item in DynamoDB."
            raise ConfigError(f"the history's item {number!r} can't be read", hint=hint) from error


def partition(app: str) -> str:
    """The hash key of an app's history."""
    return f"{app}#history"


def name(number: int) -> str:
    """The range key of a revision."""
    return f"{number:0{DIGITS}}"


def latest(table: Table, app: str, most: int) -> list[Revision]:
    """The last *most* changes, the latest first. Raises ConfigError."""
    return [Revision.of_item(*each) for each in table.items(partition(app), most=most)]


def since(table: Table, app: str, number: int) -> list[Revision]:
    """Every change after revision *number*, the first of them first. Raises ConfigError."""
    return [Revision.of_item(*each) for each in table.items(partition(app), after=name(number))]


def lines(revisions: Sequence[Revision]) -> Iterator[str]:
    """Two lines a revision: names alone."""
    for each in revisions:
        yield f"{each.number:>6}  {each.at}  {each.what}  by {each.by} from {each.origin}"
        yield f"{'':8}{each.summary}"


def shown(each: Revision) -> dict[str, Any]:
    """For programs; *before* is the text that the key had, None where it had none or a secret."""
    changes = [
        {
            "partition": place,
            "name": key,
            "form": changed.form,
            "before": (changed.before or {}).get("Value", {}).get("S"),
        }
        for (place, key), changed in each.changes.items()
    ]
    facts = {"revision": each.number, "at": each.at, "by": each.by, "from": each.origin, "what": each.what}
    return {**facts, "changes": changes}


def _attributes(key: Key, changed: Changed) -> dict[str, Any]:
    before = {} if changed.before is None else {"Before": {"M": dict(changed.before)}}
    return {"App": {"S": key[0]}, "Name": {"S": key[1]}, "Form": {"S": changed.form}, **before}


def _changed(parts: Mapping[str, Any]) -> tuple[Key, Changed]:
    before = parts["Before"]["M"] if "Before" in parts else None
    return (parts["App"]["S"], parts["Name"]["S"]), Changed(before, parts["Form"]["S"])
