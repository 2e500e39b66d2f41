"""How long a failing instance is kept for a person, as a file tells."""

import time
from pathlib import Path

import pytest
from conftest import Unprivileged

from adf_agent import hold
from adf_agent.errors import AgentError
from adf_agent.root import Root
from adf_agent.state import prepare


@pytest.fixture
def place(tmp_path: Path) -> Root:
    """The folders of an agent on which nobody has put a hold."""
    root = Root(tmp_path)
    prepare(root)
    return root


def test_nobody_is_held_unasked(place: Root) -> None:
    """A broken instance that stays in its group, for a file that was never there."""
    assert hold.left(place) == 0.0
    hold.end(place)
    assert hold.left(place) == 0.0


def test_a_hold_lasts_as_long_as_was_said_and_the_last_word_counts(place: Root) -> None:
    """An operator who prolongs the hold, and whose instance is gone at the first one's end."""
    for seconds in (7200.0, 60.0, 86400.0):
        hold.begin(place, seconds)
        assert seconds - 5 <= hold.left(place) <= seconds + 1
    hold.end(place)
    assert hold.left(place) == 0.0


def test_an_ordinary_user_is_told_to_use_sudo(unprivileged: Unprivileged) -> None:
    """“See the owner and mode of its folder”, and a failing instance is gone before anybody found the word."""
    folder = unprivileged.folder / "run/adf-agent"
    folder.mkdir(parents=True)
    process = unprivileged("-m", "adf_agent", "hold", "2h", env={"ADF_ROOT": str(unprivileged.folder)})
    _, log = process.communicate(timeout=60)
    assert (process.returncode, "→ sudo adf-agent hold 7200s" in log) == (1, True), log


@pytest.mark.parametrize("seconds", [0.0, -3600.0])
def test_a_hold_ends_by_itself(place: Root, seconds: float) -> None:
    """An instance that its person forgot, kept and paid for until somebody finds it."""
    hold.begin(place, seconds)
    assert hold.left(place) <= 1.0
    place.hold.write_text(f"{hold.uptime() - 1:.0f}\n")
    assert hold.left(place) == 0.0


def test_the_wall_clock_has_no_say(place: Root) -> None:
    """A first time sync that jumps ahead by years, and the body is gone before anybody came."""
    hold.begin(place, 3600)
    assert abs(float(place.hold.read_text()) - time.clock_gettime(time.CLOCK_BOOTTIME) - 3600) < 5


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"2h", b"2026-01-01T00:00:00Z", b"\xff\xfe\x00", b"nan", b"-inf", b"1 2", b"[1e9]"], ids=str
)
def test_what_is_no_number_holds_nothing(place: Root, content: bytes) -> None:
    """A loop that dies of a file which somebody edited; a failing instance that is kept for ever by it."""
    place.hold.write_bytes(content)
    assert hold.left(place) == 0.0
    hold.begin(place, 60)
    assert hold.left(place) > 50, "and may be begun anew"


def test_a_folder_in_the_files_place_holds_nothing(place: Root) -> None:
    """A loop that dies of what can't be read."""
    place.hold.mkdir()
    assert hold.left(place) == 0.0


def test_a_hold_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    """An operator who believes an instance held that is replaced a minute later."""
    with pytest.raises(AgentError, match="hold can't be written"):
        hold.begin(Root(tmp_path / "missing"), 60)


def test_any_user_may_read_how_long_it_is_kept(place: Root) -> None:
    """A status that says nothing of the hold to whoever is not root."""
    hold.begin(place, 60)
    assert place.hold.stat().st_mode & 0o777 == 0o644
