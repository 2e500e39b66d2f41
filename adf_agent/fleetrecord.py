"""The fleet record's format, both directions: an instance's one item in the config table."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

Parts = Mapping[str, Any]  # of the status record, as record.Record holds them, masked
Attributes = dict[str, dict[str, str]]  # as DynamoDB has them: {"Phase": {"S": "in service"}}

ENDED = ("failed", "held")
ERROR_LENGTH = 300  # characters of the sentence; all of it is in the journal
TAIL_BYTES = 8192
KEPT_SECONDS = 7 * 86400
LIVE_SECONDS = 2 * 3600.0  # an instance not heard of for longer counts as gone; it is touched every hour


@dataclass(frozen=True)
class FleetRecord:
    """What the item of *instance_id* says. *group* is "" outside any; *touched* is in epoch seconds.

    *stage* is the one that runs, or failed, or came last; *error* and *log_tail* are of what has failed. *boot_seconds*
    are those of the stages together, of which some overlap.
    """

    instance_id: str
    release: str
    group: str
    phase: str
    touched: float
    stage: str = ""
    restarts: int = 0
    error: str = ""
    log_tail: str = ""
    boot_seconds: float = 0.0

    @classmethod
    def of_item(cls, item: Mapping[str, Mapping[str, str]]) -> Self:
        """From an item with its key. What an item lacks is "", or 0."""

        def text(name: str) -> str:
            return item.get(name, {}).get("S", "")

        def number(name: str) -> float:
            return float(item.get(name, {}).get("N", 0))

        return cls(
            instance_id=text("Name"),
            release=text("Release"),
            group=text("Group"),
            phase=text("Phase"),
            touched=number("Touched"),
            stage=text("Stage"),
            restarts=int(number("Restarts")),
            error=text("Error"),
            log_tail=text("LogTail"),
            boot_seconds=sum(float(spent) for spent in re.findall(r"\w+ (\d+\.\d+)", text("Stages"), re.ASCII)),
        )

    def is_recent(self, now: float) -> bool:
        """Whether it was touched so lately, at *now* in epoch seconds, that the instance may be there."""
        return now - self.touched < LIVE_SECONDS


def partition(app: str) -> str:
    """The hash key of an app's fleet records."""
    return f"{app}#fleet"


def item(parts: Parts, app: str, instance_id: str, tail: str, boot: int, seq: int, now: float) -> Attributes:
    """The whole item, absent things left out; at most 1 KB (DynamoDB's unit of a write) unless it holds an error.

    *tail* is the app's last lines, masked as *parts* are; *now* is in epoch seconds.
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    touched = int(now)
    numbers = {"Boot": boot, "Seq": seq, "Touched": touched, "Expires": touched + KEPT_SECONDS}
    return {
        "App": {"S": partition(app)},
        "Name": {"S": instance_id},
        **facts(parts, tail),
        **{name: {"N": str(number)} for name, number in numbers.items()},
    }


def facts(parts: Parts, tail: str) -> Attributes:
    """What the item says of the instance: only where this differs, something has changed."""
    phase, restarts = parts.get("phase", ""), parts.get("restarts")
    texts = {
        "Release": (parts.get("release") or {}).get("name"),
        "Group": parts.get("group"),
        "Phase": phase,
        "Stage": _stage(parts),
        "Stages": _stages(parts),
        "Error": _error(parts),
        "LogTail": _last_lines(tail) if phase in ENDED else "",
    }
    numbers: Attributes = {} if restarts is None else {"Restarts": {"N": str(restarts)}}
    return {name: {"S": text} for name, text in texts.items() if text} | numbers


def _stage(parts: Parts) -> str:
    """The stage that runs, else the one that failed, else the last."""
    entries = parts.get("stages", ())
    by_state = {entry["state"]: entry["name"] for entry in entries}
    last = entries[-1]["name"] if entries else ""
    return str(by_state.get("running") or by_state.get("failed") or last)


def _stages(parts: Parts) -> str:
    """`settings 0.01, docker 0.12`: the seconds of those that ended, of each the latest."""
    seconds = {entry["name"]: entry["seconds"] for entry in parts.get("stages", ()) if "seconds" in entry}
    return ", ".join(f"{name} {spent:.2f}" for name, spent in seconds.items())


def _error(parts: Parts) -> str:
    sentence = str((parts.get("error") or {}).get("sentence", ""))
    return sentence if len(sentence) <= ERROR_LENGTH else f"{sentence[: ERROR_LENGTH - 1]}…"


def _last_lines(tail: str) -> str:
    """The end of *tail* in TAIL_BYTES of UTF-8, from a line's start unless that line alone is too long."""
    whole = tail.encode(errors="replace")
    if len(whole) <= TAIL_BYTES:
        return whole.decode()
    _, newline, lines = whole[-TAIL_BYTES - 1 :].partition(b"\n")  # one byte more: a line may start right there
    return (lines if newline and lines else whole[-TAIL_BYTES:]).decode(errors="ignore")
