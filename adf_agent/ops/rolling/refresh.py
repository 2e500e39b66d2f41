"""An instance refresh as DescribeInstanceRefreshes tells of it: one value, and what its status means.

https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_InstanceRefresh.html
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

from adf_agent import aws
from adf_agent.errors import AgentError
from adf_agent.ops.rolling.errors import Refused, Unseen, no_group

DONE, BACK = "Successful", "RollbackSuccessful"
FAILED = frozenset({"Failed", "Cancelled", BACK, "RollbackFailed"})
FORWARD = frozenset({"Pending", "InProgress", "Baking"})  # under way, and can be rolled back


class Describes(Protocol):
    def describe_instance_refreshes(self, **request: Any) -> Any: ...


@dataclass(frozen=True)
class Refresh:
    """*version* is the one of its *template* (id or name) that it deploys, as it was named.

    Both are "" where it has no configuration of its own, and then it can't be rolled back.

    *started* is in epoch seconds, 0 before that; *left* a number of instances, *first* the percentage of the first
    checkpoint (100 without one), *delay* that checkpoint's seconds, or those of the bake at the end where there is
    none; *warmup* the seconds that come before these, None for the group's own. *automatic*: AWS rolls it back itself.
    """

    id: str
    status: str
    reason: str = ""
    percentage: int = 0
    left: int = 0
    started: float = 0.0
    template: str = ""
    version: str = ""
    first: int = 100
    delay: int = 0
    warmup: int | None = None
    automatic: bool = False
    alarms: tuple[str, ...] = ()
    rollback: str = ""  # why it was rolled back
    over: bool = False  # it has an end, whatever AWS may call that one day

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Self:
        wanted, desired = described.get("Preferences", {}), described.get("DesiredConfiguration", {})
        policy = desired.get("MixedInstancesPolicy", {}).get("LaunchTemplate", {})
        named = policy.get("LaunchTemplateSpecification") or desired.get("LaunchTemplate", {})
        checkpoints, started = wanted.get("CheckpointPercentages"), described.get("StartTime")
        return cls(
            id=described["InstanceRefreshId"],
            status=described["Status"],
            reason=described.get("StatusReason", ""),
            percentage=described.get("PercentageComplete", 0),
            left=described.get("InstancesToUpdate", 0),
            started=started.timestamp() if started else 0.0,
            template=named.get("LaunchTemplateId") or named.get("LaunchTemplateName", ""),
            version=named.get("Version", "$Default") if named else "",
            first=checkpoints[0] if checkpoints else 100,
            delay=wanted.get("CheckpointDelay", 3600) if checkpoints else wanted.get("BakeTime", 0),
            warmup=wanted.get("InstanceWarmup"),
            automatic=wanted.get("AutoRollback", False),
            alarms=tuple(wanted.get("AlarmSpecification", {}).get("Alarms", ())),
            rollback=described.get("RollbackDetails", {}).get("RollbackReason", ""),
            over="EndTime" in described,
        )

    @property
    def done(self) -> bool:
        return self.status == DONE

    @property
    def failed(self) -> bool:
        return self.status in FAILED or (self.over and not self.done)

    @property
    def ended(self) -> bool:
        return self.done or self.failed

    @property
    def forward(self) -> bool:
        """Whether new instances still come, and it can be rolled back."""
        return self.status in FORWARD and not self.over

    @property
    def why(self) -> str:
        """The engine's own reason; of a rollback that for which there is one, and why it failed where it did."""
        if not self.status.startswith("Rollback"):
            return self.reason
        reasons = (self.rollback, self.reason) if self.status == "RollbackFailed" else (self.rollback or self.reason,)
        return "; ".join(dict.fromkeys(filter(None, reasons)))

    def canaries(self, desired: int) -> int:
        """How many of *desired* instances are new at the first checkpoint."""
        return least(self.first, desired)

    def beyond(self, canaries: int, of: int) -> bool:
        """Whether it has replaced more than *canaries*, *of* so many at least, however AWS rounds a percentage."""
        return self.percentage > math.ceil(100 * canaries / max(1, of))


def least(percentage: int, desired: int) -> int:
    """The least number of *desired* instances that makes a checkpoint's *percentage*.

    https://docs.aws.amazon.com/autoscaling/ec2/userguide/asg-adding-checkpoints-instance-refresh.html
    """
    return math.ceil(desired * percentage / 100)


def latest(client: Describes, group: str) -> Refresh | None:
    """The one under way, else the last one. Raises Refused, also where there is no such group.

    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeInstanceRefreshes.html
    """
    found = _asked(client, Refused, group, MaxRecords=1)
    if found is None:
        raise no_group(group)
    return next(iter(found), None)


def read(client: Describes, group: str, refresh_id: str) -> Refresh:
    """That one. Raises Unseen, or AgentError where the group is gone, and with it the refresh."""
    if found := _asked(client, Unseen, group, InstanceRefreshIds=[refresh_id]):
        return found[0]
    raise AgentError(f"the Auto Scaling group {group} is gone, and its roll with it", hint="See who deleted it.")


def _asked(client: Describes, kind: type[AgentError], group: str, **request: Any) -> list[Refresh] | None:
    """None where there is no such group: a ValidationError, as is whatever else may be wrong with a request."""
    answer: dict[str, Any] = {}
    with aws.asking(kind, "autoscaling:DescribeInstanceRefreshes", group, expected=("ValidationError",)):
        answer = client.describe_instance_refreshes(AutoScalingGroupName=group, **request)
    return [Refresh.of(each) for each in answer["InstanceRefreshes"]] if answer else None
