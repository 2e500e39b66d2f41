"""A herd: agents that boot at once against an AWS that throttles. All that asks AWS is the agent's own code."""

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import structlog
from throttle import Aws, Bucket, Call
from virtual import VirtualTime

from adf_agent import background, boot, fleet, settings
from adf_agent.background import Task
from adf_agent.config import Clients as ConfigClients
from adf_agent.container import Container
from adf_agent.deadline import Deadline
from adf_agent.engine import Engine
from adf_agent.fleet import Fleet
from adf_agent.health import Healthy
from adf_agent.host import Host
from adf_agent.image import Image
from adf_agent.instance import Identity
from adf_agent.launch import Launch
from adf_agent.manifest import Manifest
from adf_agent.member import Member
from adf_agent.record import Record
from adf_agent.release import Release
from adf_agent.root import Root
from adf_agent.stages import Stages
from adf_agent.state import Ledger, prepare

REGION = "eu-west-1"
TARGETS = f"arn:aws:elasticloadbalancing:{REGION}:123456789012:targetgroup/shop/0123456789abcdef"
# Seconds that the stages take which ask no AWS: the same in every instance, so that nothing spreads them out but the
# agents' own retries.
DOCKER, RELEASE, IMAGE, CONTAINER, HEALTH = 0.1, 2.0, 30.0, 1.0, 5.0
SETTLES = 15.0  # from a target's registration until its load balancer calls it healthy
HOOK_SECONDS = 300.0  # as the CloudFormation template has it
# How often who waits looks at what nobody does here (set a stop event), and at what may as well be seen a bit later (a
# record that is due): each look is a switch of threads.
LOOKS = {background: 60.0, fleet: 5.0}
RECORD_SECONDS = 60.0  # after the boot, for the fleet record to be written
MOST_SECONDS = 3600.0  # of a run


@dataclass(frozen=True)
class Run:
    """What became of *size* agents. *calls* are all that AWS saw, *booted* are seconds by instance."""

    size: int
    timeout: float
    booted: dict[str, float] = field(repr=False)
    failed: dict[str, str]  # by instance: why
    recorded: int  # instances with a fleet record
    calls: list[Call] = field(repr=False)

    def share_in_service(self, share: float) -> float:
        """Seconds until so large a *share* (0 to 1) of all was in service."""
        return sorted(self.booted.values())[max(0, round(share * self.size) - 1)]

    @property
    def throttled(self) -> float:
        return sum(call.throttled for call in self.calls) / len(self.calls)

    def each(self) -> list[int]:
        """How many calls each instance made, throttled ones too; the fewest first."""
        return sorted(Counter(call.instance for call in self.calls).values())

    def offered(self, seconds: float = 1.0) -> list[float]:
        """Calls a second, in steps of *seconds*."""
        return rate(self.calls, seconds)


