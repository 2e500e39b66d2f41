"""adf-roll: a release onto an Auto Scaling group, by EC2 Auto Scaling's own instance refresh.

What it changes is in `begin`, in three calls: the group is pinned to the launch template version that it resolves to
now, a new version is made, and the refresh to that is started. From there on the roll runs inside AWS. Who watches
makes one more call where the canary fails: RollbackInstanceRefresh.
https://docs.aws.amazon.com/autoscaling/ec2/userguide/instance-refresh-overview.html
"""

import argparse
import math
import statistics
import threading
from collections.abc import Callable, Sequence

from adf_agent import console
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, Stopped
from adf_agent.fleetrecord import FleetRecord
from adf_agent.ops import account, fleet, preflight
from adf_agent.ops.account import Account
from adf_agent.ops.app import App
from adf_agent.ops.configure import cleaning
from adf_agent.ops.rolling import begin, events, facts, former, guard, options, preferences, refresh, witnesses
from adf_agent.ops.rolling import change as changes
from adf_agent.ops.rolling.change import Change
from adf_agent.ops.rolling.errors import DETACHED, FAILED, REFUSED, Refused
from adf_agent.ops.rolling.facts import Group
from adf_agent.ops.rolling.lookout import PATIENCE, Lookout, Roll
from adf_agent.ops.rolling.refresh import Refresh
from adf_agent.ops.rolling.screen import Screen, outlive_output, screen
from adf_agent.ops.rolling.verified import Verified, verified
from adf_agent.ops.rolling.wishes import Wishes

PREPARING_SECONDS = 900.0  # to look at the group and its release, which is downloaded
LEAVING_SECONDS = 900.0  # for the last of the former release to drain, before its config goes
RECORDS_SECONDS = 3.0  # to try to read the fleet records, at each look; with account.BRIEF it takes 10 at most


def plan(arguments: argparse.Namespace) -> int:
    """What `start` would do, and what would go wrong."""
    clients, wishes = account.Account(), options.wishes(arguments)
    group = _group(clients, wishes.group)
    change = changes.of(group.template, group.propagated, wishes)
    return 0 if _passes(clients, screen(as_json=arguments.json), group, wishes, change) else REFUSED


def start(arguments: argparse.Namespace) -> int:
    """Preflight, the question, the roll, and the watch over it; then the clean-up that was asked for."""
    clients, wishes = account.Account(), options.wishes(arguments)
    group = _group(clients, wishes.group)
    change = changes.of(group.template, group.propagated, wishes)
    return _roll(arguments, clients, group, wishes, change)


def back(arguments: argparse.Namespace) -> int:
    """During a roll: the engine's own rollback. After it: a new roll, to the version that the last one came from."""
    clients, name = account.Account(), arguments.group
    last = _latest(clients, name)
    if last and not last.ended:
        _ask(arguments, f"roll {name} back?")
        if not last.forward or guard.roll_back(clients, name):
            return _join(clients, screen(as_json=arguments.json), name, refresh.BACK)
        last = _latest(clients, name)  # it was over before that
    group = _group(clients, name)
    number, change = former.of(clients.client("ec2"), group, last)
    # It has been in service: its canary need only come up again.
    known = Wishes(name, version=number, bake=0, batch=arguments.batch)
    return _roll(arguments, clients, group, known, change)


def status(arguments: argparse.Namespace) -> int:
    """One look."""
    clients, told = account.Account(), screen(as_json=arguments.json)
    found = _latest(clients, arguments.group)
    if found is None:
        told.tell(events.none(arguments.group))
        return 0
    if found.ended:
        return _end(told, found)
    roll = _joined(clients, arguments.group, found)
    look = Lookout(roll, clients, _records(clients, roll.change)).look(Deadline(math.inf, threading.Event()))
    for event in events.news(None, look):
        told.tell(event)
    return _end(told, look.refresh) if look.refresh.ended else DETACHED


def watch(arguments: argparse.Namespace) -> int:
    """The roll under way, watched to its end; else the end of the last one."""
    return _join(account.Account(), screen(as_json=arguments.json), arguments.group)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "plan": plan,
    "start": start,
    "back": back,
    "status": status,
    "watch": watch,
}


def _join(clients: Account, told: Screen, name: str, wanted: str = refresh.DONE) -> int:
    found = _latest(clients, name)
    if found is None:
        raise Refused(f"{name} was never rolled, or long ago", hint="See adf-roll plan.")
    if found.ended:
        return _end(told, found, wanted)
    outlive_output()
    roll = _joined(clients, name, found)
    if not roll.ours:
        told.tell(events.warning("adf-roll did not start this refresh: it is shown, and not judged"))
    return _watch(clients, told, roll, "", console.stopping(), wanted)


