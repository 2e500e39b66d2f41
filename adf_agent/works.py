"""What each phase of the agent has to do, as `supervise` sets it going: all that acts, and nothing that decides."""

import random
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import structlog

from adf_agent import boot, container, leave, member, phases, report, serving, undo
from adf_agent.background import Task
from adf_agent.deadline import Deadline
from adf_agent.engine import FAULTS
from adf_agent.errors import AgentError, Stopped, unexpected
from adf_agent.fleet import Fleet
from adf_agent.host import Host
from adf_agent.leave import Leaving
from adf_agent.member import Member
from adf_agent.notices import SPOT_SECONDS as SPOT_EVERY
from adf_agent.notices import Watch
from adf_agent.phases import State
from adf_agent.record import Record
from adf_agent.serving import NotReloadedError, Service
from adf_agent.stages import Stages
from adf_agent.state import Ledger

CLOSE_SECONDS = 3.0  # for the last word of the fleet record
GIVE_UP_SECONDS = 15.0  # to have the group told of a failed boot
NOTICES_SECONDS = 5.0  # to be waited for at the start; a metadata service that is silent says nothing new
PREPARE_SECONDS = 10.0  # to be waited for at a start: the clients are there at once, but for slow credentials
UNTOLD_SECONDS = 15.0  # between two tries to tell the group, where that fails
RELOAD_SECONDS = 30.0  # to read settings and config anew: the app is not looked after meanwhile
SPREAD = 0.25  # of a pause between two restarts, more or less: a fleet must not knock at its database in step
log = structlog.get_logger()


class Works:
    """Each returns the service that it has brought about, None where there is none. Raises AgentError, Stopped."""

    def __init__(self, host: Host, record: Record, ledger: Ledger, watch: Watch, patience: float) -> None:
        self.do: Stages | None = None  # once the settings are read
        self.member: Member | None = None
        self.fleet: Fleet | None = None
        self._host, self._record, self._ledger, self._watch, self._patience = host, record, ledger, watch, patience

    def start(self, stop: threading.Event) -> None:
        """The settings, and the first word of the metadata service on what the group has in mind."""
        self.do = boot.read(self._host, self._record, self._ledger, Deadline(self._patience, stop))
        self.fleet = self.fleet or tell_fleet(self.do)
        self._watch.asked.wait(NOTICES_SECONDS)
        grouped = self._watch.seen.target is not None or self.do.launched.target is not None
        prepared = Task(partial(leave.prepare, self.do, grouped=grouped))
        if serving.is_known(self.do):  # else the boot takes longer than that
            with suppress(Exception):  # told when it is asked for
                prepared.result(Deadline(PREPARE_SECONDS, stop))

    def boot(self, stop: threading.Event) -> Service | None:
        do = self._staged()
        return boot.boot(replace(do, deadline=Deadline(do.deadline.remaining(), stop)), self._membership())

    def again(self, state: State, stop: threading.Event) -> Service:
        """Has the service run again, after a pause that grows with its restarts."""
        seconds = phases.pause(state.restarts) * random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311  no secret
        try:
            if state.phase is phases.Phase.RESTARTING:
                self._explain(state)
        finally:  # also where that fails, time after time
            Deadline(2 * phases.LONGEST_PAUSE, stop).wait(seconds)
        return serving.again(self._anew(stop), self._membership())

    def reload(self, stop: threading.Event) -> Service | None:
        """Settings and config anew; what can't be read leaves everything as it is."""
        before = self._staged()
        try:
            self._ledger.note_if_possible(tags="")  # they may be what has changed
            serves = self._record.part("release")
            do = boot.read(self._host, self._record, self._ledger, Deadline(RELOAD_SECONDS, stop))
            self._record.add(release=serves)  # a reload never changes it: where another one is meant, it is refused
            out = Leaving(before, leave.plan("reload"), stop, grouped=self._watch.seen.target is not None)
            service = serving.reload(do, self._membership(do), before, out.run)
        except Stopped:
            self._reloaded("the instance left before the reload had ended")
            raise
        except NotReloadedError as error:
            self._reloaded(error.sentence, error.hint)
            return None
        except AgentError as error:
            if error.stage == "settings":
                self._reloaded(NotReloadedError(error).sentence, error.hint)
                return None
            self._reloaded(f"the reload failed: {error.sentence}", error.hint)
            raise
        except Exception as error:  # `adf-agent reload` waits for its end
            fault = unexpected(error)
            self._reloaded(f"the reload failed: {fault.sentence}", fault.hint)
            raise
        self.do = do
        self._reloaded("")
        return service

    def _reloaded(self, trouble: str, hint: str = "") -> None:
        self._record.trouble("reload", trouble, hint)
        ended = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        told = {"error": self._record.mask(trouble), "hint": self._record.mask(hint)}
        self._record.add(reload={"ended": ended, **told})

    def leave(self, state: State, stop: threading.Event) -> None:
        """Out of service, for the reason that *state* names."""
        if self.member:
            self.member.end()
        if state.why == "drain" and not self.do:  # nobody knows of this instance yet
            self._ledger.note_if_possible(standing="drained")
        if self.do and state.why:
            seen = self._watch.seen
            plan = leave.plan(state.why, seen.target, _seconds_until(seen.spot_time) if seen.spot_time else None)
            spent = time.monotonic() - state.since  # on having what was under way called off
            fault = Leaving(self.do, plan, stop, grouped=seen.target is not None, spent=spent).run()
            if fault:
                raise fault

    def give_up(self, state: State) -> None:
        """Has the group replace this instance after a failed boot; what was kept of it for a person goes now."""
        with ExitStack() as then:  # whatever became of what comes before
            if self.member:
                then.callback(self.member.end)
            then.callback(give_up, self._host, self._record, self._ledger, self.do, state.error)
            if self.do and not undo.former_serves(self.do):
                undo.undo(self.do, None)

    def report_unhealthy(self, stop: threading.Event) -> None:
        """Has the group replace this instance, which was in service: asked for until it was told, or *stop* is set."""
        while self._watch.seen.target is not None and not stop.is_set():
            do = self._anew(stop)
            try:
                if member.report_unhealthy(do.host, do.launched.identity, do.deadline):
                    self._ledger.note_if_possible(given_up="it was reported Unhealthy")
                    told = "the group was told to replace this instance, as it is unhealthy"
                    self._record.trouble("unhealthy", told, "adf-agent logs")
            except AgentError as error:
                untold = f"this instance is unhealthy, which can't be told: {error.sentence}"
                self._record.trouble("unhealthy", untold, error.hint)
                stop.wait(UNTOLD_SECONDS)
                continue
            return

    def close(self, seconds: float) -> None:
        """Has the fleet record say the last word."""
        if self.fleet:
            self.fleet.close(seconds)

    def _staged(self) -> Stages:
        if self.do is None:
            raise AgentError("the settings have not been read")
        return self.do

    def _anew(self, stop: threading.Event) -> Stages:
        do = self._staged()
        return replace(do, deadline=Deadline(do.launched.settings.boot_timeout, stop))

    def _membership(self, do: Stages | None = None) -> Member:
        do = do or self._staged()
        if self.member:
            self.member.end()
        self.member = Member(do.host, self._record, do.launched, self._watch.seen.target or do.launched.target)
        return self.member

    def _explain(self, state: State) -> None:
        """Writes down what the container ended with, or what else went wrong, and keeps the app's last lines."""
        name = self._ledger.state.container_id
        with suppress(AgentError, *FAULTS):
            client = self._host.docker(GIVE_UP_SECONDS)
            if name and not container.running(client, name):
                code, starved = container.exit_state(client, name)
                why = "ran out of memory" if starved else f"exited with code {code}"
                self._record.keep(container.last_words(client, name))
                last = f"{datetime.now(UTC):%H:%M:%SZ}"
                told = f"the app {why}, {state.restarts} in a row, last at {last}"
                self._record.trouble("app", told, "adf-agent logs")
            client.close()


