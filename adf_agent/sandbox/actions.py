"""What instances tell their Auto Scaling group: lifecycle actions and their own health, which moto does not take."""

import threading
from collections.abc import Callable
from http import HTTPStatus

from werkzeug.wrappers import Response

from adf_agent.sandbox.front import Call, Handler, Then, error, success
from adf_agent.sandbox.lifecycle import Lifecycle

Find = Callable[[str], Lifecycle | None]  # by instance id


class Actions:
    """The calls, on the lifecycles that *find* knows, each under *lock*."""

    def __init__(self, lock: threading.Condition, find: Find) -> None:
        self._lock, self._find = lock, find
        self.handlers: dict[str, Handler] = {
            "autoscaling:CompleteLifecycleAction": self._complete,
            "autoscaling:RecordLifecycleActionHeartbeat": self._heartbeat,
            "autoscaling:SetInstanceHealth": self._set_health,
        }

    def _complete(self, call: Call, then: Then) -> Response:
        result = call.form.get("LifecycleActionResult", "")
        if result not in {"CONTINUE", "ABANDON"}:
            return error(call, "ValidationError", f"Lifecycle action result {result!r} is neither CONTINUE nor ABANDON")
        return self._act(call, then, lambda life, hook: life.complete(hook, result))

    def _heartbeat(self, call: Call, then: Then) -> Response:
        return self._act(call, then, lambda life, hook: life.heartbeat(hook))

    def _act(self, call: Call, then: Then, act: Callable[[Lifecycle, str], None]) -> Response:
        """Does *act* for the hook that the call names, if that waits."""
        try:
            return then()  # moto knows who may do this, if not how: an answer is a refusal
        except NotImplementedError:
            instance, hook = call.form.get("InstanceId", ""), call.form.get("LifecycleHookName", "")
        with self._lock:
            life = self._find(instance)
            group = life.member.made.auto_scaling_group_name if life else None
            if not life or group != call.form.get("AutoScalingGroupName") or hook not in life.waiting:
                return error(call, "ValidationError", f"No active Lifecycle Action found with instance ID {instance}")
            act(life, hook)
        return success(call)

    def _set_health(self, call: Call, then: Then) -> Response:
        answer = then()
        with self._lock:
            life = self._find(call.form.get("InstanceId", ""))
            if life and answer.status_code == HTTPStatus.OK and call.form["HealthStatus"] == "Unhealthy":
                life.unhealthy.append(call.form.get("ShouldRespectGracePeriod", "true") == "true")
                life.record("unhealthy")
        return answer
