"""What an instance tells its load balancers and its Auto Scaling group: that it is in service, or that it is not."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from adf_agent import group, settings
from adf_agent.background import Task
from adf_agent.balancer import Balancer, Classic, Health, TargetGroup
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, ReportError, Stopped
from adf_agent.group import Group, Hook, Kind
from adf_agent.host import Host
from adf_agent.instance import Identity
from adf_agent.launch import Launch
from adf_agent.record import Record

FIRST_SECONDS, GROWTH, LONGEST_SECONDS = 0.5, 1.5, 5.0  # between two looks at what a load balancer says
SHARE = 3  # heartbeats in the time that a hook waits: one may be lost
COMPLETE_SECONDS = 120.0  # for a hook that is due to wait, to do so: it follows the state within seconds
T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True)
class Joined:
    """What was told to whom."""

    fact: str


class Member:
    """This instance in its group, asked for in the background, its launch hook kept waiting until `end`.

    What may not be asked is named in the status, and done without.
    """

    def __init__(self, host: Host, record: Record, launched: Launch, target: str | None) -> None:
        self._host, self._record, self._launched, self._target = host, record, launched, target
        self._stop = threading.Event()
        self._found: Task[tuple[Group | None, Hook | None]] | None = None

    def begin(self, deadline: Deadline) -> None:
        """Asks for the group, unless IMDS knows of none; heartbeats follow. Once is enough."""
        if self._target is not None and self._found is None:
            self._found = Task(lambda: self._find(deadline))
            Task(self._beat)

    def found(self, deadline: Deadline) -> tuple[Group | None, Hook | None]:
        """The group, and our launch hook where it waits. Raises ReportError, Stopped."""
        if self._found is None:
            return None, None
        try:
            return self._found.result(deadline)
        except TimeoutError as error:
            raise ReportError(
                "Auto Scaling did not answer in the boot's time",
                hint="See the subnet's route to it, or its VPC endpoint.",
                transient=True,
            ) from error

    @property
    def grouped(self) -> bool:
        """Whether the group was known of at all."""
        return self._target is not None

    def end(self) -> None:
        """No more heartbeats."""
        self._stop.set()

    def _find(self, deadline: Deadline) -> tuple[Group | None, Hook | None]:
        found = tolerated(self._record, lambda: find(self._host, self._launched.identity, deadline), None)
        if found is None:
            return None, None
        self._record.add(group=found.name)
        return found, our_hook(found, "launch", self._launched.settings.launch_hook, self._record, deadline)

    def _beat(self) -> None:
        assert self._found is not None  # noqa: S101  begin made it
        try:
            place, hook = self._found.future.result()
        except (AgentError, Stopped):
            return  # `found` says so
        if place and hook and place.waits("launch"):
            beat(place, hook, self._stop)


def beat(place: Group, hook: Hook, stop: threading.Event) -> None:
    """Keeps *hook* waiting until *stop* is set, from now on: it may have waited for long while the system booted."""
    while not stop.is_set():
        try:
            log.info("hook.heartbeat", hook=hook.name, waiting=place.heartbeat(hook))
        except AgentError as error:  # the next one may get through
            log.warning("hook.heartbeat_failed", hook=hook.name, reason=str(error))
        stop.wait(hook.timeout / SHARE)


def find(host: Host, identity: Identity, deadline: Deadline) -> Group | None:
    """The group that this instance is in. Raises ReportError, Stopped."""
    return deadline.retry(lambda: group.find(host.autoscaling(identity.region), identity.instance_id))


def our_hook(place: Group, kind: Kind, wanted: str, record: Record, deadline: Deadline) -> Hook | None:
    """Our hook of this kind; where it can't be asked for, the *wanted* one. Raises ReportError, Stopped."""
    instead: Hook | None = Hook(wanted, kind)
    return tolerated(record, lambda: deadline.retry(lambda: place.hook(kind, wanted)), instead)


def tolerated(record: Record, call: Callable[[], T], instead: T) -> T:
    """The answer of *call*; where a permission is missing, that is written down, and the answer is *instead*."""
    try:
        return call()
    except ReportError as error:
        if error.cause == "settings" or error.transient:
            raise
        record.degrade(error.sentence)
        return instead


def own(host: Host, launched: Launch) -> list[Balancer]:
    """The load balancers that the settings name."""
    return _balancers(host, launched, launched.settings.target_groups, launched.settings.load_balancers)


def _balancers(host: Host, launched: Launch, arns: Sequence[str], names: Sequence[str]) -> list[Balancer]:
    region, instance_id = launched.identity.region, launched.identity.instance_id
    found: list[Balancer] = [TargetGroup(host.elbv2(region), arn, instance_id) for arn in arns]
    return found + [Classic(host.elb(region), name, instance_id) for name in names]


def attached(host: Host, launched: Launch, place: Group, record: Record, deadline: Deadline) -> list[Balancer]:
    """The load balancers that are attached to the group; none where it can't be asked for them."""
    nothing: tuple[list[str], list[str]] = [], []
    arns, names = tolerated(record, lambda: deadline.retry(place.attached), nothing)
    return _balancers(host, launched, arns, names)


