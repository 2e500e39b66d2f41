"""One instance as a member of moto's Auto Scaling group: its state, its hooks, where the group registers it.

All of it by moto's state in this process: what the group does by itself is neither counted, failed nor refused.
"""

import time
from typing import Any, NamedTuple

from moto.autoscaling.models import autoscaling_backends
from moto.elb.models import elb_backends
from moto.elbv2.models import elbv2_backends

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.imds import Instance

TRANSITIONS = {"launch": "autoscaling:EC2_INSTANCE_LAUNCHING", "terminate": "autoscaling:EC2_INSTANCE_TERMINATING"}
# https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html: 48 hours or 100 time-outs, the lesser
LONGEST, TIMEOUTS = 48 * 3600, 100


class Hook(NamedTuple):
    name: str
    kind: str  # "launch" or "terminate"
    heartbeat_timeout: int = 60  # seconds; AWS takes no less than 30
    default_result: str = "ABANDON"


class Action:
    """A hook (moto's) that waits for its completion, until its *deadline* (monotonic seconds)."""

    def __init__(self, hook: Any) -> None:
        self.default_result: str = hook.default_result
        self._timeout = float(hook.heartbeat_timeout)
        self._last = time.monotonic() + min(LONGEST, TIMEOUTS * self._timeout)
        self.extend()

    def extend(self) -> None:
        """A heartbeat: the time-out begins anew."""
        self.deadline = min(time.monotonic() + self._timeout, self._last)


class Member:
    """moto's state *made* of one instance, which is in its group; *instance* is what its metadata service says."""

    def __init__(self, cloud: Cloud, instance: Instance, made: Any) -> None:
        self.cloud, self.instance, self.made = cloud, instance, made

    @property
    def id(self) -> str:
        return str(self.made.instance.id)

    @property
    def state(self) -> str:
        """The lifecycle state, as DescribeAutoScalingInstances has it."""
        return str(self.made.lifecycle_state)

    @state.setter
    def state(self, state: str) -> None:
        self.made.lifecycle_state = state

    def heads_for(self, state: str) -> None:
        """The target is told from the start on.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html
        """
        self.instance.target_lifecycle_state = state

    def actions(self, kind: str) -> dict[str, Action]:
        """What begins with a transition of *kind*, by hook; PutLifecycleHook may have been called meanwhile."""
        hooks = self._backend(autoscaling_backends).describe_lifecycle_hooks(self._group.name)
        return {hook.name: Action(hook) for hook in hooks if hook.lifecycle_transition == TRANSITIONS.get(kind)}

    def leave(self) -> None:
        """Out of the group: no Describe… lists it any more."""
        self._group.instance_states.remove(self.made)

    def register(self) -> None:
        """Registers it with all that is attached."""
        for arn in self._group.target_group_arns:
            self._backend(elbv2_backends).register_targets(arn, [{"Id": self.id}])
        for name in self._group.load_balancer_names:
            # Not as moto's own group does it: DeregisterInstancesFromLoadBalancer would leave that alone.
            self._backend(elb_backends).register_instances(name, [self.id])

    def deregister(self) -> None:
        """Deregisters it, where nobody did before."""
        for arn in self._group.target_group_arns:
            if self.id in self._backend(elbv2_backends).target_groups[arn].targets:
                self._backend(elbv2_backends).deregister_targets(arn, [{"Id": self.id}])
        for name in self._group.load_balancer_names:
            self._backend(elb_backends).deregister_instances(name, [self.id])

    @property
    def draining(self) -> bool:
        """Whether a load balancer still drains it. Where none of the sandbox's is, deregistered is drained."""
        attached = (*self._group.target_group_arns, *self._group.load_balancer_names)
        pools = [self.cloud.pools.get(name) for name in attached]
        return any(pool.drains(self.id) for pool in pools if pool)

    @property
    def _group(self) -> Any:
        return self.made.auto_scaling_group

    def _backend(self, backends: Any) -> Any:
        return backends[self.instance.account][self.instance.region]
