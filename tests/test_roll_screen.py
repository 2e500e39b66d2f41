"""What a person and a bot are told of a roll."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace

import pytest

from adf_agent.fleetrecord import FleetRecord
from adf_agent.ops.rolling import events
from adf_agent.ops.rolling.canary import Instance, Verdict
from adf_agent.ops.rolling.change import UNKNOWN
from adf_agent.ops.rolling.events import Event
from adf_agent.ops.rolling.facts import Group, Template
from adf_agent.ops.rolling.finding import Finding
from adf_agent.ops.rolling.lookout import Look, Roll
from adf_agent.ops.rolling.refresh import Refresh
from adf_agent.ops.rolling.screen import Drawing, Lines, Objects, screen

REFRESH = Refresh("r-1", "InProgress", "Waiting for instances to warm up.", 16, 5)
RECORD = FleetRecord("i-1", "v2", "shop", "booting", 1.0, "image")
BOOTING = Instance("i-1", "Pending:Wait", record=RECORD)
FAILED = replace(
    BOOTING, record=replace(RECORD, phase="failed", stage="health", error="exit 7", log_tail="starting\nbye\n")
)
BY_ITSELF, NOBODY = "it rolls back by itself where AWS calls it failed", "nothing judges the canary now"
TO_COME_BACK, TO_UNDO = "  → to come back: adf-roll watch shop", "; to undo it: adf-roll back shop"
ROLL = Roll(Group("shop", 2, 0, 9, "1", Template("lt-1", "shop", 1)), UNKNOWN, 2, "r-1")


def told(former: Look | None, now: Look) -> list[str]:
    return [event.lines for event in events.news(former, now)]


def test_what_changes_is_told_and_nothing_is_told_twice() -> None:
    """A log of a CI job with the same line every five seconds, and the one that matters on page 40."""
    first = Look(REFRESH, (BOOTING,))
    assert told(None, first) == [
        "InProgress 16%, 5 to go: Waiting for instances to warm up.",
        "i-1  Pending:Wait      booting image",
    ]
    touched = replace(BOOTING, record=replace(RECORD, touched=9.0))
    assert told(first, Look(REFRESH, (touched,))) == []
    served = replace(BOOTING, state="InService", record=replace(RECORD, phase="in service", stage="report"))
    assert told(first, Look(REFRESH, (served,))) == ["i-1  InService         in service"]


def test_the_last_words_of_an_instance_are_told_once() -> None:
    """The app's own last line, which nobody can read as the instance is gone; or fifty lines again at each change."""
    first, failed = Look(REFRESH, (BOOTING,)), Look(REFRESH, (FAILED,))
    row = "i-1  Pending:Wait      failed health  exit 7"
    assert told(first, failed) == [f"{row}\n    | starting\n    | bye"]
    gone = Look(REFRESH, (replace(FAILED, state="gone"),))
    assert told(failed, gone) == ["i-1  gone              failed health  exit 7"]
    (event,) = events.news(failed, gone)
    assert event.facts["log_tail"] == "starting\nbye\n"  # a bot need not remember


def test_what_can_not_be_seen_is_told_once() -> None:
    """A canary that is judged without its record, and nobody knows."""
    blind = Look(REFRESH, troubles=("dynamodb:Query is denied",))
    assert told(Look(REFRESH), blind) == ["warning: dynamodb:Query is denied"]
    assert told(blind, blind) == []


