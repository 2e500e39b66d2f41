"""A load balancer as one of its instances deals with it: join, leave, and its own word on how that went."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from adf_agent import aws
from adf_agent.errors import ReportError

# `out` is not registered, or let go of; `idle` is registered where no load balancer sends anything.
State = Literal["healthy", "unhealthy", "draining", "out", "idle"]


@dataclass(frozen=True)
class Health:
    """What a load balancer says of this instance; *said* are its own words."""

    state: State
    said: str = ""


class ELBv2(Protocol):
    def register_targets(self, **request: Any) -> Any: ...
    def deregister_targets(self, **request: Any) -> Any: ...
    def describe_target_health(self, **request: Any) -> Any: ...


class ELB(Protocol):
    def register_instances_with_load_balancer(self, **request: Any) -> Any: ...
    def deregister_instances_from_load_balancer(self, **request: Any) -> Any: ...
    def describe_instance_health(self, **request: Any) -> Any: ...


class Balancer(Protocol):
    """Each call raises ReportError. Registered already and gone already are successes."""

    @property
    def name(self) -> str: ...
    def register(self) -> None: ...
    def deregister(self) -> None: ...
    def ask(self) -> Health: ...


@dataclass(frozen=True)
class TargetGroup:
    """A target group (of target type `instance`) by its ARN; the target's port is the group's own."""

    client: ELBv2
    arn: str
    instance_id: str

    @property
    def name(self) -> str:
        return f"target group {self.arn.split('/')[-2]}"

    def register(self) -> None:
        with self._asking("RegisterTargets"):
            self.client.register_targets(TargetGroupArn=self.arn, Targets=[{"Id": self.instance_id}])

    def deregister(self) -> None:
        with self._asking("DeregisterTargets", gone=True):
            self.client.deregister_targets(TargetGroupArn=self.arn, Targets=[{"Id": self.instance_id}])

    def ask(self) -> Health:
        """What the target group says.

        https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html
        """
        found: list[Health] = [Health("out", "the target group is gone")]
        with self._asking("DescribeTargetHealth", gone=True):
            answer = self.client.describe_target_health(TargetGroupArn=self.arn, Targets=[{"Id": self.instance_id}])
            found = [_health(each["TargetHealth"]) for each in answer["TargetHealthDescriptions"]]
        return found[0] if found else Health("out")

    def _asking(self, action: str, *, gone: bool = False) -> AbstractContextManager[None]:
        codes = ("TargetGroupNotFound", "InvalidTarget") if gone else ()
        return aws.asking(ReportError, f"elasticloadbalancing:{action}", self.name, codes)


def _health(health: dict[str, str]) -> Health:
    state, reason = health["State"], health.get("Reason", "")
    said = ", ".join(filter(None, (state, reason, health.get("Description", ""))))
    if state in ("healthy", "unavailable"):  # `unavailable`: health checks are off, so every target gets requests
        return Health("healthy", said)
    if state == "unused":
        return Health("idle" if reason == "Target.NotInUse" else "out", said)
    return Health("draining" if state == "draining" else "unhealthy", said)


@dataclass(frozen=True)
class Classic:
    """A classic load balancer by its name."""

    client: ELB
    elb: str
    instance_id: str

    @property
    def name(self) -> str:
        return f"load balancer {self.elb}"

    def register(self) -> None:
        with self._asking("RegisterInstancesWithLoadBalancer"):
            self.client.register_instances_with_load_balancer(**self._request())

    def deregister(self) -> None:
        with self._asking("DeregisterInstancesFromLoadBalancer", gone=True):
            self.client.deregister_instances_from_load_balancer(**self._request())

    def ask(self) -> Health:
        """What the load balancer says.

        https://docs.aws.amazon.com/elasticloadbalancing/2012-06-01/APIReference/API_InstanceState.html
        """
        found: list[Health] = [Health("out", "it is not registered, or the load balancer is gone")]
        with self._asking("DescribeInstanceHealth", gone=True):
            answer = self.client.describe_instance_health(**self._request())
            found = [_classic_health(each) for each in answer["InstanceStates"]]
        return found[0] if found else Health("out")

    def _request(self) -> dict[str, Any]:
        return {"LoadBalancerName": self.elb, "Instances": [{"InstanceId": self.instance_id}]}

    def _asking(self, action: str, *, gone: bool = False) -> AbstractContextManager[None]:
        codes = ("LoadBalancerNotFound", "InvalidInstance", "InvalidEndPoint") if gone else ()
        return aws.asking(ReportError, f"elasticloadbalancing:{action}", self.name, codes)


def _classic_health(state: dict[str, str]) -> Health:
    said = ", ".join(filter(None, (state.get(key, "") for key in ("State", "ReasonCode", "Description"))))
    if "deregistration currently in progress" in said:  # it still calls itself InService
        return Health("draining", said)
    if state["State"] == "Unknown" or "not currently registered" in said:
        return Health("out", said)
    return Health("healthy" if state["State"] == "InService" else "unhealthy", said)
