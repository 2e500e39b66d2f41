"""This instance as its Auto Scaling group's: asked for, its hooks kept waiting and completed, its health told."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog

from adf_agent import group
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, ReportError, Stopped
from adf_agent.group import Group, Hook, Kind
from adf_agent.host import Host
from adf_agent.instance import Identity
from adf_agent.launch import Launch
from adf_agent.record import Record

FIRST_SECONDS, GROWTH, LONGEST_SECONDS = 0.5, 1.5, 5.0  # between two looks at what Auto Scaling or a balancer says
SHARE = 3  # heartbeats in the time that a hook waits: one may be lost
COMPLETE_SECONDS = 120.0  # for a hook that is due to wait, to do so: it follows the state within seconds
T = TypeVar("T")
log = structlog.get_logger()


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
        settings = self._launched.settings
        hook = our_hook(found, "launch", settings.launch_hook, self._record, deadline)
        if hook is None and settings.sources["ADF_LAUNCH_HOOK"][1] != "default":
            self._record.degrade(
                f"{found.name} has no launch hook {settings.launch_hook}: it counts its instances in before they serve",
                "sudo adf-agent doctor",  # which has the command that makes it
            )
        return found, hook

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


def report_unhealthy(host: Host, identity: Identity, deadline: Deadline) -> bool:
    """Has the instance replaced; False where no group has it. Raises ReportError, Stopped."""
    client = host.autoscaling(identity.region)
    told = deadline.retry(lambda: group.report_unhealthy(client, identity.instance_id))
    log.info("report.unhealthy", told=told)
    return told


def tolerated(record: Record, call: Callable[[], T], instead: T) -> T:
    """The answer of *call*; where a permission is missing, that is written down, and the answer is *instead*."""
    try:
        return call()
    except ReportError as error:
        if error.cause == "settings" or error.transient:
            raise
        record.degrade(error.sentence, error.hint)
        return instead
