"""The preferences of an instance refresh, both directions: as the API has them, and as `Preferences` has them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adf_agent.sandbox.replacement import Preferences

SWITCH = ("true", "false")
# What may be preferred, by its name here: https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_RefreshPreferences.html
FIELDS: Mapping[str, tuple[str, Sequence[Any]]] = {
    "AutoRollback": ("auto_rollback", SWITCH),
    "BakeTime": ("bake", range(172_800 + 1)),
    "CheckpointDelay": ("delay", range(172_800 + 1)),
    "InstanceWarmup": ("warmup", range(2**31)),
    "MaxHealthyPercentage": ("max_healthy", range(100, 200 + 1)),
    "MinHealthyPercentage": ("min_healthy", range(100 + 1)),
    "ScaleInProtectedInstances": ("protected", ("Refresh", "Ignore", "Wait")),
    "SkipMatching": ("skip_matching", SWITCH),
    "StandbyInstances": ("standby", ("Terminate", "Ignore", "Wait")),
}
PERCENTAGE = range(1, 100 + 1)
WIDEST, ALARMS = 100, 10  # between minimum and maximum; how many


class RefusedError(Exception):
    """What the caller is told: code and message."""

    def __init__(self, message: str, code: str = "ValidationError") -> None:
        super().__init__(code, message)


def read(given: Mapping[str, Any], warmup: int, maintenance: tuple[int, int] | None) -> Preferences:
    """What is *given* (API_RefreshPreferences), completed by the group's own. Raises what the caller is told."""
    chosen: dict[str, Any] = {"warmup": warmup}
    if maintenance:
        chosen["min_healthy"], chosen["max_healthy"] = maintenance
    for name, (field, allowed) in FIELDS.items():
        if name in given:
            chosen[field] = value(name, given[name], allowed)
    steps = given.get("CheckpointPercentages", ())
    chosen["checkpoints"] = tuple(value("CheckpointPercentages", step, PERCENTAGE) for step in steps)
    chosen["alarms"] = tuple(given.get("AlarmSpecification", {}).get("Alarms", ()))
    made = Preferences(**chosen)
    if wrong := next(_contradictions(given, made), ""):
        raise RefusedError(wrong)
    return made


def _contradictions(given: Mapping[str, Any], made: Preferences) -> Iterator[str]:
    if "MaxHealthyPercentage" in given and "MinHealthyPercentage" not in given:
        yield "MaxHealthyPercentage needs MinHealthyPercentage"
    if (made.max_healthy or 100) - made.min_healthy > WIDEST:
        yield f"MaxHealthyPercentage is more than {WIDEST} above MinHealthyPercentage"
    if list(made.checkpoints) != sorted(set(made.checkpoints)):
        yield "CheckpointPercentages are not in ascending order"
    if "CheckpointDelay" in given and not made.checkpoints:
        yield "CheckpointDelay needs CheckpointPercentages"
    if len(made.alarms) > ALARMS:
        yield f"There are more than {ALARMS} alarms"


def value(name: str, text: str, allowed: Sequence[Any]) -> Any:
    """What *text* means for *name*. Raises RefusedError where it is not *allowed*."""
    meant = int(text) if isinstance(allowed, range) and text.isdecimal() else text
    if meant not in allowed:
        raise RefusedError(f"{name} is {text}, which is not in {allowed}")
    return text == "true" if allowed is SWITCH else meant


def written(chosen: Preferences) -> Iterator[tuple[str, Any]]:
    """As DescribeInstanceRefreshes has them; what is unset is left out."""
    for name, (field, allowed) in FIELDS.items():
        value = getattr(chosen, field)
        if value is not None and (chosen.checkpoints or name != "CheckpointDelay"):
            yield name, str(value).lower() if allowed is SWITCH else value
    if chosen.checkpoints:
        yield "CheckpointPercentages", [*chosen.checkpoints]
    if chosen.alarms:
        yield "AlarmSpecification", {"Alarms": [*chosen.alarms]}
