"""Agents that boot at once against an AWS that throttles, in simulated time."""

import pytest
from herd import Run, run
from throttle import buckets

SIZE = 100
SHARE = 0.2  # of what AWS lets an account do: so few agents meet what five hundred would


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(SIZE, buckets(SHARE), tmp_path_factory.mktemp("herd"))


def test_all_of_a_herd_are_in_service_well_within_their_boots_time(herd: Run) -> None:
    """A group that doubles at once: its instances are throttled, give up, and are replaced by as many again."""
    assert herd.throttled > 0.5, "AWS had to refuse most calls for this to say anything"
    assert not herd.failed
    assert herd.share_in_service(1) < 200  # of 900; what AWS lets them do takes 120
    assert herd.recorded == SIZE


def test_no_agent_of_a_herd_asks_without_a_bound(herd: Run) -> None:
    """Retries that keep throttled whoever else calls AWS in that account."""
    calls = herd.each()
    assert sum(calls) / SIZE < 130  # 22 without throttling
    assert calls[-1] < 200


def test_the_retries_of_a_herd_do_not_come_in_step(herd: Run) -> None:
    """All that were refused in one moment come again in one: each wave is as high as the first, and as much in vain."""
    offered = herd.offered()
    windows = [offered[start : start + 10] for start in range(0, len(offered), 10)]
    first, *later = map(max, windows)
    assert max(later) < first / 2
    # From the 50th second on all have started their app, and retries are what is left, until few agents are.
    assert [window for window in windows[5:] if sum(window) > 2 * SIZE and max(window) > 2 * sum(window) / 10] == []
