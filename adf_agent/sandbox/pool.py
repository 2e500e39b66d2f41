"""What one target group or classic load balancer is to the instance, as its haproxy has it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from adf_agent.sandbox.haproxy import Haproxy

FIRST_CHECKS = 5  # as many intervals pass before a target that never answered is unhealthy

# Reason and description: https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html
TARGET = {
    "unused": ("Target.NotRegistered", "Target is not registered to the target group"),
    "initial": ("Elb.RegistrationInProgress", "Target registration is in progress"),
    "unhealthy": ("Target.FailedHealthChecks", "Health checks failed"),
    "draining": ("Target.DeregistrationInProgress", "Target deregistration is in progress"),
}
# State, reason, description: https://docs.aws.amazon.com/elasticloadbalancing/2012-06-01/APIReference/API_InstanceState.html
FAILED = "Instance has failed at least the UnhealthyThreshold number of health checks consecutively."
INSTANCE = {
    "unused": ("OutOfService", "Instance", "Instance is not currently registered with the LoadBalancer."),
    "initial": ("OutOfService", "ELB", "Instance registration is still in progress."),
    "healthy": ("InService", "N/A", "N/A"),
    "unhealthy": ("OutOfService", "Instance", FAILED),
    "draining": ("InService", "N/A", "Instance deregistration currently in progress."),
}


@dataclass
class Pool:
    """A target group, or a classic load balancer (no *arn*), that follows what moto has registered. Times in seconds.

    Draining ends with the last request, not before *settle*, and by force after *delay*. AWS goes on *showing* a
    target as draining until the delay is over (*settle* = *delay*), though it drains no longer:
    https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html
    """

    name: str
    arn: str
    haproxy: Haproxy
    registered: Callable[[], bool]
    delay: float
    settle: float
    _joined: float | None = None
    _left: float | None = None
    _lock: Any = field(default_factory=threading.RLock)

    @property
    def url(self) -> str:
        """Where its users send requests."""
        return self.haproxy.url

    @property
    def draining(self) -> bool:
        return self.state == "draining"

    @property
    def state(self) -> str:
        """Of the instance, as a target group names it: unused, initial, healthy, unhealthy or draining."""
        with self._lock:
            self.follow()
            if self._left is not None:
                return "draining"
            if self._joined is None:
                return "unused"
            if self.haproxy.up:
                return "healthy"
            return "initial" if _since(self._joined) < FIRST_CHECKS * self.haproxy.interval else "unhealthy"

    def target(self, name: str, state: str) -> dict[str, Any]:
        """A member of DescribeTargetHealth's answer."""
        health = dict(zip(("State", "Reason", "Description"), (state, *TARGET.get(state, ())), strict=False))
        port = self.haproxy.port
        return {"Target": {"Id": name, "Port": port}, "HealthCheckPort": port, "TargetHealth": health}

    def instance(self, name: str, state: str) -> dict[str, str]:
        """A member of DescribeInstanceHealth's answer."""
        state, reason, description = INSTANCE[state]
        return {"InstanceId": name, "State": state, "ReasonCode": reason, "Description": description}

    def follow(self) -> None:
        """Has haproxy do what was registered or deregistered since, and ends a draining that is over."""
        with self._lock:
            if self.registered():
                if self._joined is None:
                    self._joined, self._left = time.monotonic(), None
                    self.haproxy.join()
            elif self._joined is not None:
                self._joined, self._left = None, time.monotonic()
                self.haproxy.drain()
            elif self._left is not None and self._drained(_since(self._left)):
                self._left = None
                self.haproxy.leave()

    def _drained(self, seconds: float) -> bool:
        return seconds >= self.delay or (seconds >= self.settle and self.haproxy.sessions == 0)


def _since(moment: float) -> float:
    return time.monotonic() - moment
