"""What an instance tells its load balancers and its Auto Scaling group: that it is in service, or that it is not."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog

from adf_agent import member, settings
from adf_agent.background import Task
from adf_agent.balancer import Balancer, Classic, Health, TargetGroup
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, ReportError
from adf_agent.group import Group, Hook
from adf_agent.host import Host
from adf_agent.instance import Identity
from adf_agent.launch import Launch
from adf_agent.member import FIRST_SECONDS, GROWTH, LONGEST_SECONDS, Member, tolerated
from adf_agent.record import Record

log = structlog.get_logger()


@dataclass(frozen=True)
class Joined:
    """What was told to whom."""

    fact: str


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
    joiner: Member,
    deadline: Deadline,
    check: Callable[[], object] | None,
) -> Joined:
    """Registers with the load balancers that are ours to register with, and lets the group go on.

    Ours are those of the settings; those of the group only where it says InService already and they don't know of us,
    as after a drain: in a launch it registers by itself, once our hook is completed. *check* is called while a load
    balancer makes up its mind: it raises what is wrong meanwhile, and returns what hides whether anything is. It is
    None for an instance that is to wait in a warm pool, and serves nobody. Raises ReportError, Stopped.
    """
    place, hook = joiner.found(deadline)
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
        back = member.our_hook(place, "terminate", launched.settings.terminate_hook, record, deadline)
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
        silent = check()
        if deadline.expired() and silent:
            raise ReportError(
                f"{balancer.name} does not find the app healthy ({health.said}), and Docker is out: {silent}",
                hint="See `systemctl status docker`.",
                cause="host",
                transient=True,
            )
        if deadline.expired():
            raise ReportError(
                f"the app is healthy, but {balancer.name} does not find it so: {health.said}",
                hint="See its health check's path, its port against ADF_PUBLISH, and the security group between.",
                cause="settings",
            )
        deadline.wait(pause)
        pause = min(pause * GROWTH, LONGEST_SECONDS)
    if health.state == "idle":
        record.degrade(
            f"{balancer.name} gets no requests from any load balancer: {health.said}",
            hint="Have a listener forward to it, and see that the load balancer is in this instance's zone.",
        )


def _continued(place: Group, hooks: Sequence[Hook], record: Record, deadline: Deadline) -> str:
    nothing: Hook | None = None
    done = tolerated(record, lambda: member.complete(place, hooks, "CONTINUE", deadline), nothing)
    return f"{done.name} continued" if done else f"{hooks[0].name} waits no more"


def give_up(host: Host, record: Record, launched: Launch | None, deadline: Deadline) -> bool:
    """Has the group replace this instance: ABANDON where our launch hook waits, else Unhealthy; True where it was told.

    Without *launched*, as the settings are what failed, IMDS says who this is. Meanwhile the load balancers of the
    settings forget it. Raises AgentError where the group could not be told, TimeoutError, Stopped.
    """
    leaving = Task(lambda: _leave(own(host, launched) if launched else [], deadline))
    try:
        return Task(lambda: _replaced(host, record, *_who(host, launched, deadline), deadline)).result(deadline)
    finally:
        with suppress(Exception):  # the boundary of its thread: why the boot failed is what counts
            leaving.result(deadline)


def _leave(balancers: Sequence[Balancer], deadline: Deadline) -> None:
    for each in [Task(partial(deadline.retry, balancer.deregister)) for balancer in balancers]:
        with suppress(AgentError, TimeoutError):
            each.result(deadline)


def _who(host: Host, launched: Launch | None, deadline: Deadline) -> tuple[Identity, str | None, str]:
    if launched:
        return launched.identity, launched.target, launched.settings.launch_hook
    metadata = host.metadata(deadline)
    return metadata.identity(), metadata.lifecycle_target(), settings.TABLE["ADF_LAUNCH_HOOK"].default


def _replaced(
    host: Host, record: Record, identity: Identity, target: str | None, wanted: str, deadline: Deadline
) -> bool:
    return target is not None and (
        _abandoned(host, record, identity, wanted, deadline) or member.report_unhealthy(host, identity, deadline)
    )


def _abandoned(host: Host, record: Record, identity: Identity, wanted: str, deadline: Deadline) -> bool:
    try:
        place = member.find(host, identity, deadline)
        if place is None or not place.waits("launch"):
            return False
        hook = member.our_hook(place, "launch", wanted, record, deadline)
        return hook is not None and member.complete(place, [hook], "ABANDON", deadline) is not None
    except ReportError as error:  # denied, or several hooks and none of them ours: the instance's health is left
        log.warning("hook.not_abandoned", reason=str(error))
        return False
