"""One Auto Scaling group that is really kept: as many instances as are desired, all of them well, or being replaced."""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from moto.ec2.exceptions import EC2ClientError

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.imds import Instance
from adf_agent.sandbox.launched import Configuration, launch, saved, version
from adf_agent.sandbox.lifecycle import Lifecycle
from adf_agent.sandbox.member import Member
from adf_agent.sandbox.refresh import Refresh
from adf_agent.sandbox.replacement import Seen

LONGEST_PAUSE = 30.0  # seconds between launches that fail one after the other


class Machine(Protocol):
    """What an instance runs on, from its launch to its end."""

    instance: Instance

    def end(self) -> None:
        """As EC2 terminates it: told to shut down, and after a while cut off. Blocks until it is gone."""


Launcher = Callable[[Instance], Machine]


class Kept:
    """moto's *group*, kept by machines that *launcher* makes. Who calls holds the lock of all groups."""

    def __init__(self, cloud: Cloud, group: Any, launcher: Launcher, address: Callable[[], str]) -> None:
        self.cloud, self.group = cloud, group
        self.lives: dict[str, Lifecycle] = {}
        self.machines: dict[str, Machine] = {}
        self._launcher, self._address = launcher, address
        self._failed: set[str] = set()  # launches that came to nothing
        self._failures, self._earliest = 0, 0.0  # of these, those in a row; when the next one may be

    def tick(self, refresh: Refresh | None, alarms: Mapping[str, str]) -> list[Machine]:
        """What is due now; the machines whose instances have left the group since, to be ended.

        Raises what the launcher raises: that launch has failed, and the next one waits.
        """
        for life in [*self.lives.values()]:
            life.advance()
            self._count(life)
        self._replace_the_ill()
        now, capacity, configuration = time.monotonic(), self.group.desired_capacity or 0, saved(self.group)
        if refresh:
            step = refresh.step(self.seen(refresh.deploys), capacity, alarms, now)
            capacity, configuration = step.capacity, refresh.launches
            for instance_id in step.terminate:
                self.lives[instance_id].terminate()
            if refresh.status == "Successful" and refresh.desired:
                self._save(refresh.desired)
                configuration = refresh.desired
        self._fill(capacity, configuration, now)
        return [*self._gone()]

    def seen(self, configuration: Configuration) -> tuple[Seen, ...]:
        """The instances, as a refresh that deploys *configuration* looks at them."""
        deployed = version(configuration, self.group.account_id, self.group.region)
        return tuple(
            Seen(
                id=instance_id,
                matches=life.member.made.version is deployed,
                state=life.state,
                healthy=life.member.made.health_status == "Healthy",
                since=life.since if life.state == "InService" else None,
                protected=bool(life.member.made.protected_from_scale_in),
            )
            for instance_id, life in self.lives.items()
        )

    def launches(self, configuration: Configuration) -> bool:
        """Whether instances can be launched from *configuration*."""
        try:
            return version(configuration, self.group.account_id, self.group.region) is not None
        except (EC2ClientError, KeyError, ValueError):
            return False

    def empty(self) -> list[Machine]:
        """Every machine, as the group is deleted by force: no hook waits any more."""
        for life in self.lives.values():
            self._remove(life)
        self.lives.clear()
        machines = [*self.machines.values()]
        self.machines.clear()
        return machines

    def _replace_the_ill(self) -> None:
        """Those that said so of themselves, or that a load balancer calls unhealthy where the group heeds it.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-health-checks.html
        """
        if "ReplaceUnhealthy" in self._suspended:
            return
        ill = self._ill_targets() if self.group.health_check_type == "ELB" else set()
        for life in self.lives.values():
            if life.leaving or life.state == "Standby":
                continue
            in_grace = self._in_grace(life)
            told = any(not (respects and in_grace) for respects in life.unhealthy) or _interrupted(life.member.instance)
            if told or (life.member.id in ill and not in_grace):
                life.record("replaced: unhealthy")
                life.member.made.health_status = "Unhealthy"
                life.terminate()

    def _in_grace(self, life: Lifecycle) -> bool:
        grace = self.group.health_check_grace_period or 0
        return life.state != "InService" or time.monotonic() < life.since + grace

    def _ill_targets(self) -> set[str]:
        attached = (*self.group.target_group_arns, *self.group.load_balancer_names)
        pools = [self.cloud.pools[name] for name in attached if name in self.cloud.pools]
        return {name for pool in pools for name, state in pool.states().items() if state == "unhealthy"}

    def _fill(self, capacity: int, configuration: Configuration, now: float) -> None:
        """Launches what lacks; terminates what is too many, of the older configuration first.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-termination-policies.html
        """
        staying = [life for life in self.lives.values() if not life.leaving and life.state != "Standby"]
        if len(staying) < capacity and "Launch" not in self._suspended and now >= self._earliest:
            for _ in range(capacity - len(staying)):
                self._launch(configuration)
        elif len(staying) > capacity and "Terminate" not in self._suspended:
            free = [life for life in staying if not life.member.made.protected_from_scale_in]
            free.sort(key=lambda life: (life.member.made.version.number, life.log[0][0]))
            for life in free[: len(staying) - capacity]:
                life.terminate()

    def _launch(self, configuration: Configuration) -> None:
        state, instance = launch(self.group, configuration, self._address())
        self.cloud.addresses[instance.instance_id] = instance.private_ip
        life = Lifecycle(Member(self.cloud, instance, state), lambda: None)
        life.launch()
        try:
            self.machines[instance.instance_id] = self._launcher(instance)
        except BaseException:
            del self.cloud.addresses[instance.instance_id]
            self._remove(life)
            self._postpone()
            raise
        self.lives[instance.instance_id] = life

    def _remove(self, life: Lifecycle) -> None:
        """Out of the group and its load balancers at once."""
        life.member.heads_for("Terminated")
        life.member.deregister()
        if life.member.made in self.group.instance_states:
            life.member.leave()

    def _gone(self) -> Iterator[Machine]:
        for instance_id, life in [*self.lives.items()]:
            if life.gone:
                del self.lives[instance_id]
                if life.state != "Detached":
                    yield self.machines.pop(instance_id)

    def _count(self, life: Lifecycle) -> None:
        """A launch that came to nothing makes the next one wait, the longer the more there were in a row.

        How long AWS waits no page says. Here a broken release must not keep the machine busy.
        """
        served = any(event == "InService" for _, event in life.log)
        if served and not life.leaving:
            self._failures, self._earliest = 0, 0.0
        elif life.leaving and not served and life.member.id not in self._failed:
            self._failed.add(life.member.id)
            self._postpone()

    def _postpone(self) -> None:
        self._failures += 1
        self._earliest = time.monotonic() + min(LONGEST_PAUSE, 2.0**self._failures)

    def _save(self, configuration: Configuration) -> None:
        """After a refresh that succeeded the group has its configuration.

        https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-overview.html
        """
        policy = configuration.get("MixedInstancesPolicy")
        self.group.mixed_instances_policy = policy
        self.group._set_launch_configuration("", configuration.get("LaunchTemplate"), policy)  # noqa: SLF001  moto's

    @property
    def _suspended(self) -> set[str]:
        return {process["ProcessName"] for process in self.group.suspended_processes}


def _interrupted(instance: Instance) -> bool:
    """Whether the time of its spot notice has come.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
    """
    notice = instance.spot_action
    return notice is not None and datetime.fromisoformat(notice["time"]) <= datetime.now(UTC)
