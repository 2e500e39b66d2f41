"""An Auto Scaling group around the cloud's one instance: the lifecycle that moto does not have."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Self

from werkzeug.wrappers import Response

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.front import Call, Handler, Then, error, success
from adf_agent.sandbox.member import Action, Hook, Member

TICK = 0.02  # seconds


class Group:
    """A context manager. The instance gets moto's id and is Pending; its methods are what happens to it next.

    https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html
    """

    def __init__(
        self,
        cloud: Cloud,
        name: str = "web",
        hooks: Sequence[Hook] = (),
        target_groups: Sequence[str] = (),
        load_balancers: Sequence[str] = (),
    ) -> None:
        self.cloud, self.name, self._hooks = cloud, name, hooks
        self._member = Member(cloud, name, [*target_groups], [*load_balancers])
        self.completed: list[tuple[str, str]] = []  # hook and result, in order; not what timed out
        self.heartbeats: Counter[str] = Counter()  # by hook
        self.unhealthy: list[bool] = []  # of each SetInstanceHealth(Unhealthy): does it respect the grace period
        self.log: list[tuple[float, str]] = []  # monotonic seconds; states entered, and what else happened
        self._changed = threading.Condition()
        self._waiting: dict[str, Action] = {}
        self._kind = self._end = ""  # of the transition under way: whose hooks wait, the state that it leads to
        self._draining = False  # or about to: its first part
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="group")

    def __enter__(self) -> Self:
        self._member.create(self._hooks)
        self.cloud.front.handlers |= self._handlers()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for name in self._handlers():
            self.cloud.front.handlers.pop(name, None)

    @property
    def state(self) -> str:
        """The lifecycle state, as DescribeAutoScalingInstances has it."""
        return self._member.state

    @property
    def events(self) -> list[str]:
        """What the log has, without its times."""
        return [event for _, event in self.log]

    def wait_for(self, state: str, seconds: float = 10) -> None:
        """Returns once the instance is in *state*. Raises TimeoutError with the state that it is in."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.state == state, seconds):
                raise TimeoutError(f"not {state} after {seconds} s but {self.state}; waiting: {[*self._waiting]}")

    def launch(self, warm: str | None = None) -> None:
        """Into service, or into the warm pool as *warm* ("Warmed:Running"); the launch hooks run in both cases.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/warm-pool-instance-lifecycle.html
        """
        self._begin(warm or "InService", "Warmed:Pending" if warm else "Pending", "launch")

    def leave_pool(self) -> None:
        """From the warm pool into service: the launch hooks run again (the same page)."""
        self._begin("InService", "Pending", "launch")

    def return_to_pool(self, warm: str = "Warmed:Running") -> None:
        """From service into the warm pool: the *terminate* hooks run, at Warmed:Pending:Wait (the same page)."""
        self._begin(warm, "Warmed:Pending", "terminate")

    def terminate(self) -> None:
        """Out of the group: hooks run only after load balancers have drained the instance.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/attach-load-balancer-asg.html
        """
        warmed = "Warmed:" if self.state.startswith("Warmed:") else ""
        self._begin(f"{warmed}Terminated", f"{warmed}Terminating", "terminate")

    def standby(self) -> None:
        """Drained and out of service. No hooks here, nor in the next two.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html#lifecycle-hooks-availability
        """
        self._begin("Standby", "EnteringStandby")

    def exit_standby(self) -> None:
        self._begin("InService", "Pending")

    def detach(self) -> None:
        self._begin("Detached", "Detaching")

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            with self._changed:
                self._advance()
                for name, action in list(self._waiting.items()):
                    if time.monotonic() >= action.deadline and name in self._waiting:
                        self._record(f"{name} timed out")
                        self._finish(name, action.default_result)

    def _enter(self, state: str) -> None:
        self._member.state = state
        self._record(state)
        self._changed.notify_all()

    def _record(self, event: str) -> None:
        self.log.append((time.monotonic(), event))

    def _begin(self, end: str, state: str, kind: str = "") -> None:
        with self._changed:
            self._end, self._kind, self._waiting, self._draining = end, kind, {}, True
            # The target is told from the start on:
            # https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html
            self.cloud.imds.instance.target_lifecycle_state = end
            self._enter(state)
            if end != "InService":
                self._member.deregister()
            self._advance()

    def _advance(self) -> None:
        """Once drained, to the hooks or past them."""
        if not self._draining or self._member.draining:
            return
        self._draining = False
        self._waiting = self._member.actions(self._kind)
        if self._waiting:
            self._enter(f"{self.state}:Wait")
        else:
            self._arrive()

    def _finish(self, name: str, result: str) -> None:
        """A hook's result. ABANDON ends the others' waiting too, and a launch altogether.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html#lifecycle-hook-considerations
        """
        del self._waiting[name]
        if result == "ABANDON" and self._kind == "launch":
            self.terminate()
        elif result == "ABANDON" or not self._waiting:
            self._arrive()

    def _arrive(self) -> None:
        self._waiting = {}
        if self._end == "InService":
            self._member.register()
        self._enter(self._end)
        if self._end.endswith(("Terminated", "Detached")):
            self._member.leave()

    def _handlers(self) -> dict[str, Handler]:
        return {
            "autoscaling:CompleteLifecycleAction": self._complete,
            "autoscaling:RecordLifecycleActionHeartbeat": self._heartbeat,
            "autoscaling:SetInstanceHealth": self._set_health,
        }

    def _complete(self, call: Call, then: Then) -> Response:
        result = call.form.get("LifecycleActionResult", "")
        if result not in {"CONTINUE", "ABANDON"}:
            return error(call, "ValidationError", f"Lifecycle action result {result!r} is neither CONTINUE nor ABANDON")

        def complete(name: str) -> None:
            self.completed.append((name, result))
            self._record(f"{name} {result}")
            self._finish(name, result)

        return self._act(call, then, complete)

    def _heartbeat(self, call: Call, then: Then) -> Response:
        def extend(name: str) -> None:
            self.heartbeats[name] += 1
            self._waiting[name].extend()

        return self._act(call, then, extend)

    def _act(self, call: Call, then: Then, act: Callable[[str], None]) -> Response:
        """Does *act* for the hook that the call names, if that waits."""
        try:
            return then()  # moto knows who may do this, if not how: an answer is a refusal
        except NotImplementedError:
            instance, name = call.form.get("InstanceId"), call.form.get("LifecycleHookName", "")
        ours = (self.name, self._member.id) == (call.form.get("AutoScalingGroupName"), instance)
        with self._changed:
            if not (ours and name in self._waiting):
                return error(call, "ValidationError", f"No active Lifecycle Action found with instance ID {instance}")
            act(name)
        return success(call)

    def _set_health(self, call: Call, then: Then) -> Response:
        answer = then()
        if answer.status_code == HTTPStatus.OK and call.form["HealthStatus"] == "Unhealthy":
            respect = call.form.get("ShouldRespectGracePeriod", "true") == "true"
            with self._changed:
                self.unhealthy.append(respect)
                self._record("unhealthy")
        return answer