def give_up(host: Host, record: Record, ledger: Ledger, do: Stages | None, error: AgentError | None) -> None:
    """Tells the group, in a time of its own, and notes that this instance is not to be booted again."""
    window = Deadline(GIVE_UP_SECONDS, threading.Event())
    try:
        told = report.give_up(host, record, do.launched if do else None, window)
    except (AgentError, TimeoutError) as fault:
        reason = f"the group can't be told to replace this instance: {str(fault) or 'no answer in time'}"
        record.degrade(reason, fault.hint if isinstance(fault, AgentError) else "")
        return
    if told and error:
        ledger.note_if_possible(given_up=record.mask(error.sentence), standing="")  # later nobody knows the secrets


def tell_fleet(do: Stages) -> Fleet | None:
    """The fleet record, kept up to date with the status from now on; None without an app."""
    settings, identity, record = do.launched.settings, do.launched.identity, do.record
    if settings.app is None:
        return None
    fleet = Fleet(
        settings.config_table,
        settings.app,
        identity.instance_id,
        lambda: do.host.config(identity.region).dynamodb,
        do.ledger.state.boots,
        troubled=lambda sentence: record.degrade(f"no fleet record is kept: {sentence}"),
    )
    record.listen(lambda parts: fleet.tell(parts, record.tail if settings.log_tail else ""))
    return fleet


def _seconds_until(text: str) -> float:
    """Seconds until *text* (ISO 8601), of which a notice gives two minutes.

    Nearly all of them where it can't be so: the clock is wrong then, and the notice a few seconds old.
    """
    with suppress(ValueError):
        left = (datetime.fromisoformat(text) - datetime.now(UTC)).total_seconds()
        if 0 < left <= leave.SPOT_SECONDS:
            return left
    return leave.SPOT_SECONDS - 2 * SPOT_EVERY
