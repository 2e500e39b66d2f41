"""The instance as a member of moto's Auto Scaling group: its state, its hooks, where the group registers it.

All of it by moto's state in this process: what the group does by itself is neither counted, failed nor refused.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from moto.autoscaling.models import autoscaling_backends
from moto.elb.models import elb_backends
from moto.elbv2.models import elbv2_backends

from adf_agent.sandbox.cloud import Cloud

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


@dataclass
class Member:
    """Of the group *group*, which `create` makes, attached to target groups (ARNs) and classic balancers (names)."""

    cloud: Cloud
    group: str
    target_groups: list[str]
    load_balancers: list[str]

    def create(self, hooks: Sequence[Hook]) -> None:
        """The group of one Pending instance. moto chooses its id: IMDS has it from here on."""
        autoscaling, instance = self.cloud.client("autoscaling"), self.cloud.imds.instance
        template = {"ImageId": instance.image_id, "InstanceType": instance.type}
        self.cloud.client("ec2").create_launch_template(LaunchTemplateName=self.group, LaunchTemplateData=template)
        autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=self.group,
            LaunchTemplate={"LaunchTemplateName": self.group, "Version": "1"},
            AvailabilityZones=[instance.zone],
            MinSize=0,
            MaxSize=1,
            DesiredCapacity=1,
        )
        for hook in hooks:
            autoscaling.put_lifecycle_hook(
                AutoScalingGroupName=self.group,
                LifecycleHookName=hook.name,
                LifecycleTransition=TRANSITIONS[hook.kind],
                HeartbeatTimeout=hook.heartbeat_timeout,
                DefaultResult=hook.default_result,
            )
        made = self._backend(autoscaling_backends).autoscaling_groups[self.group]
        # Not by Attach…: moto registers every instance then, whatever its state.
        made.target_group_arns, made.load_balancer_names = self.target_groups, self.load_balancers
        (self._made,) = made.instance_states
        self.state = "Pending"
        instance.instance_id = self._made.instance.id

    @property
    def id(self) -> str:
        return str(self._made.instance.id)

    @property
    def state(self) -> str:
        """The lifecycle state, as DescribeAutoScalingInstances has it."""
        return str(self._made.lifecycle_state)

    @state.setter
    def state(self, state: str) -> None:
        self._made.lifecycle_state = state

    def actions(self, kind: str) -> dict[str, Action]:
        """What begins with a transition of *kind*, by hook; PutLifecycleHook may have been called meanwhile."""
        hooks = self._backend(autoscaling_backends).describe_lifecycle_hooks(self.group)
        return {hook.name: Action(hook) for hook in hooks if hook.lifecycle_transition == TRANSITIONS.get(kind)}

    def leave(self) -> None:
        """Out of the group: no Describe… lists it any more."""
        self._backend(autoscaling_backends).autoscaling_groups[self.group].instance_states.remove(self._made)

    def register(self) -> None:
        """Registers it with all that is attached."""
        for arn in self.target_groups:
            self._backend(elbv2_backends).register_targets(arn, [{"Id": self.id}])
        for name in self.load_balancers:
            # Not as moto's own group does it: DeregisterInstancesFromLoadBalancer would leave that alone.
            self._backend(elb_backends).register_instances(name, [self.id])

    def deregister(self) -> None:
        """Deregisters it, where nobody did before."""
        for arn in self.target_groups:
            if self.id in self._backend(elbv2_backends).target_groups[arn].targets:
                self._backend(elbv2_backends).deregister_targets(arn, [{"Id": self.id}])
        for name in self.load_balancers:
            self._backend(elb_backends).deregister_instances(name, [self.id])

    @property
    def draining(self) -> bool:
        """Whether a load balancer still drains it. Where none of the sandbox's is, deregistered is drained."""
        pools = [self.cloud.pools.get(name) for name in (*self.target_groups, *self.load_balancers)]
        return any(pool.draining for pool in pools if pool)

    def _backend(self, backends: Any) -> Any:
        return backends[self.cloud.imds.instance.account][self.cloud.imds.instance.region]
