"""The Auto Scaling group that an instance is in: its state there, the lifecycle hook that is ours, its health."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from adf_agent import aws
from adf_agent.errors import ReportError

Kind = Literal["launch", "terminate"]
Result = Literal["CONTINUE", "ABANDON"]
TRANSITIONS: dict[Kind, str] = {
    "launch": "autoscaling:EC2_INSTANCE_LAUNCHING",
    "terminate": "autoscaling:EC2_INSTANCE_TERMINATING",
}
INACTIVE, NOT_MANAGED = "no active lifecycle action", "no managed instance found"  # as Auto Scaling says it
# The states in which a hook of a kind waits, or may yet come to wait. On its way back to a warm pool an instance is
# pending again, and it is the terminate hooks that wait then.
# https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pool-instance-lifecycle.html
WAITING: dict[Kind, tuple[str, ...]] = {
    "launch": ("Pending", "Pending:Wait", "Warmed:Pending", "Warmed:Pending:Wait"),
    "terminate": (
        "InService",  # for a moment after the notice
        *("Terminating", "Terminating:Wait", "Warmed:Terminating", "Warmed:Terminating:Wait"),
        *("Warmed:Pending", "Warmed:Pending:Wait"),
    ),
}


class AutoScaling(Protocol):
    def describe_auto_scaling_instances(self, **request: Any) -> Any: ...
    def describe_lifecycle_hooks(self, **request: Any) -> Any: ...
    def describe_load_balancer_target_groups(self, **request: Any) -> Any: ...
    def describe_load_balancers(self, **request: Any) -> Any: ...
    def record_lifecycle_action_heartbeat(self, **request: Any) -> Any: ...
    def complete_lifecycle_action(self, **request: Any) -> Any: ...
    def set_instance_health(self, **request: Any) -> Any: ...


@dataclass(frozen=True)
class Hook:
    """A lifecycle hook that is ours; *timeout*, seconds, runs anew with each heartbeat."""

    name: str
    kind: Kind
    timeout: float = 30.0  # the least there is: for one that may not be asked


@dataclass(frozen=True)
class Group:
    """The group *name*, as far as *instance_id* deals with it. *state* is the instance's when this was read.

    Each call raises ReportError.
    https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks-overview.html
    """

    client: AutoScaling
    name: str
    instance_id: str
    state: str  # `Pending:Wait`, `InService`, `Terminating:Wait`, …

    def waits(self, kind: Kind) -> bool:
        """Whether a hook of this kind waits, or may yet come to wait."""
        return self.state in WAITING[kind]

    def hook(self, kind: Kind, wanted: str) -> Hook | None:
        """The hook *wanted* of this kind, else the group's only one; None where it has none of this kind.

        Raises ReportError where there are several and none is it: no other's hook is touched.
        """
        with self._asking("DescribeLifecycleHooks"):
            found = self.client.describe_lifecycle_hooks(AutoScalingGroupName=self.name)["LifecycleHooks"]
        hooks = {
            each["LifecycleHookName"]: Hook(each["LifecycleHookName"], kind, float(each["HeartbeatTimeout"]))
            for each in found
            if each["LifecycleTransition"] == TRANSITIONS[kind]
        }
        if wanted in hooks or len(hooks) < 2:  # noqa: PLR2004  several
            return hooks.get(wanted) or next(iter(hooks.values()), None)
        raise ReportError(
            f"{self.name} has {len(hooks)} {kind} hooks ({', '.join(sorted(hooks))}) and none of them is {wanted}",
            hint=f"Name ours with ADF_{kind.upper()}_HOOK.",
            cause="settings",
        )

    def attached(self) -> tuple[list[str], list[str]]:
        """ARNs of the target groups, and names of the classic load balancers, that are attached to the group."""
        request = {"AutoScalingGroupName": self.name}
        with self._asking("DescribeLoadBalancerTargetGroups"):
            groups = self.client.describe_load_balancer_target_groups(**request)["LoadBalancerTargetGroups"]
        with self._asking("DescribeLoadBalancers"):
            balancers = self.client.describe_load_balancers(**request)["LoadBalancers"]
        return [each["LoadBalancerTargetGroupARN"] for each in groups], [each["LoadBalancerName"] for each in balancers]

    def heartbeat(self, hook: Hook) -> bool:
        """Lets *hook* wait for its time-out once more; False where it does not wait."""
        with self._asking("RecordLifecycleActionHeartbeat"):
            return _unless(INACTIVE, self.client.record_lifecycle_action_heartbeat, **self._action(hook))

    def complete(self, hook: Hook, result: Result) -> bool:
        """Ends the wait of *hook*; False where it does not wait, or not yet."""
        with self._asking("CompleteLifecycleAction"):
            call = self.client.complete_lifecycle_action
            return _unless(INACTIVE, call, **self._action(hook), LifecycleActionResult=result)

    def now(self) -> "Group | None":
        """The same, with the instance's present state; None once it has left every group."""
        return find(self.client, self.instance_id)

    def _action(self, hook: Hook) -> dict[str, str]:
        return {
            "AutoScalingGroupName": self.name,
            "LifecycleHookName": hook.name,
            "InstanceId": self.instance_id,
        }

    def _asking(self, action: str) -> AbstractContextManager[None]:
        return aws.asking(ReportError, f"autoscaling:{action}", f"Auto Scaling group {self.name}")


def find(client: AutoScaling, instance_id: str) -> Group | None:
    """The group that *instance_id* is in now, None outside any. Raises ReportError."""
    with aws.asking(ReportError, "autoscaling:DescribeAutoScalingInstances", "*"):
        found = client.describe_auto_scaling_instances(InstanceIds=[instance_id])["AutoScalingInstances"]
    return Group(client, found[0]["AutoScalingGroupName"], instance_id, found[0]["LifecycleState"]) if found else None


def report_unhealthy(client: AutoScaling, instance_id: str) -> bool:
    """Has the instance replaced, within its grace period too; False where no group has it. Raises ReportError."""
    with aws.asking(ReportError, "autoscaling:SetInstanceHealth", instance_id):
        request = {"HealthStatus": "Unhealthy", "ShouldRespectGracePeriod": False}
        return _unless(NOT_MANAGED, client.set_instance_health, InstanceId=instance_id, **request)


def _unless(words: str, call: Any, **request: Any) -> bool:
    """Whether *call* did what it should; False where the answer has *words*: its code is that of any wrong request."""
    try:
        call(**request)
    except aws.faults() as error:
        if words in str(error).lower():
            return False
        raise
    return True
