"""What is seen of a roll at one moment, by a handful of calls, however large the group is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError
from adf_agent.fleetrecord import ENDED, FleetRecord
from adf_agent.ops.rolling import facts, preferences, refresh, witnesses
from adf_agent.ops.rolling.canary import GONE, Instance, leaving
from adf_agent.ops.rolling.change import Change
from adf_agent.ops.rolling.errors import Refused, Unseen
from adf_agent.ops.rolling.facts import Group, Member
from adf_agent.ops.rolling.refresh import Refresh
from adf_agent.ops.rolling.witnesses import Clients

PATIENCE = 300.0  # seconds of throttling, or of a network that is away, after which a roll can't be seen any more
T = TypeVar("T")


@dataclass(frozen=True)
class Roll:
    """The refresh *refresh_id* of *group*, as that was when somebody joined it. It deploys the template's *version*.

    *alarms* are those that the engine itself watches. Where it is not *ours*, old and new instances can't be told apart
    by their version: it is shown, and not judged. *automatic*: the engine takes it back where it calls it failed;
    *reversible*: somebody can have it taken back.
    """

    group: Group
    change: Change
    version: int
    refresh_id: str
    alarms: tuple[str, ...] = ()
    ours: bool = True
    automatic: bool = True
    reversible: bool = True


@dataclass(frozen=True)
class Look:
    """*instances* are all the new ones there ever were, *canaries* the first of them, *expected* how many of these.

    *beyond*: more than these were replaced; *warmup* are the seconds that the engine gives a new instance in service
    before it goes on, or waits at a checkpoint. *firing* are the alarms in ALARM; *troubles* is what was not seen.
    """

    refresh: Refresh
    instances: tuple[Instance, ...] = ()
    canaries: tuple[Instance, ...] = ()
    expected: int = 1
    beyond: bool = False
    warmup: int = 0
    firing: frozenset[str] = frozenset()
    troubles: tuple[str, ...] = ()


class Lookout:
    """Looks at *roll* again and again, and remembers its new instances. *records* reads the app's fleet records."""

    def __init__(self, roll: Roll, clients: Clients, records: Callable[[], list[FleetRecord]]) -> None:
        self.roll, self._clients, self._records = roll, clients, records
        self._old = {each.instance_id for each in roll.group.members if not roll.ours or each.version != roll.version}
        self.seen: Refresh | None = None  # at the last look
        self._known: dict[str, Instance] = {}
        self._canaries: set[str] = set()

    def look(self, deadline: Deadline) -> Look:
        """Raises Unseen where the roll can't be seen any more, AgentError where the group is gone; or Stopped."""
        group, client, patient = self.roll.group, self._clients.client("autoscaling"), deadline.anew(PATIENCE)
        desired, members, gone = self._members_if_any(patient)
        # After the members: what a rollback takes away is no failure, and it is known to be one by then.
        self.seen = seen = patient.retry(lambda: refresh.read(client, group.name, self.roll.refresh_id))
        if gone:
            raise gone
        troubles: list[str] = []
        # After the members: one that is gone has left its record before.
        records = {each.instance_id: each for each in _tried(self._records, troubles) or ()}
        firing = _tried(lambda: witnesses.alarms(self._clients, seen.alarms), troubles) or {}
        states = self._states(seen, members, records)
        # A percentage is of what is desired, or of what may be replaced: no page says which.
        replaced = max(1, group.desired - sum(self._stays(each) for each in members.values()))
        expected = min(seen.canaries(group.desired), replaced)
        # AWS's percentage is of what is desired now: where that has changed, it does not tell who was replaced.
        beyond = desired == group.desired and seen.beyond(expected, replaced)
        # Who comes when the canaries are complete is none.
        if self.roll.ours and sum(not leaving(state) for state in states.values()) <= expected:
            self._canaries |= {*states}
        serving = [name for name in self._canaries if states[name] == "InService" and not beyond]
        places = group.target_groups, group.load_balancers
        said = _tried(lambda: witnesses.balancers(self._clients, *places, serving), troubles) or {}
        self._known = {name: self._seen(name, state, records, said) for name, state in states.items()}
        return Look(
            refresh=seen,
            instances=tuple(self._known.values()),
            canaries=tuple(each for each in self._known.values() if each.id in self._canaries),
            expected=expected,
            beyond=beyond,
            warmup=preferences.warmup(group, seen.warmup),
            firing=frozenset(alarm for alarm, state in firing.items() if state == "ALARM"),
            troubles=tuple(troubles),
        )

    def _members_if_any(self, patient: Deadline) -> tuple[int, Mapping[str, Member], Unseen | None]:
        """Why there are none to be seen is raised only once the refresh says that the group is there."""
        client = self._clients.client("autoscaling")
        try:
            desired, found = patient.retry(lambda: facts.now(client, self.roll.group.name))
        except Refused as error:
            return 0, {}, Unseen(error.sentence, hint=error.hint)
        return desired, {each.instance_id: each for each in found}, None

    def _states(
        self, seen: Refresh, members: Mapping[str, Member], records: Mapping[str, FleetRecord]
    ) -> dict[str, str]:
        """Of every new instance there ever was, the lifecycle state, or GONE."""
        new = {
            name: each.state
            for name, each in members.items()
            if each.version == self.roll.version and name not in self._old
        }
        lost = [name for name, record in records.items() if name not in members and self._is_lost(seen, record)]
        return dict.fromkeys([*self._known, *lost], GONE) | new

    def _stays(self, member: Member) -> bool:
        """Whether the refresh lets it alone. In Standby it does not count as desired."""
        return member.protected and member.version != self.roll.version and "Standby" not in member.state

    def _is_lost(self, seen: Refresh, record: FleetRecord) -> bool:
        """Whether *record* is that of a new instance that came and failed between two looks, or before the first."""
        ours = (record.release, record.group) == (self.roll.change.release_after, self.roll.group.name)
        late = bool(seen.started) and record.touched >= int(seen.started)  # Touched has whole seconds
        return ours and late and record.phase in ENDED and record.instance_id not in self._old

    def _seen(self, name: str, state: str, records: Mapping[str, FleetRecord], said: Mapping[str, str]) -> Instance:
        former = self._known.get(name) or Instance(name, state)
        record = records.get(name) or former.record
        praised = said.get(name) == "" or (record is not None and record.phase == "in service")
        return Instance(
            id=name,
            state=state,
            served=former.served or state == "InService",
            well=former.well or praised,
            balancer=said.get(name, ""),
            record=record,
        )


def _tried(call: Callable[[], T], troubles: list[str]) -> T | None:
    """The answer of *call*; where none comes, None, and one of *troubles* is why."""
    try:
        return call()
    except AgentError as error:
        troubles.append(error.sentence)
        return None
