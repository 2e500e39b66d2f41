import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adf_agent import watch
from adf_agent.record import Record
from adf_agent.root import Root
from adf_agent.state import prepare

RED = "\x1b[31mfailed\x1b[0m"


class Terminal:
    """What a terminal of this size shows after what was written to it: text, newlines, and the sequences of a frame."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.cells, self.row, self.column = columns, [""] * lines, 0, 0

    def write(self, text: str) -> None:
        for part in re.findall(r"\x1b\[\d*[A-Za-z]|\n|[^\x1b\n]", text):
            if part == "\n":
                self.down()
            elif part.endswith("F") and part.startswith("\x1b"):
                self.row, self.column = max(0, self.row - int(part[2:-1])), 0
            elif part == "\x1b[K":
                at = min(self.column, self.columns - 1)  # behind the last column it waits in it, as xterm does
                self.cells[self.row] = self.cells[self.row][:at]
            elif part == "\x1b[J":
                self.cells[self.row :] = [""] * len(self.cells[self.row :])
            elif not part.startswith("\x1b"):
                self.put(part)

    def put(self, character: str) -> None:
        if self.column == self.columns:
            self.down()
        old = self.cells[self.row].ljust(self.column)
        self.cells[self.row] = old[: self.column] + character + old[self.column + 1 :]
        self.column += 1

    def down(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.cells):
            self.cells, self.row = [*self.cells[1:], ""], self.row - 1


FRAMES = [
    ["one\ntwo", "1"],
    ["one", "1\n2\n3\n4\n5"],
    ["a long line " * 5, "short", "a long line " * 3],
    ["\n".join(map(str, range(30))), "few", "\n".join(map(str, range(30)))],
    [f"{RED} " * 9, "none"],
    ["", "x", ""],
    ["x" * 19, "x" * 20, "x" * 21, "y" * 40],
]


@pytest.mark.parametrize("frames", FRAMES)
def test_a_frame_takes_the_place_of_the_former_one(frames: list[str]) -> None:
    """A screen that creeps down, or leaves half of what was true before, where lines are long or many."""
    terminal = Terminal(20, 10)
    terminal.write("$ adf-agent status --watch\n")
    before = ""
    for text in frames:
        terminal.write(watch.frame(text, before, 20, 10))
        before = text
    plain = [re.sub(r"\x1b\[\d*m", "", row).rstrip() for row in watch.rows(before, 20, 10)]
    shown = [row.rstrip() for row in terminal.cells]
    at = terminal.row - len(plain)
    assert shown[at : terminal.row] == plain
    assert shown[terminal.row :] == [""] * (10 - terminal.row), "nothing else is left"
    assert [row for row in shown[:at] if row] in ([], ["$ adf-agent status -", "-watch"])


def test_what_does_not_fit_is_said_and_the_top_stays() -> None:
    """A screen whose first line, the one that counts, has scrolled away."""
    rows = watch.rows("\n".join(f"line {number}" for number in range(30)), 40, 10)
    assert (len(rows), rows[0], rows[-1]) == (9, "line 0", "… 22 more: adf-agent status")


def test_colours_are_no_part_of_a_row_s_length() -> None:
    """Rows broken in the middle, as escape sequences were counted."""
    assert watch.rows(f"{RED} for 5 min", 40, 10) == [f"{RED} for 5 min"]


@contextmanager
def watching(folder: Path, stdout: int, term: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-m", "adf_agent", "status", "--watch"],
        env={**os.environ, "ADF_ROOT": str(folder), "TERM": term},
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def read_until(handle: int, condition: Callable[[str], object]) -> str:
    """What comes from *handle*, once *condition* holds of it."""
    text, end = "", time.monotonic() + 20
    while not condition(text):
        if not select.select([handle], [], [], max(0.0, end - time.monotonic()))[0]:
            pytest.fail(f"that does not come: {text!r}")
        came = os.read(handle, 65536).decode()
        if not came:
            pytest.fail(f"it ended: {text!r}")
        text += came
    return text


def prepared(folder: Path) -> Record:
    place = Root(folder)
    prepare(place)
    return Record(place, "run")


@pytest.mark.parametrize(("term", "moves"), [("xterm", True), ("dumb", False)])
def test_a_terminal_is_drawn_on_in_place(tmp_path: Path, term: str, moves: bool) -> None:
    """A screen that flickers, or scrolls by once a second, while somebody waits for a boot."""
    record = prepared(tmp_path)
    mine, its = pty.openpty()
    with watching(tmp_path, its, term) as process, os.fdopen(mine, "rb", buffering=0):
        os.close(its)
        read_until(mine, lambda text: "booting" in text)
        record.add(phase="in service")
        drawn = read_until(mine, lambda text: "in service" in text)
        assert (re.search(r"\x1b\[\d+F", drawn) is not None) is moves
        assert "\x1b[2J" not in drawn, "cleared"
        if moves:
            read_until(mine, lambda text: text.count("in service") > 1)  # the seconds go on by themselves
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_in_a_pipe_the_screen_comes_anew_at_each_change_and_only_then(tmp_path: Path) -> None:
    """A log of a deploy in which the same screen stands a thousand times, or with a terminal's sequences in it."""
    record = prepared(tmp_path)
    with watching(tmp_path, subprocess.PIPE, "xterm") as process:
        assert process.stdout is not None
        handle = process.stdout.fileno()
        text = read_until(handle, lambda text: "booting" in text)
        assert not select.select([handle], [], [], 1.5)[0], "nothing has changed"
        record.trouble("disk", "the disk is full", "df -h")
        text += read_until(handle, lambda text: "the disk is full" in text)
        assert text.count("booting") == 2
        assert "\x1b" not in text
        process.stdout.close()
        record.add(phase="in service")
        assert process.wait(20) == 141, "the reader is gone"
        assert process.stderr is not None
        assert process.stderr.read() == b""