EVENTS = [
    (
        events.plan(
            ["v1 becomes v2"], {"release": "v2"}, [Finding("warn", "no hook", "Make one."), Finding("note", "1")]
        ),
        "v1 becomes v2\nwarn: no hook\n  → Make one.\nnote: 1",
        {
            "event": "plan",
            "release": "v2",
            "findings": [
                {"level": "warn", "sentence": "no hook", "hint": "Make one."},
                {"level": "note", "sentence": "1", "hint": ""},
            ],
        },
    ),
    (events.judged(None), "the canary is well", {"event": "judged", "well": True, "reason": ""}),
    (
        events.judged(Verdict("canary i-1 failed", FAILED)),
        "canary i-1 failed",
        {"event": "judged", "well": False, "reason": "canary i-1 failed", "instance": "i-1"},
    ),
    (events.rollback("shop"), "shop goes back to what it had", {"event": "rollback", "group": "shop"}),
    (
        events.ended(replace(REFRESH, status="RollbackSuccessful", rollback="an alarm"), 1),
        "RollbackSuccessful: an alarm",
        {"event": "ended", "status": "RollbackSuccessful", "reason": "an alarm", "percentage": 16, "exit": 1},
    ),
    (
        events.detached(replace(ROLL, alarms=("errors",))),
        f"shop rolls on without this command; {BY_ITSELF}; alarms guard it: errors\n{TO_COME_BACK}{TO_UNDO}",
        {"event": "detached", "group": "shop", "alarms": ["errors"], "judged": False},
    ),
    (events.checked("ok\n"), "ok", {"event": "check", "output": "ok\n"}),
]


@pytest.mark.parametrize(("event", "lines", "members"), EVENTS)
def test_an_event_is_lines_for_people_and_one_object_for_bots(
    event: Event, lines: str, members: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """A bot that parses sentences, and breaks at the first one that is mended."""
    Lines().tell(event)
    assert capsys.readouterr().out == f"{lines}\n"
    Objects().tell(event)
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert json.loads(shown) == members


@pytest.mark.parametrize(
    ("roll", "seen", "judged", "guards", "undo"),
    [
        (ROLL, REFRESH, False, f"; {BY_ITSELF}; {NOBODY}", True),
        (ROLL, REFRESH, True, f"; {BY_ITSELF}; the canary was judged", True),
        (replace(ROLL, ours=False, automatic=False), REFRESH, False, "", True),
        (replace(ROLL, ours=False, automatic=False, reversible=False), REFRESH, False, "", False),
        (ROLL, replace(REFRESH, status="RollbackInProgress"), False, ": RollbackInProgress", False),
    ],
)
def test_what_guards_a_roll_that_is_left_is_said(
    roll: Roll, seen: Refresh, guards: str, *, judged: bool, undo: bool
) -> None:
    """A laptop that is closed in the belief that somebody still judges the canary, or that AWS takes it back."""
    first, last = events.detached(roll, seen, judged=judged).lines.split("\n")
    assert first == f"shop rolls on without this command{guards}"
    assert last == TO_COME_BACK + (TO_UNDO if undo else "")


def test_an_app_can_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Last lines of an app that clear the screen, or have the terminal type something."""
    Lines().tell(Event("instance", {}, "a\x1b[2Jb\tc\nd\x9b2J"))
    assert capsys.readouterr().out == "a\N{REPLACEMENT CHARACTER}[2Jb\tc\nd\N{REPLACEMENT CHARACTER}2J\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Standard output, as if somebody sat before it. pytest has its own in a fixture."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(Terminal()) as there:
        for name, value in {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}.items():
            patch.setenv(name, value)
        yield there


def test_there_is_a_screen_for_each_reader() -> None:
    """A CI log full of a terminal's commands; a bot that gets a drawing."""
    with terminal():
        assert type(screen(as_json=False)) is Drawing
        assert type(screen(as_json=True)) is Objects
    with redirect_stdout(io.StringIO()):
        assert type(screen(as_json=False)) is Lines


def test_a_terminal_shows_each_instance_with_its_stage_and_keeps_the_last_words() -> None:
    """A roll of twenty minutes before a screen that shows nothing; last words that the next drawing wipes away."""
    first, serving = Look(REFRESH, (BOOTING,)), (Instance(f"i-{number}", "InService") for number in range(2, 20))
    with terminal() as there:
        drawing = Drawing()
        with drawing.live():
            for event in events.news(None, first):
                drawing.tell(event)
            drawing.show(replace(first, instances=(BOOTING, *serving)))
            drawn = there.getvalue()
            for event in events.news(first, Look(REFRESH, (FAILED,))):
                drawing.tell(event)
        told_since = there.getvalue().removeprefix(drawn)
    assert "16%, 5 to go" in drawn
    assert drawn.count("booting image") == 1  # drawn, and not told as well
    assert drawn.index("booting image") < drawn.index("i-2")  # what is not in service yet comes first
    assert "and 7 more" in drawn
    assert "    | bye" in told_since
