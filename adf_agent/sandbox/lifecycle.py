"""One instance's way through the states of its Auto Scaling group: the lifecycle that moto does not have."""

import time
from collections import Counter
from collections.abc import Callable

from adf_agent.sandbox.member import Action, Member


class Lifecycle:
    """Its methods are what happens to the instance next. Who calls them, and `advance` often, holds the group's lock.

    *changed* is told of each state that is entered.
    https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-lifecycle.html
    """

    def __init__(self, member: Member, changed: Callable[[], None]) -> None:
        self.member = member
        self.completed: list[tuple[str, str]] = []  # hook and result, in order; not what timed out
        self.heartbeats: Counter[str] = Counter()  # by hook
        self.unhealthy: list[bool] = []  # of each SetInstanceHealth(Unhealthy): does it respect the grace period
        self.log: list[tuple[float, str]] = []  # monotonic seconds; states entered, and what else happened
        self.waiting: dict[str, Action] = {}
        self._changed = changed
        self._kind = self._end = ""  # of the transition under way: whose hooks wait, the state that it leads to
        self._draining = False  # or about to: its first part

    @property
    def state(self) -> str:
        return self.member.state

    @property
    def leaving(self) -> bool:
        """Whether it is on its way out of the group, or gone."""
        return self._end.endswith(("Terminated", "Detached"))

    @property
    def gone(self) -> bool:
        return self.leaving and self.state == self._end

    @property
    def since(self) -> float:
        """When its present state was entered, in monotonic seconds."""
        return next((at for at, event in reversed(self.log) if event == self.state), 0.0)

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

    def advance(self) -> None:
        """What time brings: the end of draining, and of a hook's time-out."""
        self._drained()
        for name, action in list(self.waiting.items()):
            if time.monotonic() >= action.deadline and name in self.waiting:
                self.record(f"{name} timed out")
                self._finish(name, action.default_result)

    def complete(self, hook: str, result: str) -> None:
        """*result* is "CONTINUE" or "ABANDON", of a *hook* that waits."""
        self.completed.append((hook, result))
        self.record(f"{hook} {result}")
        self._finish(hook, result)

    def heartbeat(self, hook: str) -> None:
        self.heartbeats[hook] += 1
        self.waiting[hook].extend()

    def record(self, event: str) -> None:
        self.log.append((time.monotonic(), event))

    def _enter(self, state: str) -> None:
        self.member.state = state
        self.record(state)
        self._changed()

    def _begin(self, end: str, state: str, kind: str = "") -> None:
        self._end, self._kind, self.waiting, self._draining = end, kind, {}, True
        self.member.heads_for(end)
        self._enter(state)
        if end != "InService":
            self.member.deregister()
        self._drained()

    def _drained(self) -> None:
        """Once drained, to the hooks or past them."""
        if not self._draining or self.member.draining:
            return
        self._draining = False
        self.waiting = self.member.actions(self._kind)
        if self.waiting:
            self._enter(f"{self.state}:Wait")
        else:
            self._arrive()

    def _finish(self, name: str, result: str) -> None:
        """A hook's result. ABANDON ends the others' waiting too, and a launch altogether.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html#lifecycle-hook-considerations
        """
        del self.waiting[name]
        if result == "ABANDON" and self._kind == "launch":
            self.terminate()
        elif result == "ABANDON" or not self.waiting:
            self._arrive()

    def _arrive(self) -> None:
        self.waiting = {}
        if self._end == "InService":
            self.member.register()
        self._enter(self._end)
        if self.leaving:
            self.member.leave()
