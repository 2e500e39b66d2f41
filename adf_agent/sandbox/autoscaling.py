"""EC2 Auto Scaling over moto's: every group is really kept, by instances that run, and can be refreshed."""

from contextlib import ExitStack
from http import HTTPStatus
from typing import Self
from unittest.mock import patch

from moto.autoscaling.models import AutoScalingBackend, FakeAutoScalingGroup
from werkzeug.wrappers import Response

from adf_agent.sandbox.actions import Actions
from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import Call, Handler, Then, error, success
from adf_agent.sandbox.keeper import Keeper
from adf_agent.sandbox.kept import Launcher
from adf_agent.sandbox.lifecycle import Lifecycle
from adf_agent.sandbox.templates import Templates

MOVES = {
    "EnterStandby": Lifecycle.standby,
    "ExitStandby": Lifecycle.exit_standby,
    "DetachInstances": Lifecycle.detach,
}
MAINTENANCE = "InstanceMaintenancePolicy"


class AutoScaling:
    """A context manager. Instances run on what *launcher* makes; they are ended when it ends."""

    def __init__(self, cloud: Cloud, launcher: Launcher) -> None:
        self.keeper = Keeper(cloud, launcher)
        self._cloud, self._lock = cloud, self.keeper.lock
        self._handlers = self._all_handlers()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # moto launches and registers at once, and terminates without a word: that is ours.
        self._stack.enter_context(patch.object(FakeAutoScalingGroup, "set_desired_capacity", _desire))
        for name in ("update_attached_elbs", "update_attached_target_groups"):
            self._stack.enter_context(patch.object(AutoScalingBackend, name, lambda *_: None))
        self._cloud.front.handlers |= self._handlers
        self.keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.keeper.stop()
        for name in self._handlers:
            self._cloud.front.handlers.pop(name, None)
        self._stack.close()

    def _all_handlers(self) -> dict[str, Handler]:
        return {
            **Actions(self._lock, self.keeper.life).handlers,
            **self.keeper.refreshes.handlers,
            **Templates(self._cloud).handlers,
            "autoscaling:CreateAutoScalingGroup": self._saved,
            "autoscaling:UpdateAutoScalingGroup": self._updated,
            "autoscaling:DescribeAutoScalingGroups": self._described,
            "autoscaling:DeleteAutoScalingGroup": self._deleted,
            "autoscaling:TerminateInstanceInAutoScalingGroup": self._terminated,
            **{f"autoscaling:{action}": self._moved for action in MOVES},
        }

    def _updated(self, call: Call, then: Then) -> Response:
        """Not what a refresh has under way."""
        check = self.keeper.refreshes.handlers["autoscaling:UpdateAutoScalingGroup"]
        return check(call, lambda: self._saved(call, then))

    def _saved(self, call: Call, then: Then) -> Response:
        """What moto forgets is kept: two settings, and at an update of others the mixed instances policy."""
        name = call.form.get("AutoScalingGroupName", "")
        with self._lock:
            kept = self.keeper.kept.get(name)
            policy = kept.group.mixed_instances_policy if kept else None
            answer = then()
            if answer.status_code != HTTPStatus.OK:
                return answer
            if kept and not any(key.startswith(("LaunchTemplate.", "LaunchConfig")) for key in call.form):
                kept.group.mixed_instances_policy = kept.group.mixed_instances_policy or policy
            if warmup := call.form.get("DefaultInstanceWarmup"):
                self.keeper.warmups[name] = int(warmup)
            bounds = [call.form.get(f"{MAINTENANCE}.{end}HealthyPercentage", "") for end in ("Min", "Max")]
            if all(bounds):
                self.keeper.maintenance[name] = (int(bounds[0]), int(bounds[1]))
        return answer

    def _described(self, _: Call, then: Then) -> Response:
        """Moto's answer, and in each group what it forgot."""
        answer = then()
        text = answer.get_data(as_text=True)
        for name in {*self.keeper.warmups, *self.keeper.maintenance}:
            more = ""
            if name in self.keeper.warmups:
                more = f"<DefaultInstanceWarmup>{self.keeper.warmups[name]}</DefaultInstanceWarmup>"
            if bounds := self.keeper.maintenance.get(name):
                ends = zip(("Min", "Max"), bounds, strict=True)
                inner = "".join(f"<{end}HealthyPercentage>{bound}</{end}HealthyPercentage>" for end, bound in ends)
                more += f"<{MAINTENANCE}>{inner}</{MAINTENANCE}>"
            mark = f"<AutoScalingGroupName>{name}</AutoScalingGroupName>"
            text = text.replace(mark, f"{mark}{more}", 1)  # its instances name it as well
        answer.set_data(text)
        return answer

    def _deleted(self, call: Call, then: Then) -> Response:
        name = call.form.get("AutoScalingGroupName", "")
        with self._lock:
            kept = self.keeper.kept.get(name)
            if kept and kept.lives and call.form.get("ForceDelete") != "true":
                return error(call, "ResourceInUse", f"{name} still has instances: delete it by force")
            answer = then()
            if kept and answer.status_code == HTTPStatus.OK:
                self.keeper.end(*kept.empty())
                del self.keeper.kept[name]
                self.keeper.refreshes.forget(name)
        return answer

    def _terminated(self, call: Call, _: Then) -> Response:
        with self._lock:
            life = self.keeper.life(call.form.get("InstanceId", ""))
            if not life:
                return error(call, "ValidationError", "Instance Id not found - No managed instance found")
            if call.form.get("ShouldDecrementDesiredCapacity") == "true":
                life.member.made.auto_scaling_group.desired_capacity -= 1
            life.terminate()
        return success(call, {"Activity": {}})

    def _moved(self, call: Call, _: Then) -> Response:
        """Standby and back, or detached. The desired capacity falls where that is asked; back from standby it rises."""
        named = [value for key, value in call.form.items() if key.startswith("InstanceIds.member.")]
        with self._lock:
            lives = [life for name in named if (life := self.keeper.life(name))]
            if len(lives) != len(named):
                return error(call, "ValidationError", "The instance is not part of the Auto Scaling group")
            for life in lives:
                fewer = call.form.get("ShouldDecrementDesiredCapacity") == "true"
                life.member.made.auto_scaling_group.desired_capacity += 1 if call.action == "ExitStandby" else -fewer
                MOVES[call.action](life)
        return success(call, {"Activities": []})


def _desire(group: FakeAutoScalingGroup, capacity: int | None) -> None:
    """In place of moto's set_desired_capacity: no more than a wish."""
    group.desired_capacity = group.min_size if capacity is None else capacity
