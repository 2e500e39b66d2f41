"""Every Auto Scaling group of moto, kept by a thread: see `Kept` for one."""

import random
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import structlog
from moto.autoscaling.models import autoscaling_backends
from moto.cloudwatch.models import cloudwatch_backends
from moto.ec2.models import ec2_backends

from adf_agent.sandbox.cloud import Cloud
from adf_agent.sandbox.kept import Kept, Launcher, Machine
from adf_agent.sandbox.launched import saved, version
from adf_agent.sandbox.lifecycle import Lifecycle
from adf_agent.sandbox.refreshes import Refreshes, View

TICK = 0.05  # seconds
log = structlog.get_logger()


class Keeper:
    """The groups that are kept, by name, under one *lock*; and their refreshes."""

    def __init__(self, cloud: Cloud, launcher: Launcher) -> None:
        self.cloud, self.lock = cloud, threading.Condition()
        self.kept: dict[str, Kept] = {}
        # What moto forgets, by group: instance maintenance policies (percentages), default instance warm-ups (seconds).
        self.maintenance: dict[str, tuple[int, int]] = {}
        self.warmups: dict[str, int] = {}
        self.refreshes = Refreshes(cloud, self.lock, self._view)
        self._launcher = launcher
        self._addresses = _addresses()
        self._ending: list[threading.Thread] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autoscaling")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends every machine; returns when they are gone."""
        self._stop.set()
        self._thread.join()
        with self.lock:
            for kept in self.kept.values():
                self.end(*kept.empty())
        for thread in self._ending:
            thread.join()

    def life(self, instance_id: str) -> Lifecycle | None:
        return next((kept.lives[instance_id] for kept in self.kept.values() if instance_id in kept.lives), None)

    def machine(self, instance_id: str) -> Machine | None:
        return next((kept.machines[instance_id] for kept in self.kept.values() if instance_id in kept.machines), None)

    def end(self, *machines: Machine) -> None:
        """Ends them, each in a thread of its own."""
        self._ending = [thread for thread in self._ending if thread.is_alive()]
        for machine in machines:
            self._ending.append(thread := threading.Thread(target=self._ended, args=(machine,)))
            thread.start()

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            with self.lock:
                for name, group in [*self._backend(autoscaling_backends).autoscaling_groups.items()]:
                    if group.ec2_launch_template is not None:  # a launch configuration: as moto has it
                        self._keep(name, group)
                self.lock.notify_all()

    def _keep(self, name: str, group: Any) -> None:
        """One tick of a group. What goes wrong in it is tried again at the next, and holds up no other group."""
        if name not in self.kept:
            self.kept[name] = Kept(self.cloud, group, self._launcher, self._addresses.__next__)
        try:
            self.end(*self.kept[name].tick(self.refreshes.active(name), self._alarms()))
        except Exception:
            log.exception("group.tick_failed", group=name)

    def _ended(self, machine: Machine) -> None:
        machine.end()
        instance_id = machine.instance.instance_id
        self.cloud.addresses.pop(instance_id, None)
        if found := self._backend(ec2_backends).get_instance_by_id(instance_id):
            found.terminate()

    def _alarms(self) -> dict[str, str]:
        """Their states, by name."""
        return {alarm.name: alarm.state_value for alarm in self._backend(cloudwatch_backends).alarms.values()}

    def _view(self, name: str) -> View | None:
        kept = self.kept.get(name)
        if not kept:
            return None
        configuration = saved(kept.group)
        image = version(configuration, kept.group.account_id, kept.group.region).image_id
        return View(
            name=name,
            configuration=dict(configuration),
            image_alias=image.startswith("resolve:ssm:"),
            maintenance=self.maintenance.get(name),
            launches=kept.launches,
            warmup=self.warmups.get(name, kept.group.health_check_grace_period or 0),
        )

    def _backend(self, backends: Any) -> Any:
        return backends[self.cloud.imds.instance.account][self.cloud.imds.instance.region]


def _addresses() -> Iterator[str]:
    """Addresses of the loopback, those of each sandbox in a network of its own (one in 60,000 is another's too)."""
    network = f"127.{random.randrange(16, 250)}.{random.randrange(256)}"  # noqa: S311  no secret
    return (f"{network}.{1 + number % 254}" for number in count())
