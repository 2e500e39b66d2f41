"""What is told of a roll: events, for people a few lines each, for bots an object."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from adf_agent.ops.rolling.canary import Instance, Verdict, failing
from adf_agent.ops.rolling.finding import Finding
from adf_agent.ops.rolling.lookout import Look, Roll
from adf_agent.ops.rolling.refresh import Refresh


@dataclass(frozen=True)
class Event:
    """*facts* are a JSON object's members beside `event`, which is *name*; *lines* are for people, "" for none."""

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    lines: str = ""


def plan(lines: Iterable[str], facts: Mapping[str, Any], findings: Iterable[Finding]) -> Event:
    """What would be done, and what is wrong with it."""
    found = [*findings]
    shown = (f"{each.level}: {each.sentence}" + (f"\n  → {each.hint}" if each.hint else "") for each in found)
    return Event("plan", {**facts, "findings": [asdict(each) for each in found]}, "\n".join([*lines, *shown]))


def started(roll: Roll) -> Event:
    """The refresh runs."""
    change, group = roll.change, roll.group.name
    facts = {"group": group, "refresh": roll.refresh_id, "version": roll.version, "release": change.release_after}
    what = change.release_after or "the roll"
    return Event(
        "started", facts, f"{what} goes to {group}: template version {roll.version}, refresh {roll.refresh_id}"
    )


def news(former: Look | None, now: Look) -> Iterator[Event]:
    """What *now* has that the look before it had not."""
    if former is None or former.refresh != now.refresh:
        yield progress(now.refresh)
    before = {each.id: each for each in former.instances} if former else {}
    for each in now.instances:
        known = before.get(each.id)
        if known is None or _facts(known) != _facts(each):
            yield instance(each, known)
    said = former.troubles if former else ()
    yield from (warning(each) for each in now.troubles if each not in said)


def progress(refresh: Refresh) -> Event:
    """How far it is, and the engine's own reason why it waits."""
    facts = {"status": refresh.status, "percentage": refresh.percentage, "left": refresh.left, "reason": refresh.why}
    return Event("progress", facts, summary(refresh))


def summary(refresh: Refresh) -> str:
    """The refresh in a line."""
    left = f", {refresh.left} to go" if refresh.left else ""
    why = f": {refresh.why}" if refresh.why else ""
    return f"{refresh.status} {refresh.percentage}%{left}{why}"


def instance(seen: Instance, former: Instance | None = None) -> Event:
    """A new instance, and the last words of one that failed: to people once."""
    tail = "" if former and failing(former) else _tail(seen)
    return Event("instance", _facts(seen), "\n".join([row(seen), *(f"    | {line}" for line in tail.splitlines())]))


def row(seen: Instance) -> str:
    """An instance in a line: what its group says, and how far it is by its own record."""
    record = seen.record
    own = "" if record is None else " ".join(filter(None, (record.phase, _stage(seen))))
    error = record.error if record else ""
    return "  ".join(filter(None, (seen.id, f"{seen.state:<16}", own, error, seen.balancer))).rstrip()


def judged(verdict: Verdict | None) -> Event:
    """The canary, at the end of the bake or as soon as something is wrong with it."""
    if verdict is None:
        return Event("judged", {"well": True, "reason": ""}, "the canary is well")
    facts = {"well": False, "reason": verdict.reason, "instance": verdict.instance.id if verdict.instance else ""}
    return Event("judged", facts, verdict.reason)


def unjudged() -> Event:
    """The bake is over, and neither record nor load balancer has said a word."""
    hint = "See `adf-agent status` on it, and why its fleet record can't be read."
    return warning("nothing but its launch hook says that the canary is well", hint)


def doubtful(group: str, reason: str) -> Event:
    """The roll is done, and should have gone back."""
    return warning(f"{group} was rolled before that could be prevented: {reason}", f"adf-roll back {group}")


def rollback(group: str) -> Event:
    """The engine was told to take it back."""
    return Event("rollback", {"group": group}, f"{group} goes back to what it had")


def checked(output: str) -> Event:
    """What --check has printed."""
    return Event("check", {"output": output}, output.rstrip("\n"))


def warning(sentence: str, hint: str = "") -> Event:
    """Something that does not stop the roll."""
    return Event(
        "warning", {"reason": sentence, "hint": hint}, f"warning: {sentence}" + (f"\n  → {hint}" if hint else "")
    )


def cleaned(release: str, names: Sequence[str], undo: str) -> Event:
    """The former release's own config is gone."""
    return Event("cleaned", {"release": release, "keys": [*names]}, f"{len(names)} keys of {release} removed; {undo}")


def none(group: str) -> Event:
    """There was no roll to tell of."""
    return Event("ended", {"status": "", "exit": 0}, f"{group} was never rolled, or long ago")


def ended(refresh: Refresh, code: int) -> Event:
    """Its end, and this command's exit code."""
    facts = {"status": refresh.status, "reason": refresh.why, "percentage": refresh.percentage, "exit": code}
    why = f": {refresh.why}" if refresh.why else ""
    return Event("ended", facts, f"{refresh.status}{why}")


def detached(roll: Roll, seen: Refresh | None = None, *, judged: bool = False) -> Event:
    """What guards a roll that nobody watches any more, as it was last *seen*; *judged*: its canary was, to the end."""
    group, alarms = roll.group.name, roll.alarms
    known = {
        "it rolls back by itself where AWS calls it failed": roll.automatic,
        f"alarms guard it: {', '.join(alarms)}": alarms,
        "the canary was judged": judged,
        "nothing judges the canary now": roll.ours and not (alarms or judged),
    }
    guards = "".join(f"; {each}" for each, true in known.items() if true)
    undo = f"; to undo it: adf-roll back {group}" if roll.reversible else ""
    if seen and not seen.forward:
        guards, undo = f": {seen.status}", ""
    lines = f"{group} rolls on without this command{guards}\n  → to come back: adf-roll watch {group}{undo}"
    return Event("detached", {"group": group, "alarms": [*alarms], "judged": judged}, lines)


def _facts(seen: Instance) -> dict[str, Any]:
    record = seen.record
    return {
        "id": seen.id,
        "state": seen.state,
        "phase": seen.phase,
        "stage": record.stage if record else "",
        "restarts": record.restarts if record else 0,
        "error": record.error if record else "",
        "balancer": seen.balancer,
        "log_tail": _tail(seen),
    }


def _stage(seen: Instance) -> str:
    """Where it is in its boot, or was when it failed; in service it tells nothing."""
    return seen.record.stage if seen.record and seen.phase in ("booting", "failed", "held") else ""


def _tail(seen: Instance) -> str:
    return seen.record.log_tail if seen.record and failing(seen) else ""