def rate(calls: Sequence[Call], seconds: float, steps: int = 0) -> list[float]:
    """How many a second, in *steps* of *seconds*; without a number until the last one."""
    counted = Counter(int(call.at // seconds) for call in calls)
    return [counted[step] / seconds for step in range(steps or max(counted) + 1)]


class _Record(Record):
    """Without its file, which costs more than all the rest."""

    def _write(self) -> None:
        for listener in self._listeners:
            listener(self._parts)


class _Ledger(Ledger):
    """Without its file."""

    def note(self, **changes: Any) -> None:
        self.state = replace(self.state, **changes)


class _Machine(Stages):
    """An instance whose Docker and downloads are times that pass."""

    def _passes(self, seconds: float) -> None:
        self.deadline.wait(seconds)

    def docker(self) -> Engine:
        self._passes(DOCKER)
        running = SimpleNamespace(inspect_container=lambda _: {"State": {"Running": True, "Status": "running"}})
        return Engine(SimpleNamespace(api=running), "20.10", "overlay2", Path("/"), None)

    def release(self, *_: object) -> Release:
        self._passes(RELEASE)
        return Release(self.launched.settings.release_url, "v1", "0" * 64, Manifest())

    def image(self, *_: object) -> Image:
        self._passes(IMAGE)
        return Image("adf/release:0", "sha256:0", 1, (), healthcheck=False, how="built")

    def container(self, *_: object) -> Container:
        self._passes(CONTAINER)
        return Container("0" * 64, self.container_name(), (), "127.0.0.1")

    def health(self, *_: object) -> Healthy:
        self._passes(HEALTH)
        return Healthy("http", "200 OK", 1)

    def probe(self, *_: object) -> None:
        return None

    def keep_config(self, *_: object) -> None:
        """There is no restart."""

    def undo(self, *_: object) -> None:
        """Nothing runs."""


def run(size: int, limits: dict[str, Bucket], folder: Path, hook: float = HOOK_SECONDS) -> Run:
    """Boots *size* agents, below *folder*, in the same moment; their launch hook waits for *hook* seconds."""
    random.seed(0)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with VirtualTime() as clock, ExitStack() as stack:
            for module, seconds in LOOKS.items():
                stack.enter_context(patch.object(module, "LOOK_SECONDS", seconds))
            aws = Aws(clock, limits, hook, SETTLES)
            names = [f"i-{number:017x}" for number in range(size)]
            agents = {name: Task(partial(_agent, name, aws, folder / name)) for name in names}
            wait([agent.future for agent in agents.values()], MOST_SECONDS)
            booted = {name: agent.value for name, agent in agents.items() if agent.done() and not agent.failed()}
            failed = {name: str(agent.future.exception(0)) for name, agent in agents.items() if agent.failed()}
            failed |= {name: "its hook ran out" for name in names if name not in aws.in_service} | failed
            clock.sleep(2 * hook)  # for the last thread of each to end
            assert clock.running == 0, f"{clock.running} threads go on"
    finally:
        structlog.configure(**before)
    return Run(size, told().boot_timeout, booted, failed, len(aws.written), aws.calls)


def told() -> settings.Settings:
    """Of every instance: an app with config, and a target group that the agent registers with."""
    user_data = {"RELEASE_URL": "https://example.com/v1.tar.gz", "ADF_APP": "shop", "ADF_TARGET_GROUPS": TARGETS}
    return settings.resolve(user_data, {}, {})


def _agent(name: str, aws: Aws, folder: Path) -> float:
    """A whole boot, as `works` has it done. Returns when it was in service; raises as the boot does."""
    root, clock = Root(folder), aws.clock
    prepare(root)
    host = _host(root, aws, name)
    record, ledger = _Record(root, "run"), _Ledger(root)
    ledger.begin()
    identity = Identity(name, REGION, "1", f"{REGION}a", "ami-1", "t3.micro", "127.0.0.1")
    launched = Launch(identity, told(), (), None, "InService")
    deadline = Deadline(launched.settings.boot_timeout, threading.Event(), clock)
    do = _Machine(host, record, ledger, launched, deadline)
    do.introduce()
    writer = _told(do, clock)
    member = Member(host, record, launched, launched.target)
    try:
        boot.boot(do, member)
        record.add(phase="in service")
        return clock.now
    finally:
        member.end()
        Task(partial(_close, writer, clock))


def _close(writer: Fleet, clock: VirtualTime) -> None:
    clock.sleep(RECORD_SECONDS)
    writer.close(0)


def _told(do: Stages, clock: Callable[[], float]) -> Fleet:
    """As works.tell_fleet, with this clock."""
    settings, identity = do.launched.settings, do.launched.identity
    dynamodb = do.host.config(REGION).dynamodb
    writer = Fleet(
        settings.config_table,
        settings.app or "",
        identity.instance_id,
        lambda: cast("Any", dynamodb),
        1,
        clock,
        clock,
        troubled=do.record.degrade,
    )
    do.record.listen(lambda parts: writer.tell(parts, ""))
    return writer


def _host(root: Root, aws: Aws, name: str) -> Host:
    """What the boot asks AWS with: one client a service, as adf_agent.clients makes them."""
    made = {service: aws.client(service, name) for service in ("autoscaling", "elbv2", "dynamodb")}

    def none() -> Any:
        raise AssertionError

    parts = {"root": root, "autoscaling": lambda _: made["autoscaling"], "elbv2": lambda _: made["elbv2"]}
    config = ConfigClients(region=REGION, dynamodb=made["dynamodb"], kms=none, ssm=none, secretsmanager=none)
    return cast("Host", SimpleNamespace(**parts, config=lambda _: config))
