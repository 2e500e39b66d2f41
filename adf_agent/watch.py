"""`adf-agent status --watch`: the screen drawn anew as it changes, in place on a terminal."""

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO, TypeVar

LOOK_SECONDS = 0.1
DRAW_SECONDS = 1.0  # what runs shows its seconds
_CELL = re.compile(r"(?:\x1b\[\d*m)*[^\x1b](?:\x1b\[0m)?")  # a character with the colours before and behind it
T = TypeVar("T")


def watch(look: Callable[[], T], shown: Callable[[T], str], stream: TextIO) -> NoReturn:
    """Draws what *shown* makes of what *look* sees on *stream*, until somebody presses Ctrl-C."""
    in_place = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    former: T | None = None
    drawn, text = 0.0, ""
    while True:
        seen = look()
        if seen != former or (in_place and time.monotonic() - drawn >= DRAW_SECONDS):
            former, drawn, before, text = seen, time.monotonic(), text, shown(seen)
            size = shutil.get_terminal_size()
            stream.write(frame(text, before, size.columns, size.lines) if in_place else f"{text}\n")
            stream.flush()
        time.sleep(LOOK_SECONDS)  # as status.wait


def frame(text: str, before: str, columns: int, lines: int) -> str:
    """What to write for *text* to take the place of *before* on a terminal of this size.

    Nothing is cleared that is not written over at once, and no state of the terminal's is changed that a killed
    process would leave behind.
    """
    up = len(rows(before, columns, lines)) if before else 0
    fresh = "".join(f"{row}\x1b[K\n" for row in rows(text, columns, lines))
    return (f"\x1b[{up}F" if up else "") + fresh + "\x1b[J"


def rows(text: str, columns: int, lines: int) -> Sequence[str]:
    """*text* in rows shorter than *columns*: a terminal that breaks one by itself has another count than we.

    What is beyond the last but one of *lines* would scroll away, and is left out.
    """
    width = max(1, columns - 1)
    cells = [_CELL.findall(line) for line in text.split("\n")]
    cut = ["".join(row[at : at + width]) for row in cells for at in range(0, max(1, len(row)), width)]
    most = max(2, lines - 1)
    return cut if len(cut) <= most else [*cut[: most - 1], f"… {len(cut) - most + 1} more: adf-agent status"[:width]]
