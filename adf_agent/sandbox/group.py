"""An Auto Scaling group around the cloud's one instance, whose lifecycle goes on as a test says."""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

from moto.autoscaling.models import autoscaling_backends

from adf_agent.sandbox.actions import Actions
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.lifecycle import Lifecycle
from adf_agent.sandbox.member import TRANSITIONS, Hook, Member

TICK = 0.02  # seconds


class Group:
    """A context manager. The instance gets moto's id and is Pending; its methods are what happens to it next."""

    def __init__(
        self,
        cloud: Cloud,
        name: str = "web",
        hooks: Sequence[Hook] = (),
        target_groups: Sequence[str] = (),
        load_balancers: Sequence[str] = (),
    ) -> None:
        self.cloud, self.name, self._hooks = cloud, name, hooks
        self._attached = [*target_groups], [*load_balancers]
        self._lock = threading.Condition()
        self._actions = Actions(self._lock, lambda instance: self._life if instance == self._life.member.id else None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="group")

    def __enter__(self) -> Self:
        self._life = Lifecycle(self._member(), self._lock.notify_all)
        self.cloud.front.handlers |= self._actions.handlers
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for name in self._actions.handlers:
            self.cloud.front.handlers.pop(name, None)

    @property
    def state(self) -> str:
        """The lifecycle state, as DescribeAutoScalingInstances has it."""
        return self._life.state

    @property
    def completed(self) -> list[tuple[str, str]]:
        return self._life.completed

    @property
    def heartbeats(self) -> Counter[str]:
        return self._life.heartbeats

    @property
    def unhealthy(self) -> list[bool]:
        return self._life.unhealthy

    @property
    def log(self) -> list[tuple[float, str]]:
        return self._life.log

    @property
    def events(self) -> list[str]:
        """What the log has, without its times."""
        return [event for _, event in self.log]

    def wait_for(self, state: str, seconds: float = 10) -> None:
        """Returns once the instance is in *state*. Raises TimeoutError with the state that it is in."""
        with self._lock:
            if not self._lock.wait_for(lambda: self.state == state, seconds):
                waiting = [*self._life.waiting]
                raise TimeoutError(f"not {state} after {seconds} s but {self.state}; waiting: {waiting}")

    def launch(self, warm: str | None = None) -> None:
        with self._lock:
            self._life.launch(warm)

    def leave_pool(self) -> None:
        with self._lock:
            self._life.leave_pool()

    def return_to_pool(self, warm: str = "Warmed:Running") -> None:
        with self._lock:
            self._life.return_to_pool(warm)

    def terminate(self) -> None:
        with self._lock:
            self._life.terminate()

    def standby(self) -> None:
        with self._lock:
            self._life.standby()

    def exit_standby(self) -> None:
        with self._lock:
            self._life.exit_standby()

    def detach(self) -> None:
        with self._lock:
            self._life.detach()

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            with self._lock:
                self._life.advance()

    def _member(self) -> Member:
        """Makes the group of one Pending instance. moto chooses its id: IMDS has it from here on."""
        autoscaling, instance = self.cloud.client("autoscaling"), self.cloud.imds.instance
        template = {"ImageId": instance.image_id, "InstanceType": instance.type}
        self.cloud.client("ec2").create_launch_template(LaunchTemplateName=self.name, LaunchTemplateData=template)
        autoscaling.create_auto_scaling_group(
            AutoScalingGroupName=self.name,
            LaunchTemplate={"LaunchTemplateName": self.name, "Version": "1"},
            AvailabilityZones=[instance.zone],
            MinSize=0,
            MaxSize=1,
            DesiredCapacity=1,
        )
        for hook in self._hooks:
            autoscaling.put_lifecycle_hook(
                AutoScalingGroupName=self.name,
                LifecycleHookName=hook.name,
                LifecycleTransition=TRANSITIONS[hook.kind],
                HeartbeatTimeout=hook.heartbeat_timeout,
                DefaultResult=hook.default_result,
            )
        made: Any = autoscaling_backends[instance.account][instance.region].autoscaling_groups[self.name]
        # Not by Attach…: moto registers every instance then, whatever its state.
        made.target_group_arns, made.load_balancer_names = self._attached
        (state,) = made.instance_states
        state.lifecycle_state = "Pending"
        instance.instance_id = state.instance.id
        return Member(self.cloud, instance, state)
