"""What a refresh is asked to do, in groups of every size."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from adf_agent.ops.rolling import preferences
from adf_agent.ops.rolling.facts import Group, Template
from adf_agent.ops.rolling.wishes import Wishes


def group(desired: int, *hooks: str) -> Group:
    template = Template("lt-1", "web", 7)
    return Group("web", desired, 1, desired, "7", template, launch_hooks=hooks)


def asked(desired: int, *hooks: str, **wishes: Any) -> dict[str, Any]:
    return preferences.preferences(group(desired, *hooks), Wishes("web", **wishes))


@pytest.mark.parametrize(
    ("wish", "desired", "number", "percentage"),
    [
        ("1", 1, 1, 100),
        ("1", 2, 1, 50),
        ("1", 3, 1, 33),
        ("1", 6, 1, 16),
        ("3", 6, 3, 50),
        ("3", 2, 2, 100),
        ("10%", 6, 1, 16),
        ("10%", 25, 3, 12),
        ("50%", 7, 4, 57),
        ("1", 100, 1, 1),
        ("1", 101, 2, 1),
        ("4", 250, 3, 1),
        ("5", 250, 5, 2),
        ("1%", 1000, 10, 1),
        ("100%", 9, 9, 100),
        ("1", 0, 0, 0),
    ],
)
def test_canaries_are_as_many_as_were_asked_for(wish: str, desired: int, number: int, percentage: int) -> None:
    """Two instances with a release that nobody has seen run, where one was asked for."""
    assert preferences.canaries(wish, desired) == number
    if desired:
        assert preferences.checkpoint(number, desired) == percentage


def test_a_checkpoint_is_reached_by_its_canaries_and_not_by_one_less() -> None:
    """A refresh that goes past the canary without a halt, or halts at more than it."""
    for desired in range(1, 1200):
        for wish in range(1, min(desired, 40) + 1):
            number = preferences.canaries(str(wish), desired)
            percentage = preferences.checkpoint(number, desired)
            assert 100 * number >= percentage * desired > 100 * (number - 1)
            assert number == wish if desired <= 100 else number <= max(wish, -(-desired // 100))


@pytest.mark.parametrize("wish", ["0", "0%", "101%", "1.5", "-1", "", "ten", "1 %", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_what_is_no_canary_is_refused(wish: str) -> None:
    """A typo that is taken for the whole fleet."""
    with pytest.raises(ValueError, match="is no canary"):
        preferences.canaries(wish, 6)


@pytest.mark.parametrize(
    ("desired", "number", "batch", "expected"),
    [
        (6, 1, 10, [1, 1, 1, 1, 1, 1]),
        (6, 3, 50, [3, 3]),
        (20, 1, 10, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]),
        (25, 3, 10, [2, 1, *[2] * 11]),
        (4, 4, 100, [4]),
        (1, 1, 10, [1]),
    ],
)
def test_the_steps_of_a_roll_are_foretold(desired: int, number: int, batch: int, expected: Sequence[int]) -> None:
    """An operator who waits for ten minutes, as was said, in front of a roll of two hours."""
    assert preferences.batches(desired, number, batch) == expected


def test_a_canary_comes_first_and_can_always_be_taken_back() -> None:
    """Half of the fleet is terminated before anything new runs; a bad release that stays."""
    assert asked(6, "adf-launch") == {
        "MinHealthyPercentage": 100,
        "MaxHealthyPercentage": 110,
        "SkipMatching": True,
        "AutoRollback": True,
        "ScaleInProtectedInstances": "Ignore",
        "StandbyInstances": "Ignore",
        "CheckpointPercentages": [16, 100],
        "CheckpointDelay": 120,
        "InstanceWarmup": 0,
    }


def test_a_canary_that_is_the_whole_group_is_judged_at_the_end() -> None:
    """A group of one: the roll is over, and can't be rolled back any more, before its release was looked at."""
    found = asked(1, bake=60)
    assert not found.keys() & {"CheckpointPercentages", "CheckpointDelay"}
    assert found["BakeTime"] == 60
    assert "BakeTime" not in asked(2)


def test_alarms_watch_to_the_end() -> None:
    """An alarm that fires a minute after the last instance was replaced, and stops nothing."""
    found = asked(6, alarms=("5xx", "latency"), bake=90)
    assert (found["AlarmSpecification"], found["BakeTime"]) == ({"Alarms": ["5xx", "latency"]}, 90)


def test_every_instance_is_replaced_where_that_is_asked_for() -> None:
    """New config that reaches no instance, as all of them match their template."""
    assert asked(6, replace=True)["SkipMatching"] is False


@pytest.mark.parametrize(
    ("hooks", "held"),
    [((), False), (("adf-launch",), True), (("mine",), True), (("adf-launch", "b"), True), (("a", "b"), False)],
)
def test_only_a_hook_that_waits_for_health_spares_the_warm_up(hooks: Sequence[str], *, held: bool) -> None:
    """Five minutes lost an instance; or an old one that goes while the new one still starts."""
    assert asked(6, *hooks).get("InstanceWarmup") == (0 if held else None)


@pytest.mark.parametrize(
    ("hooks", "asked_for", "seconds"),
    [((), 40, 40), ((), None, 7), (("adf-launch",), 0, 0), (("adf-launch",), None, 7)],
)
def test_the_warm_up_of_a_refresh_is_its_own_or_the_groups(
    hooks: Sequence[str], asked_for: int | None, seconds: int
) -> None:
    """A bake that is reckoned from another moment than AWS has, and a canary that nobody judges to its end."""
    assert preferences.warmup(replace(group(6, *hooks), warmup=7), asked_for) == seconds
    assert preferences.warmup(replace(group(6, *hooks), grace=9), None) == 9


def test_an_old_instance_stays_until_the_load_balancers_know_the_new_one() -> None:
    """A group of one that answers nobody for a few seconds of each roll."""
    wishes = Wishes("web")
    assert preferences.preferences(replace(group(1, "adf-launch"), recognition=15), wishes)["InstanceWarmup"] == 15
    assert "InstanceWarmup" not in preferences.preferences(replace(group(1), recognition=15), wishes)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        (Wishes("web", bake=172_801), "a bake of 172801 s is longer than AWS allows: 172800 s, two days"),
        (Wishes("web", alarms=tuple("abcdefghijk")), "11 alarms are more than AWS allows: 10"),
        (Wishes("web", batch=101), "a batch of 101% is none: it goes from 1% to 100% of the group"),
        (Wishes("web", batch=0), "a batch of 0% is none: it goes from 1% to 100% of the group"),
    ],
)
def test_what_aws_would_refuse_is_said_before(wishes: Wishes, says: str) -> None:
    """A validation error in AWS's words, when a launch template version was made already."""
    assert [*preferences.excessive(wishes)] == [says]


def test_the_limits_themselves_are_allowed() -> None:
    """A bake over the weekend that is refused for nothing."""
    assert not [*preferences.excessive(Wishes("web", bake=172_800, alarms=tuple("abcdefghij"), batch=100))]
