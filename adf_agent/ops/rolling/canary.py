"""How the new instances of a roll do, judged by what is seen of them. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from adf_agent.fleetrecord import ENDED, FleetRecord

Checked = Literal["none", "running", "passed", "failed"]  # what became of --check
GONE = "gone"
TOO_MANY, SHARE = 2, 10  # failures of the rest: two at least, and more than a tenth of the new ones


@dataclass(frozen=True)
class Instance:
    """A new one, as it was last seen. *state* is its lifecycle state, GONE once it is not in the group any more.

    *served*: it has been InService. *well*: it was healthy there once, by a load balancer or its own record, for which
    its app has answered. *balancer* is what a load balancer holds against it, "" for nothing. *record* is None where it
    has kept none.
    """

    id: str
    state: str
    served: bool = False
    well: bool = False
    balancer: str = ""
    record: FleetRecord | None = None

    @property
    def leaving(self) -> bool:
        return leaving(self.state)

    @property
    def phase(self) -> str:
        return self.record.phase if self.record else ""


@dataclass(frozen=True)
class Verdict:
    """Why a roll must go back; *instance* is the one that shows it, None where none does."""

    reason: str
    instance: Instance | None = None


def leaving(state: str) -> bool:
    """Whether an instance in this lifecycle *state* is on its way out of the group, or gone."""
    return state == GONE or state.startswith(("Terminat", "Detach"))


def judged(canaries: Sequence[Instance], firing: Collection[str], checked: Checked, *, late: bool) -> Verdict | None:
    """What is wrong with the canary; None as long as nothing is.

    *firing* are the alarms in ALARM, *late* is whether the bake is over.
    """
    for each in canaries:
        if reason := _fault(each, late=late):
            return Verdict(f"canary {each.id} {reason}", each)
    if firing:
        return Verdict(f"in ALARM: {', '.join(sorted(firing))}")
    if checked == "failed" or (checked == "running" and late):
        return Verdict(f"--check {'failed' if checked == 'failed' else 'did not end within the bake'}")
    return None


def outnumbered(instances: Collection[Instance]) -> Verdict | None:
    """What is wrong with the rest: single ones that fail are the group's to replace."""
    failed = [each for each in instances if failing(each)]
    if len(failed) >= TOO_MANY and len(failed) * SHARE > len(instances):
        return Verdict(f"{len(failed)} of {len(instances)} new instances failed", failed[-1])
    return None


def failing(instance: Instance) -> bool:
    """Whether it says so itself, or never came into service."""
    return instance.phase in ENDED or (instance.leaving and not instance.served)


def in_service(canaries: Iterable[Instance], number: int) -> bool:
    """Whether *number* of them serve, as far as can be seen."""
    return sum(each.state == "InService" for each in canaries) >= number


def _fault(instance: Instance, *, late: bool) -> str:
    """What is wrong with a canary, by its own record, its group and the load balancers, in this order; or ""."""
    if instance.record and (own := _by_record(instance.record)):
        return own
    if instance.leaving:
        return "left the group while it was judged" if instance.served else "is gone without being in service"
    if instance.balancer and (instance.well or late):  # before, its app may still be on its way up
        return f"is unhealthy to the load balancer: {instance.balancer}"
    return ""


def _by_record(record: FleetRecord) -> str:
    if record.phase in ENDED:
        at = f" at {record.stage}" if record.stage else ""
        return f"{record.phase}{at}" + (f": {record.error}" if record.error else "")
    if record.restarts or record.phase == "restarting":
        return f"restarted its app, {max(1, record.restarts)} in a row"
    return f"has an error: {record.error}" if record.error else ""