def join(
    host: Host,
    record: Record,
    launched: Launch,
    member: Member,
    deadline: Deadline,
    check: Callable[[], object] | None,
) -> Joined:
    """Registers with the load balancers that are ours to register with, and lets the group go on.

    Ours are those of the settings; those of the group only where it says InService already and they don't know of us,
    as after a drain: in a launch it registers by itself, once our hook is completed. *check* is called while a load
    balancer makes up its mind, and raises what is wrong meanwhile; None for an instance that is to wait in a warm
    pool, and serves nobody. Raises ReportError, Stopped.
    """
    place, hook = member.found(deadline)
    joining = own(host, launched) if check else []
    if check and place and place.state == "InService":
        others = attached(host, launched, place, record, deadline)
        joining += [each for each in others if _ask(each, record, deadline).state in ("out", "draining")]
    for each in joining:
        deadline.retry(each.register)
        log.info("report.registered", balancer=each.name)
    for each in joining:
        _wait_healthy(each, record, deadline, check or (lambda: None))
    facts = [f"healthy in {each.name}" for each in joining]
    hooks = [hook] if hook else []
    if place and not check:  # on its way back to the pool it is the terminate hook that waits
        back = our_hook(place, "terminate", launched.settings.terminate_hook, record, deadline)
        hooks += [back] if back else []
    if place and hooks and place.waits("launch"):
        facts.append(_continued(place, hooks, record, deadline))
    return Joined(", ".join([*facts, f"group {place.name}" if place else "in no group"]))


def _ask(balancer: Balancer, record: Record, deadline: Deadline) -> Health:
    """The load balancer's word; healthy where it may not be asked."""
    return tolerated(record, lambda: deadline.retry(balancer.ask), Health("healthy"))


def _wait_healthy(balancer: Balancer, record: Record, deadline: Deadline, check: Callable[[], object]) -> None:
    pause = FIRST_SECONDS
    while (health := _ask(balancer, record, deadline)).state not in ("healthy", "idle"):
        check()
        if deadline.expired():
            raise ReportError(
                f"the app is healthy, but {balancer.name} does not find it so: {health.said}",
                hint="See its health check's port and path, and the security group between the two.",
                cause="settings",
            )
        deadline.wait(pause)
        pause = min(pause * GROWTH, LONGEST_SECONDS)
    if health.state == "idle":
        record.degrade(f"{balancer.name} gets no requests from any load balancer: {health.said}")


def _continued(place: Group, hooks: Sequence[Hook], record: Record, deadline: Deadline) -> str:
    nothing: Hook | None = None
    done = tolerated(record, lambda: complete(place, hooks, "CONTINUE", deadline), nothing)
    return f"{done.name} continued" if done else f"{hooks[0].name} waits no more"


def complete(place: Group, hooks: Sequence[Hook], result: group.Result, deadline: Deadline) -> Hook | None:
    """Completes that of *hooks* which waits, and returns it; called too soon, it is tried again while one may yet come.

    None where none waits any more: completed by somebody, timed out, or gone. Raises ReportError, Stopped.
    """
    window, pause = deadline.within(COMPLETE_SECONDS), FIRST_SECONDS
    while True:
        for hook in hooks:
            if deadline.retry(partial(place.complete, hook, result)):
                log.info("hook.completed", hook=hook.name, result=result)
                return hook
        now = deadline.retry(place.now)
        if now is None or not any(now.waits(hook.kind) for hook in hooks) or window.expired():
            log.info("hook.not_waiting", hooks=[hook.name for hook in hooks], state=now and now.state)
            return None
        window.wait(pause)
        pause = min(pause * GROWTH, LONGEST_SECONDS)


def give_up(host: Host, record: Record, launched: Launch | None, deadline: Deadline) -> bool:
    """Has the group replace this instance: ABANDON where our launch hook waits, else Unhealthy; True where it was told.

    Without *launched*, as the settings are what failed, IMDS says who this is. Meanwhile the load balancers of the
    settings forget it. Raises AgentError where the group could not be told, TimeoutError, Stopped.
    """
    leaving = [Task(partial(deadline.retry, each.deregister)) for each in (own(host, launched) if launched else [])]
    told = Task(lambda: _replaced(host, record, *_who(host, launched, deadline), deadline)).result(deadline)
    for each in leaving:
        with suppress(AgentError, TimeoutError):
            each.result(deadline)
    return told


def _who(host: Host, launched: Launch | None, deadline: Deadline) -> tuple[Identity, str | None, str]:
    if launched:
        return launched.identity, launched.target, launched.settings.launch_hook
    metadata = host.metadata(deadline)
    return metadata.identity(), metadata.lifecycle_target(), settings.TABLE["ADF_LAUNCH_HOOK"].default


def _replaced(
    host: Host, record: Record, identity: Identity, target: str | None, wanted: str, deadline: Deadline
) -> bool:
    return target is not None and (
        _abandoned(host, record, identity, wanted, deadline) or report_unhealthy(host, identity, deadline)
    )


def _abandoned(host: Host, record: Record, identity: Identity, wanted: str, deadline: Deadline) -> bool:
    try:
        place = find(host, identity, deadline)
        if place is None or not place.waits("launch"):
            return False
        hook = our_hook(place, "launch", wanted, record, deadline)
        return hook is not None and complete(place, [hook], "ABANDON", deadline) is not None
    except ReportError as error:  # denied, or several hooks and none of them ours: the instance's health is left
        log.warning("hook.not_abandoned", reason=str(error))
        return False


def report_unhealthy(host: Host, identity: Identity, deadline: Deadline) -> bool:
    """Has the instance replaced; False where no group has it. Raises ReportError, Stopped."""
    client = host.autoscaling(identity.region)
    told = deadline.retry(lambda: group.report_unhealthy(client, identity.instance_id))
    log.info("report.unhealthy", told=told)
    return told
