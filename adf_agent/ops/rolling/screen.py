"""Where the events of a roll go: lines as things change, JSON for bots, or a terminal that is drawn anew."""

import json
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

from adf_agent import log
from adf_agent.ops.rolling import events
from adf_agent.ops.rolling.events import Event
from adf_agent.ops.rolling.lookout import Look

if TYPE_CHECKING:
    from rich.console import RenderableType

ROWS = 12  # instances that a terminal has room for: those that are not in service come first
DRAWN = ("progress", "instance")  # what the drawing shows anyway


class Screen(Protocol):
    def tell(self, event: Event) -> None: ...
    def show(self, look: Look) -> None: ...
    def live(self) -> AbstractContextManager[Any]:
        """For as long as the roll is watched."""


def screen(*, as_json: bool) -> Screen:
    """The one for standard output."""
    if as_json:
        return Objects()
    return Drawing() if sys.stdout and sys.stdout.isatty() else Lines()


class _Outlived:
    """A stream whose reader may go away: what it does not take is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def outlive_output() -> None:
    """From now on a full disk, a closed pipe or terminal ends nothing: who watches guards the roll."""
    if sys.stdout:
        sys.stdout = cast("TextIO", _Outlived(sys.stdout))
    if sys.stderr:
        sys.stderr = cast("TextIO", _Outlived(sys.stderr))
        log.configure(sys.stderr)


class Lines:
    def tell(self, event: Event) -> None:
        if event.lines:
            print(printable(event.lines), flush=True)

    def show(self, look: Look) -> None:
        """Its news are told."""

    def live(self) -> AbstractContextManager[Any]:
        return nullcontext()


class Objects(Lines):
    def tell(self, event: Event) -> None:
        print(json.dumps({"event": event.name, **event.facts}), flush=True)


class Drawing:
    """A progress bar, and a line an instance; what is told beside it stands above, and stays."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415  of the extra `ops`; for a terminal alone
        from rich.live import Live  # noqa: PLC0415

        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def tell(self, event: Event) -> None:
        if event.lines and (event.name not in DRAWN or event.facts.get("log_tail")):
            self._console.print(printable(event.lines), markup=False, soft_wrap=True)

    def show(self, look: Look) -> None:
        self._live.update(_drawn(look), refresh=True)

    def live(self) -> AbstractContextManager[Any]:
        return self._live


def printable(text: str) -> str:
    """*text*, without what would be a command to the terminal: an app's last lines may hold anything."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in text)


def _drawn(look: Look) -> "RenderableType":
    from rich.console import Group  # noqa: PLC0415
    from rich.progress_bar import ProgressBar  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rows = sorted(look.instances, key=lambda each: (each.state == "InService", each.state == "gone"))
    lines = [printable(events.row(each)) for each in rows[:ROWS]]
    if len(rows) > ROWS:
        lines.append(f"and {len(rows) - ROWS} more")
    bar = ProgressBar(total=100, completed=look.refresh.percentage, width=60)
    texts = (printable(events.summary(look.refresh)), *lines)
    return Group(bar, *(Text(line, no_wrap=True, overflow="ellipsis") for line in texts))
