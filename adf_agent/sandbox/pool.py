"""What one target group or classic load balancer is to its instances, as its haproxy has them."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.haproxy import Haproxy, Server

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

    Each instance joins and leaves by itself, at *cloud*'s address of it. Its draining ends with its last request, not
    before *settle*, and by force after *delay*. AWS goes on *showing* a target as draining until the delay is over
    (*settle* = *delay*), though it drains no longer:
    https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html
    """

    name: str
    arn: str
    cloud: Cloud
    haproxy: Haproxy
    registered: Callable[[], list[str]]  # instance ids, as moto has them now
    delay: float
    settle: float
    _joined: dict[str, float] = field(default_factory=dict)  # by instance: monotonic seconds
    _left: dict[str, float] = field(default_factory=dict)  # likewise, of those that drain
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        """Where its users send requests."""
        return self.haproxy.url

    @property
    def state(self) -> str:
        """Of the cloud's own instance."""
        return self.state_of(self.cloud.imds.instance.instance_id)

    def state_of(self, instance_id: str) -> str:
        """As a target group names it: unused, initial, healthy, unhealthy or draining."""
        return self.states([instance_id])[instance_id]

    def states(self, instance_ids: Collection[str] = ()) -> dict[str, str]:
        """The same of several, at one question to haproxy; of all that are registered or drain where none is named."""
        with self._lock:
            self._take_up()
            servers = self.haproxy.servers()
            return {each: self._state(each, servers) for each in instance_ids or (*self._joined, *self._left)}

    def drains(self, instance_id: str) -> bool:
        """Whether it is deregistered and requests to it may still be under way. Costs no question to haproxy."""
        with self._lock:
            self._take_up()
            return instance_id in self._left

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
        """Has haproxy do what was registered or deregistered since, and ends each draining that is over."""
        with self._lock:
            self._take_up()
            servers = self.haproxy.servers() if self._left else {}
            for each, left in [*self._left.items()]:
                if self._drained(_since(left), servers[each].sessions) and self.haproxy.leave(each):
                    del self._left[each]

    def _drained(self, seconds: float, sessions: int) -> bool:
        return seconds >= self.delay or (seconds >= self.settle and sessions == 0)

    def _take_up(self) -> None:
        """The registrations since. An instance that drains still, and is registered again, serves again."""
        registered = self.registered()
        for each in registered:
            if each not in self._joined:
                self.haproxy.join(each, self.cloud.address(each))
                self._joined[each] = time.monotonic()
                self._left.pop(each, None)
        for each in self._joined.keys() - registered:
            self.haproxy.drain(each)
            del self._joined[each]
            self._left[each] = time.monotonic()

    def _state(self, instance_id: str, servers: Mapping[str, Server]) -> str:
        if instance_id in self._left:
            return "draining"
        if instance_id not in self._joined:
            return "unused"
        if servers[instance_id].up:
            return "healthy"
        checks = _since(self._joined[instance_id]) / self.haproxy.interval
        return "initial" if checks < FIRST_CHECKS else "unhealthy"


def _since(moment: float) -> float:
    return time.monotonic() - moment