def _roll(arguments: argparse.Namespace, clients: Account, group: Group, wishes: Wishes, change: Change) -> int:
    told = screen(as_json=arguments.json)
    if not _passes(clients, told, group, wishes, change):
        return REFUSED
    _ask(arguments, f"roll {group.name}?")
    stop = console.stopping()  # from here on Ctrl-C ends no call half-way
    outlive_output()
    roll = begin.begin(clients, group, wishes, change)
    told.tell(events.started(roll))
    if getattr(arguments, "detach", False):
        told.tell(events.detached(roll))
        return DETACHED
    code = _watch(clients, told, roll, wishes.check, stop)
    if not code and getattr(arguments, "clean", False):
        _clean(clients, told, roll, stop)
    return code


def _passes(clients: Account, told: Screen, group: Group, wishes: Wishes, change: Change) -> bool:
    """Tells the plan, and whether nothing in it forbids the roll."""
    deadline = Deadline(PREPARING_SECONDS, threading.Event())
    release = verified(change.url_after, deadline) if change.url_after else Verified()
    under_way = _latest(clients, group.name)
    running = under_way.status if under_way and not under_way.ended else None
    alarms = witnesses.alarms(clients, wishes.alarms)
    records, unread = _read(clients, change)
    found = preflight.findings(group, change, wishes, release, running, alarms, unread)
    known = [each.boot_seconds for each in records if each.group == group.name and each.boot_seconds]
    planned = preferences.plan(group, change, wishes, statistics.median(known) if known else None)
    told.tell(events.plan(planned.lines, planned.as_json, found))
    return not any(each.level == "refuse" for each in found)


def _read(clients: Account, change: Change) -> tuple[Sequence[FleetRecord], str]:
    """The app's records, and why they can't be read."""
    try:
        return _records(clients, change)(), ""
    except AgentError as error:
        return (), error.sentence


def _ask(arguments: argparse.Namespace, question: str) -> None:
    """Raises Refused unless the answer is yes."""
    if arguments.yes:
        return
    try:
        cleaning.confirm(question)
    except AgentError as error:
        raise Refused(error.sentence, hint=error.hint) from error


def _joined(clients: Account, name: str, found: Refresh) -> Roll:
    """The roll that *found* is, whoever started it."""
    group = _group(clients, name)
    number, change, ours = former.deployed(clients.client("ec2"), group, found)
    return Roll(group, change, number, found.id, found.alarms, ours, found.automatic, reversible=bool(found.template))


def _watch(
    clients: Account, told: Screen, roll: Roll, check: str, stop: threading.Event, wanted: str = refresh.DONE
) -> int:
    """The exit code, by how the roll or the watch ends. Raises Unseen, or AgentError where the group is gone."""
    watched = Lookout(roll, clients, _records(clients, roll.change))
    try:
        ended, doubt = guard.watch(watched, clients, told, check, Deadline(math.inf, stop))
    except Stopped:
        return DETACHED
    if doubt:
        told.tell(events.doubtful(roll.group.name, doubt))
    return _end(told, ended, wanted, well=not doubt)


def _end(told: Screen, ended: Refresh, wanted: str = refresh.DONE, *, well: bool = True) -> int:
    """Tells how it *ended*; 0 where that is *wanted*."""
    code = 0 if ended.status == wanted and well else FAILED
    told.tell(events.ended(ended, code))
    return code


def _clean(clients: Account, told: Screen, roll: Roll, stop: threading.Event) -> None:
    """Removes the former release's own config. The roll is done: what stands in the way is a warning."""
    deadline, release = Deadline(LEAVING_SECONDS, stop), roll.change.release_before
    app = App(roll.change.app, clients.table(roll.change.table), clients, deadline)
    try:
        guard.until_left(roll, clients, deadline)
        planned = cleaning.plan(app, release)
        written = [*cleaning.clean(app, release, planned)]
    except AgentError as error:
        told.tell(events.warning(f"nothing was cleaned up: {error.sentence}", error.hint))
    except Stopped:
        told.tell(events.warning("stopped before the clean-up", f"adf-config -a {app.name} clean {release}"))
    else:
        told.tell(events.cleaned(release, [*planned], cleaning.undo(app, written)))


def _records(clients: Account, change: Change) -> Callable[[], list[FleetRecord]]:
    """Reads those of the app; none where there is no app to know of."""
    if not change.app:
        return list
    table = clients.table(change.table, account.BRIEF)
    return lambda: fleet.records(App(change.app, table, clients, Deadline(RECORDS_SECONDS, threading.Event())))


def _latest(clients: Account, name: str) -> Refresh | None:
    client = clients.client("autoscaling")
    return Deadline(PATIENCE, threading.Event()).retry(lambda: refresh.latest(client, name))


def _group(clients: Account, name: str) -> Group:
    return Deadline(PATIENCE, threading.Event()).retry(lambda: facts.read(clients, name))
