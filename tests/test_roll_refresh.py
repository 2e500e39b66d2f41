"""An instance refresh as AWS describes it, and what its status means."""

from datetime import UTC, datetime
from typing import Any

import pytest

from adf_agent.ops.rolling.refresh import Refresh

STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def described(**more: Any) -> dict[str, Any]:
    """As boto3 gives it."""
    return {"InstanceRefreshId": "r-1", "Status": "InProgress", "StartTime": STARTED, **more}


@pytest.mark.parametrize(
    ("status", "ended", "done", "forward"),
    [
        ("Pending", False, False, True),
        ("InProgress", False, False, True),
        ("Baking", False, False, True),
        ("Cancelling", False, False, False),
        ("RollbackInProgress", False, False, False),
        ("Successful", True, True, False),
        ("Failed", True, False, False),
        ("Cancelled", True, False, False),
        ("RollbackSuccessful", True, False, False),
        ("RollbackFailed", True, False, False),
    ],
)
def test_each_of_the_ten_statuses_means_what_aws_says(status: str, ended: bool, done: bool, forward: bool) -> None:
    """A roll that bakes, taken for a failure; a rollback that succeeded, taken for a success."""
    seen = Refresh("r-1", status)
    assert (seen.ended, seen.done, seen.failed, seen.forward) == (ended, done, ended and not done, forward)


def test_a_status_of_tomorrow_ends_when_it_has_an_end() -> None:
    """A watch that goes on for ever, since AWS has an eleventh status."""
    assert not Refresh.of(described(Status="Paused")).ended
    over = Refresh.of(described(Status="Abandoned", EndTime=STARTED))
    assert over.failed
    assert not over.forward


def test_all_that_is_described_is_read() -> None:
    """A roll that is joined without its alarms, its checkpoint or its version: guarded by nothing."""
    seen = Refresh.of(
        described(
            StatusReason="Waiting",
            PercentageComplete=16,
            InstancesToUpdate=5,
            Preferences={
                "CheckpointPercentages": [16, 100],
                "CheckpointDelay": 120,
                "BakeTime": 60,
                "InstanceWarmup": 30,
                "AutoRollback": True,
                "AlarmSpecification": {"Alarms": ["errors"]},
            },
            DesiredConfiguration={"LaunchTemplate": {"LaunchTemplateId": "lt-1", "Version": "8"}},
        )
    )
    assert seen == Refresh(
        "r-1",
        "InProgress",
        "Waiting",
        16,
        5,
        STARTED.timestamp(),
        template="lt-1",
        version="8",
        first=16,
        delay=120,
        warmup=30,
        automatic=True,
        alarms=("errors",),
    )


def test_what_somebody_else_started_is_read_too() -> None:
    """A KeyError in the watch over a refresh that was started in the console."""
    assert Refresh.of({"InstanceRefreshId": "r-1", "Status": "Pending"}) == Refresh("r-1", "Pending")
    mixed = {"MixedInstancesPolicy": {"LaunchTemplate": {"LaunchTemplateSpecification": {"Version": "9"}}}}
    assert Refresh.of(described(DesiredConfiguration=mixed)).version == "9"
    named = Refresh.of(described(DesiredConfiguration={"LaunchTemplate": {"LaunchTemplateName": "web"}}))
    assert (named.template, named.version) == ("web", "$Default")


def test_without_a_checkpoint_the_canary_is_the_group_and_the_bake_is_at_the_end() -> None:
    """A canary of one in a group of one that is judged for no time at all."""
    seen = Refresh.of(described(Preferences={"BakeTime": 60}))
    assert (seen.first, seen.delay, seen.canaries(1)) == (100, 60, 1)
    assert Refresh.of(described(Preferences={"CheckpointPercentages": [50]})).delay == 3600  # AWS's own default


@pytest.mark.parametrize(
    ("first", "desired", "canaries", "within", "beyond"),
    [
        (16, 6, 1, (0, 16, 17), (33,)),  # however AWS rounds a sixth
        (33, 6, 2, (16, 33, 34), (50,)),
        (50, 2, 1, (50,), (100,)),
        (1, 1000, 10, (0, 1), (2,)),
        (100, 1, 1, (0, 100), ()),
        (100, 6, 6, (83, 100), ()),
    ],
)
def test_the_canary_is_over_when_more_than_that_was_replaced(
    first: int, desired: int, canaries: int, within: tuple[int, ...], beyond: tuple[int, ...]
) -> None:
    """A canary that is not judged, as 17 % looks like more than 16 %."""
    assert Refresh("r-1", "InProgress", first=first).canaries(desired) == canaries
    seen = [Refresh("r-1", "InProgress", percentage=each) for each in (*within, *beyond)]
    assert [each.percentage for each in seen if each.beyond(canaries, desired)] == [*beyond]


@pytest.mark.parametrize(
    ("status", "reason", "rollback", "why"),
    [
        ("InProgress", "waiting", "", "waiting"),
        ("Failed", "no progress", "", "no progress"),
        ("RollbackInProgress", "waiting", "an alarm", "an alarm"),
        ("RollbackSuccessful", "", "an alarm", "an alarm"),
        ("RollbackFailed", "no progress", "an alarm", "an alarm; no progress"),
        ("RollbackFailed", "an alarm", "an alarm", "an alarm"),
        ("RollbackInProgress", "waiting", "", "waiting"),
    ],
)
def test_the_reason_of_a_rollback_is_that_for_which_there_is_one(
    status: str, reason: str, rollback: str, why: str
) -> None:
    """A roll that went back, and the last line on the screen says what it waited for."""
    assert Refresh("r-1", status, reason, rollback=rollback).why == why
