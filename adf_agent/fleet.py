"""The writer of the fleet record, by which an instance that is gone still explains itself."""

import copy
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from adf_agent import aws
from adf_agent.background import Task
from adf_agent.errors import AgentError, ReportError
from adf_agent.fleetrecord import Parts, facts, item

SLOT_SECONDS = 5.0  # between two writes
PAUSE_SECONDS = 60.0  # between two tries, at most
TOUCH_SECONDS = 3600.0  # less than fleetrecord.LIVE_SECONDS
LOOK_SECONDS = 1.0  # how soon the thread sees that a write is due; news that can't wait wake it at once
# No older value over a newer one: a put left hanging may still come through, by minutes late.
NEWER = "attribute_not_exists(Boot) OR Boot < :boot OR (Boot = :boot AND Seq < :seq)"
log = structlog.get_logger()


class PutsItems(Protocol):
    """The DynamoDB client's one call that is made here."""

    def put_item(self, **request: Any) -> Any: ...


@dataclass(frozen=True)
class Told:
    parts: Parts
    tail: str
    seq: int


class Fleet:
    """Writes the record of *instance_id* to *table*, in a thread of its own; the latest value told is the one written.

    *dynamodb* makes the client and may raise AgentError; *boot* counts the machine's boots; *clock* is monotonic,
    *wall* epoch seconds. *troubled* is given a sentence, once, where the record can't be written until somebody acts.
    """

    def __init__(  # noqa: PLR0913  the item's key, and what is the edge's to make
        self,
        table: str,
        app: str,
        instance_id: str,
        dynamodb: Callable[[], PutsItems],
        boot: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        *,
        troubled: Callable[[str], None],
    ) -> None:
        self._table, self._app, self._instance_id, self._boot = table, app, instance_id, boot
        self._dynamodb, self._clock, self._wall, self._troubled = dynamodb, clock, wall, troubled
        self._client: PutsItems | None = None
        self._changed = threading.Condition()  # guards what follows; never held while somebody else is called
        self._last: Told | None = None  # what the record should say …
        self._pending: Told | None = None  # … and is to be made to say
        self._urgent = False
        self._denied = False  # what is told then waits for the hourly touch
        self._closing = False
        self._seq = 0
        self._slot = self._touch = 0.0  # on the clock: when a pending value is written, and when the last one is again
        self._pause = SLOT_SECONDS  # longer with each failure of a series
        self._task = Task(self._run)
        self._task.future.add_done_callback(self._ended)

    def tell(self, parts: Parts, tail: str = "") -> None:
        """Has *parts* written, where they say something new. Returns at once; until then nobody may change them.

        *tail* is the app's last lines, masked.
        """
        with self._changed:
            former = self._last
            if former and facts(parts, tail) == facts(former.parts, former.tail):
                return
            self._last = Told(copy.deepcopy(parts), tail, self._greater())
            if self._denied and not self._pending:
                return
            self._pending = self._last
            if former is None or former.parts.get("phase") == "booting" != parts.get("phase"):
                self._urgent = True
                self._changed.notify()

    def close(self, seconds: float) -> None:
        """Has what is pending written at once, and waits *seconds* at most. What is told after it is not written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        wait([self._task.future], seconds)

    def _greater(self) -> int:
        """A greater Seq than any before, also those of an agent that ran earlier in this boot of the machine."""
        milliseconds = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        self._seq = max(self._seq + 1, milliseconds)
        return self._seq

    def _run(self) -> None:
        while told := self._next():
            self._try(told)
        if told := self._pending:
            self._try(told)

    def _next(self) -> Told | None:
        """What is to be written, as soon as it is; None where close() comes first."""
        with self._changed:
            while not self._closing:
                now = self._clock()
                if self._last and (self._urgent or now >= (self._slot if self._pending else self._touch)):
                    if not self._pending:
                        self._last = self._pending = replace(self._last, seq=self._greater())
                    self._urgent = False
                    self._slot, self._touch = now + SLOT_SECONDS, now + TOUCH_SECONDS
                    return self._pending
                self._changed.wait(LOOK_SECONDS)
        return None

    def _try(self, told: Told) -> None:
        try:
            self._put(told)
        except AgentError as error:
            if isinstance(error, ReportError) and not error.transient:
                self._give_up(error)
            else:  # also without a client: credentials may still come
                self._put_off(error)
        else:
            with self._changed:
                if self._pending is told:
                    self._pending = None
                self._denied, self._pause = False, SLOT_SECONDS

    def _put(self, told: Told) -> None:
        """One put. Raises ReportError, or the AgentError that there is no client."""
        whole = item(told.parts, self._app, self._instance_id, told.tail, self._boot, told.seq, self._wall())
        try:
            self._client = self._client or self._dynamodb()
            self._client.put_item(
                TableName=self._table,
                Item=whole,
                ConditionExpression=NEWER,
                ExpressionAttributeValues={":boot": whole["Boot"], ":seq": whole["Seq"]},
            )
        except aws.faults() as error:
            if aws.code(error) != "ConditionalCheckFailedException":
                raise aws.fault(error, ReportError, "dynamodb:PutItem", f"table {self._table}") from error
            log.info("fleet.newer_stands", boot=self._boot, seq=told.seq)

    def _put_off(self, error: AgentError) -> None:
        """Tries again, with what is pending then."""
        if self._pause == SLOT_SECONDS:  # the first of a series
            log.warning("fleet.not_written", reason=error.sentence)
        with self._changed:
            self._pause = min(2 * self._pause, PAUSE_SECONDS)
            # Jitter, as what throttles one instance throttles all that were launched with it.
            self._slot = self._clock() + random.uniform(SLOT_SECONDS, self._pause)  # noqa: S311  not for secrecy

    def _give_up(self, error: ReportError) -> None:
        """Says so, once; the hourly touch tries again."""
        with self._changed:
            said, self._denied = self._denied, True
            self._pending, self._urgent, self._pause = None, False, SLOT_SECONDS
        if not said:
            self._say(f"the fleet record is not written: {error.sentence}")

    def _ended(self, task: Future[None]) -> None:
        if error := task.exception():
            self._say(f"the fleet record is not written any more: unexpected: {type(error).__name__}")

    def _say(self, sentence: str) -> None:
        with suppress(AgentError):  # a status that can't be written either is no reason to stop writing here
            self._troubled(sentence)
