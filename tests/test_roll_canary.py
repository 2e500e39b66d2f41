"""The canary, judged by what is seen of it."""

import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from adf_agent import fleetrecord
from adf_agent.fleetrecord import FleetRecord
from adf_agent.ops.rolling import canary, check
from adf_agent.ops.rolling.canary import Checked, Instance
from adf_agent.ops.rolling.check import Check

RECORD = FleetRecord("i-1", "v2", "shop", "in service", 0.0, "report")
WELL = Instance("i-1", "InService", served=True, well=True, record=RECORD)
BOOTING = Instance("i-1", "Pending:Wait", record=replace(RECORD, phase="booting", stage="image"))
UNHEALTHY = "Health checks failed with these codes: [502]"


def recorded(**changes: object) -> Instance:
    return replace(WELL, record=replace(RECORD, **changes))  # type: ignore[arg-type]


def reason(instance: Instance, firing: Collection[str] = (), checked: Checked = "none", *, late: bool = False) -> str:
    verdict = canary.judged([instance], firing, checked, late=late)
    return verdict.reason if verdict else ""


@pytest.mark.parametrize(
    "instance",
    [
        WELL,
        BOOTING,
        Instance("i-1", "Pending"),
        replace(WELL, record=None),
        replace(WELL, well=False, balancer=UNHEALTHY),  # its app may be on its way up yet
        recorded(phase="joining"),
    ],
)
def test_a_canary_that_is_well_or_on_its_way_is_let_be(instance: Instance) -> None:
    """A good release that is rolled back, since its canary took its time to boot."""
    assert reason(instance) == ""


@pytest.mark.parametrize(
    ("instance", "says"),
    [
        (recorded(phase="failed", stage="health", error="no answer"), "canary i-1 failed at health: no answer"),
        (recorded(phase="held", stage="", error="exit 7"), "canary i-1 held: exit 7"),
        (recorded(restarts=2), "canary i-1 restarted its app, 2 in a row"),
        (recorded(phase="restarting"), "canary i-1 restarted its app, 1 in a row"),
        (recorded(error="the disk is full"), "canary i-1 has an error: the disk is full"),
        (Instance("i-1", "gone"), "canary i-1 is gone without being in service"),
        (replace(BOOTING, state="Terminating:Wait"), "canary i-1 is gone without being in service"),
        (replace(WELL, state="Terminating"), "canary i-1 left the group while it was judged"),
        (replace(WELL, balancer=UNHEALTHY), f"canary i-1 is unhealthy to the load balancer: {UNHEALTHY}"),
        # What the record says is why the group has it leave.
        (replace(recorded(phase="failed", stage="image"), state="gone"), "canary i-1 failed at image"),
    ],
)
def test_a_canary_that_fails_is_found_out(instance: Instance, says: str) -> None:
    """A bad release that goes to the whole group, though its first instance said what was wrong."""
    assert reason(instance) == says
    verdict = canary.judged([WELL, instance], (), "none", late=False)
    assert verdict
    assert verdict.instance == instance


def test_the_load_balancer_has_the_last_word_at_the_end_of_the_bake() -> None:
    """An app that never came up behind a group without a launch hook, called well for want of a word."""
    assert reason(replace(WELL, well=False, balancer=UNHEALTHY), late=True).endswith(UNHEALTHY)


@pytest.mark.parametrize(
    ("firing", "checked", "late", "says"),
    [
        (["b", "a"], "none", False, "in ALARM: a, b"),
        ([], "failed", False, "--check failed"),
        ([], "running", False, ""),
        ([], "running", True, "--check did not end within the bake"),
        ([], "passed", True, ""),
    ],
)
def test_alarms_and_the_check_judge_it_too(firing: list[str], checked: Checked, late: bool, says: str) -> None:
    """A canary without a fault of its own that charges every customer twice."""
    assert reason(WELL, firing, checked, late=late) == says


@pytest.mark.parametrize(
    ("failed", "well", "goes_back"),
    [(0, 5, False), (1, 0, False), (1, 5, False), (2, 3, True), (2, 18, False), (2, 17, True), (10, 91, False)],
)
def test_single_failures_of_the_rest_are_the_groups_to_replace(failed: int, well: int, goes_back: bool) -> None:
    """One bad host of a thousand that takes a good release back; a bad release that fails on every second host."""
    bad = replace(BOOTING, record=replace(RECORD, phase="failed", log_tail="bye"))
    verdict = canary.outnumbered([*(failed * [bad]), *(well * [WELL])])
    assert bool(verdict) is goes_back
    if verdict:
        assert verdict.reason == f"{failed} of {failed + well} new instances failed"


def test_a_record_is_read_as_it_was_written() -> None:
    """The app's last words, in the table and not on the screen."""
    parts = {
        "phase": "failed",
        "group": "shop",
        "release": {"name": "v2"},
        "restarts": 3,
        "error": {"sentence": "exit 7"},
        "stages": [{"name": "image", "state": "done", "seconds": 1.0}, {"name": "health", "state": "failed"}],
    }
    written = fleetrecord.item(parts, "web", "i-1", "bye\n", boot=1, seq=1, now=7.5)
    assert FleetRecord.of_item(written) == FleetRecord(
        "i-1", "v2", "shop", "failed", 7.0, "health", 3, "exit 7", "bye\n", 1.0
    )
    assert FleetRecord.of_item({"Name": {"S": "i-1"}}) == FleetRecord("i-1", "", "", "", 0.0)


def until_ended(running: Check) -> Checked:
    end = time.monotonic() + 10
    while running.result() == "running" and time.monotonic() < end:
        time.sleep(0.01)
    return running.result()


@pytest.mark.parametrize(("code", "came_to"), [(0, "passed"), (3, "failed")])
def test_a_check_is_told_of_the_canary_and_shows_what_it_says(code: int, came_to: Checked) -> None:
    """A check that fails, and nobody sees why."""
    with Check(f'echo "$ADF_CANARY of $ADF_RELEASE"; echo bad >&2; exit {code}') as asked:
        assert (asked.result(), asked.output()) == ("running", "")
        asked.start(check.told(["i-1", "i-2"], "v2"))
        assert until_ended(asked) == came_to
        assert asked.output() == "i-1 i-2 of v2\nbad\n"
        assert asked.output() == ""


def test_a_check_that_hangs_ends_with_the_roll() -> None:
    """A load test that goes on against production after the roll was rolled back."""
    with Check("sleep 60 & echo $!; wait") as asked:
        asked.start({})
        end = time.monotonic() + 40
        said = ""
        while not said and time.monotonic() < end:
            said = asked.output()
    while _runs(int(said)):
        assert time.monotonic() < end


def _runs(pid: int) -> bool:
    """Whether it does; one that has ended, and that nobody has waited for, does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_loud_check_is_not_held_up_and_is_shown_in_parts() -> None:
    """A check that never ends as nobody reads what it says; a screen of a gigabyte."""
    with Check("head -c 300000 /dev/zero; exit 3") as asked:
        asked.start({})
        assert until_ended(asked) == "failed"
        assert len(asked.output()) == check.CHUNK


def test_without_a_check_there_is_none() -> None:
    """A roll that waits for a check that nobody asked for."""
    with Check("") as none:
        none.start({})
        assert (none.result(), none.output()) == ("none", "")
