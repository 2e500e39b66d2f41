"""The fleet record: what it says, when it is written, and that its faults stay its own."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import structlog
from botocore.exceptions import ClientError

from adf_agent import fleet, fleetrecord
from adf_agent.errors import AgentError
from adf_agent.fleet import Fleet
from adf_agent.fleetrecord import Parts
from adf_agent.sandbox.cloud import Cloud

TABLE, APP, INSTANCE = "adf-config", "web", "i-0123456789abcdef0"
WALL = 1_700_000_000.9
PATIENCE = 20.0  # seconds that a test waits for what should come at once
NAMES = ["settings", "docker", "release", "config", "image", "container", "health", "report"]


def stage(name: str, state: str = "done", seconds: float | None = 1.0) -> dict[str, Any]:
    return {"name": name, "state": state, "started": WALL} | ({} if seconds is None else {"seconds": seconds})


def parts(phase: str = "booting", **more: Any) -> dict[str, Any]:
    return {"phase": phase, "stages": [], "release": {"name": "v42"}, **more}


def texts(said: Parts, tail: str = "") -> dict[str, str]:
    """The item's attributes without DynamoDB's types."""
    whole = fleetrecord.item(said, APP, INSTANCE, tail, boot=3, seq=7, now=WALL)
    return {name: text for name, typed in whole.items() for text in typed.values()}


# What it says


def test_an_item_says_all_that_is_known_and_leaves_out_the_rest() -> None:
    """A dashboard that shows `None` as a group, or an instance that the table's TTL never forgets."""
    said = parts("in service", stages=[stage("settings", seconds=0.012), stage("docker", seconds=1.2)])
    least = {
        "App": {"S": "web#fleet"},
        "Name": {"S": INSTANCE},
        "Release": {"S": "v42"},
        "Phase": {"S": "in service"},
        "Stage": {"S": "docker"},
        "Stages": {"S": "settings 0.01, docker 1.20"},
        "Boot": {"N": "3"},
        "Seq": {"N": "7"},
        "Touched": {"N": "1700000000"},
        "Expires": {"N": "1700604800"},
    }
    assert fleetrecord.item(said, APP, INSTANCE, "", 3, 7, WALL) == least
    more = said | {"group": "web-blue", "restarts": 0, "error": {"sentence": "the app exited", "stage": "health"}}
    added = {"Group": {"S": "web-blue"}, "Restarts": {"N": "0"}, "Error": {"S": "the app exited"}}
    assert fleetrecord.item(more, APP, INSTANCE, "", 3, 7, WALL) == least | added


def test_an_agent_that_knows_nothing_yet_has_a_record_too() -> None:
    """An instance that hangs before it knows its release, and is in no list of instances."""
    said: dict[str, Any] = {
        "phase": "booting",
        "stages": [],
        "release": None,
        "group": None,
        "restarts": None,
        "error": None,
    }
    assert set(texts(said)) == {"App", "Name", "Phase", "Boot", "Seq", "Touched", "Expires"}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], None),
        (["done", "done"], "docker"),
        (["running", "done"], "settings"),
        (["failed", "stopped"], "settings"),
        (["failed", "running", "done"], "docker"),
    ],
)
def test_the_stage_is_the_one_to_look_at(states: list[str], expected: str | None) -> None:
    """A canary that is rolled back for its docker stage, where its image did not build."""
    stages = [stage(name, state) for name, state in zip(NAMES, states, strict=False)]
    assert texts(parts(stages=stages)).get("Stage") == expected


def test_stages_are_those_that_ended_each_once() -> None:
    """A record that grows with every reload, until DynamoDB refuses it."""
    stages = [stage("image", seconds=9), stage("health", "failed", 2), stage("image"), stage("report", "running", None)]
    assert texts(parts(stages=stages))["Stages"] == "image 1.00, health 2.00"


def size(item: fleetrecord.Attributes) -> int:
    """DynamoDB's size of *item* in bytes: names and texts in UTF-8, numbers a byte for two digits and one more.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """

    def value(typed: dict[str, str]) -> int:
        return (len(typed["N"]) + 1) // 2 + 1 if "N" in typed else len(typed["S"].encode())

    return sum(len(name.encode()) + value(typed) for name, typed in item.items())


def test_a_record_in_service_costs_one_write_unit_with_the_longest_names() -> None:
    """A fleet whose touches cost twice what they should, and throttle the config reads of those that boot."""
    stages = [stage(name, seconds=3599.999) for name in NAMES]
    said = parts("in service", stages=stages, release={"name": "r" * 100}, group="g" * 255, restarts=99_999)
    assert size(fleetrecord.item(said, "a" * 100, INSTANCE, "line\n" * 50, 999_999, 10**13, WALL)) <= 1024


def test_a_long_error_keeps_its_beginning() -> None:
    """A build's error of a megabyte: DynamoDB refuses the item, and nobody learns why the boot failed."""
    told = texts(parts("failed", error={"sentence": "x" * 1_000_000, "stage": "image"}))["Error"]
    assert (len(told), told[:299], told[-1]) == (300, "x" * 299, "…")


@pytest.mark.parametrize(
    ("phase", "kept"), [("failed", True), ("held", True), ("booting", False), ("in service", False)]
)
def test_the_apps_lines_are_there_only_where_it_failed(phase: str, kept: bool) -> None:
    """The log of an app that is well, in a table that more people read than its host."""
    assert ("LogTail" in texts(parts(phase), "last words\n")) is kept


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("one\ntwo\n", "one\ntwo\n"),
        ("first\n" + "x\n" * 4096, "x\n" * 4096),
        ("first\nsecond\n" + "x" * 8190 + "\n", "x" * 8190 + "\n"),
        ("x" * 9000 + "END\n", "x" * 8188 + "END\n"),
        ("€" * 9000, "€" * 2730),
        ("\udcff bytes", "? bytes"),
    ],
    ids=["whole", "at a line's start", "within a line", "one long line", "no half character", "no text at all"],
)
def test_the_last_lines_are_kept_within_8_kb(tail: str, expected: str) -> None:
    """The start of a stack trace without the one line that says what happened."""
    told = texts(parts("failed"), tail)["LogTail"]
    assert told == expected
    assert len(told.encode()) <= 8192


# When it is written


class Clock:
    """A clock that a test moves, and that knows when the writer looks at it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._looked = threading.Semaphore(0)

    def __call__(self) -> float:
        now = self.now
        self._looked.release()
        return now

    def stay_looked_at(self) -> None:
        """Returns when whoever waits for a time has seen that it is not there yet."""
        while self._looked.acquire(blocking=False):
            pass
        for _ in range(2):  # the first look may have begun before
            assert self._looked.acquire(timeout=PATIENCE)


class Door:
    """A DynamoDB client that counts its puts, and hands each on after *hook*, which may raise or hang."""

    def __init__(self, client: Any, hook: Callable[[], None] = lambda: None) -> None:
        self.client = client
        self.hook = hook
        self.asked: list[dict[str, Any]] = []  # the items of all puts …
        self.answered = 0  # … and how many have ended
        self._news = threading.Condition()

    def put_item(self, **request: Any) -> Any:
        with self._news:
            self.asked.append(request["Item"])
            self._news.notify_all()
        try:
            self.hook()
            return self.client.put_item(**request)
        finally:
            with self._news:
                self.answered += 1
                self._news.notify_all()

    def wait(self, puts: int) -> None:
        """Returns when *puts* have ended."""
        with self._news:
            assert self._news.wait_for(lambda: self.answered >= puts, PATIENCE), f"{self.answered} puts, not {puts}"

    def wait_asked(self) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.asked, PATIENCE)


def until(condition: Callable[[], object]) -> None:
    """Returns when *condition* holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class World:
    """A real table, and the fleet records of one instance, each by an agent of its own."""

    def __init__(self, cloud: Cloud, stack: ExitStack) -> None:
        self._client = cloud.client("dynamodb")
        self._stack = stack
        self.clock = Clock()
        self.door = Door(self._client)
        self.trouble: list[str] = []

    def make_table(self) -> None:
        keys = {"App": "HASH", "Name": "RANGE"}
        self._client.create_table(
            TableName=TABLE,
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys.items()],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in keys],
            BillingMode="PAY_PER_REQUEST",
        )

    def fleet(self, boot: int = 1, make: Callable[[], fleet.PutsItems] | None = None) -> Fleet:
        made = Fleet(
            TABLE,
            APP,
            INSTANCE,
            make or (lambda: self.door),
            boot,
            self.clock,
            lambda: WALL + self.clock.now,
            troubled=self.trouble.append,
        )
        self._stack.callback(made.close, PATIENCE)
        return made

    def record(self) -> dict[str, str]:
        """The item as it is in the table, without DynamoDB's types."""
        key = {"App": {"S": f"{APP}#fleet"}, "Name": {"S": INSTANCE}}
        found = self._client.get_item(TableName=TABLE, Key=key, ConsistentRead=True).get("Item", {})
        return {name: text for name, typed in found.items() for text in typed.values()}


@pytest.fixture
def bare(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An AWS without any table."""
    monkeypatch.setattr(fleet, "LOOK_SECONDS", 0.01)  # a clock that is moved wakes nobody
    with ExitStack() as stack:
        yield World(cloud, stack)


@pytest.fixture
def world(bare: World) -> World:
    bare.make_table()
    return bare


def client_error(code: str) -> ClientError:
    """What botocore raises for an answer that moto does not give."""
    answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    return ClientError(answer, "PutItem")  # type: ignore[arg-type, unused-ignore]


def raising(error: Exception) -> Callable[[], None]:
    def hook() -> None:
        raise error

    return hook


def hanging(end: threading.Event) -> Callable[[], None]:
    def hook() -> None:
        end.wait(PATIENCE)

    return hook


def test_the_first_change_and_the_end_of_the_boot_are_written_at_once(world: World) -> None:
    """A canary that failed, and a roll that learns of it five seconds later, or never, as the instance is gone."""
    record = world.fleet()
    record.tell(parts())
    world.door.wait(1)
    assert world.record()["Phase"] == "booting"
    record.tell(parts(stages=[stage("settings")]))
    record.tell(parts("failed", error={"sentence": "it exited", "stage": "health"}), "last words\n")
    world.door.wait(2)  # no time has passed on its clock
    found = world.record()
    assert (found["Phase"], found["Error"], found["LogTail"]) == ("failed", "it exited", "last words\n")


def test_a_burst_of_changes_makes_two_writes_and_ends_at_the_last(world: World) -> None:
    """An app that restarts a hundred times a minute, times a thousand instances, and throttles everybody's config."""
    record = world.fleet()
    record.tell(parts("restarting"))
    world.door.wait(1)
    for restarts in range(100):
        record.tell(parts("restarting", restarts=restarts))
    world.clock.stay_looked_at()
    assert len(world.door.asked) == 1
    world.clock.now += 5
    world.door.wait(2)
    assert world.record()["Restarts"] == "99"
    record.close(PATIENCE)
    assert len(world.door.asked) == 2


def test_what_the_record_does_not_show_is_not_written(world: World) -> None:
    """A put for each probe of each instance, for weeks."""
    record = world.fleet()
    record.tell(parts())
    world.door.wait(1)
    for answer in range(100):
        record.tell(parts(probe={"answer": answer}, since=answer), tail=str(answer))
    world.clock.now += 5
    world.clock.stay_looked_at()
    record.close(PATIENCE)
    assert len(world.door.asked) == 1


def test_what_was_told_is_written_though_the_teller_goes_on_with_it(world: World) -> None:
    """A stage that is running in the record, with the seconds that it took: half of one value, half of the next."""
    record, said = world.fleet(), parts(stages=[stage("settings", "running", None)])
    go = threading.Event()
    world.door.hook = hanging(go)
    record.tell(parts())
    world.door.wait_asked()
    record.tell(said)
    said["stages"][0].update(state="done", seconds=1.0)
    go.set()
    record.close(PATIENCE)
    found = world.record()
    assert (found["Stage"], found.get("Stages")) == ("settings", None)


def test_an_unchanged_record_is_touched_every_hour(world: World) -> None:
    """An instance in service for a week that counts as gone, as nothing happened to it."""
    record = world.fleet()
    record.tell(parts("in service"))
    world.door.wait(1)
    before = world.record()
    world.clock.now += 3599
    world.clock.stay_looked_at()
    assert len(world.door.asked) == 1
    world.clock.now += 1
    world.door.wait(2)
    after = world.record()
    assert int(after["Touched"]) == int(before["Touched"]) + 3600
    assert int(after["Expires"]) == int(after["Touched"]) + 7 * 86400
    assert int(after["Seq"]) > int(before["Seq"])
    assert {name for name in after if after[name] != before[name]} == {"Touched", "Expires", "Seq"}


def test_what_is_pending_is_written_when_the_agent_ends(world: World) -> None:
    """`draining` as the last word of an instance that left in order."""
    record = world.fleet()
    for phase in ("in service", "draining", "stopped"):
        record.tell(parts(phase))
    record.close(PATIENCE)
    assert world.record()["Phase"] == "stopped"
    assert len(world.door.asked) <= 2


# No older value over a newer


def test_an_agent_that_starts_again_goes_on_where_the_former_ended(world: World) -> None:
    """A package upgrade after which the record stands still, as its numbers began anew."""
    for restarts in range(3):
        record = world.fleet()
        record.tell(parts("in service", restarts=restarts))
        record.close(PATIENCE)
        assert world.record()["Restarts"] == str(restarts)


@pytest.mark.parametrize(
    ("boot", "seq", "stands"),
    [(1, 5, False), (1, 10**15, False), (2, 5, False), (2, 10**15, True), (3, 5, True)],
)
def test_an_older_value_never_overwrites_a_newer(world: World, boot: int, seq: int, stands: bool) -> None:
    """A put that hung through a reboot comes through, and the instance in service is shown as failed again."""
    newer = fleetrecord.item(parts("in service"), APP, INSTANCE, "", boot, seq, WALL)
    world.door.client.put_item(TableName=TABLE, Item=newer)
    record = world.fleet(boot=2)
    with structlog.testing.capture_logs() as logs:
        record.tell(parts("failed"))
        record.close(PATIENCE)
    assert world.record()["Phase"] == ("in service" if stands else "failed")
    assert [(line["event"], line["log_level"]) for line in logs] == [("fleet.newer_stands", "info")] * stands
    assert world.trouble == [], "that a newer one stands is no fault"


# Its faults stay its own


def test_a_database_that_hangs_holds_nobody_up(world: World) -> None:
    """A boot that waits for its own bookkeeping, or an instance that can't be stopped."""
    hang = threading.Event()
    world.door.hook = hanging(hang)
    record = world.fleet()
    began = time.monotonic()
    record.tell(parts())
    world.door.wait_asked()
    for restarts in range(100):
        record.tell(parts("in service", restarts=restarts))
    assert time.monotonic() - began < 2
    began = time.monotonic()
    record.close(0.2)
    assert 0.2 <= time.monotonic() - began < 2
    assert world.door.answered == 0
    hang.set()


@pytest.mark.parametrize(
    "code", ["ProvisionedThroughputExceededException", "ThrottlingException", "InternalServerError"]
)
def test_what_may_pass_is_tried_again_with_the_last_value_and_said_once(world: World, code: str) -> None:
    """A throttled table that leaves a fleet's records behind for good; a journal full of it meanwhile."""
    world.door.hook = raising(client_error(code))
    record = world.fleet()
    with structlog.testing.capture_logs() as logs:
        record.tell(parts())
        for tries in range(1, 8):
            world.door.wait(tries)
            record.tell(parts(restarts=tries))
            world.clock.stay_looked_at()
            assert len(world.door.asked) == tries, "not before its time"
            world.door.hook = raising(client_error(code)) if tries < 7 else lambda: None
            world.clock.now += 60
        world.door.wait(8)
        record.close(PATIENCE)
    assert world.record()["Restarts"] == "7"
    assert [line["event"] for line in logs] == ["fleet.not_written"]
    assert world.trouble == []


def test_the_end_of_a_boot_does_not_wait_for_the_next_try(world: World) -> None:
    """A canary that failed while the table was throttled, and is gone before the next try."""
    world.door.hook = raising(client_error("ThrottlingException"))
    record = world.fleet()
    record.tell(parts())
    world.door.wait(1)
    world.door.hook = lambda: None
    record.tell(parts("failed"))
    world.door.wait(2)
    assert world.record()["Phase"] == "failed"


def test_a_failure_while_it_closes_is_not_tried_for_ever(world: World) -> None:
    """A throttled table that keeps a thread at work until the process is killed."""
    world.door.hook = raising(client_error("ThrottlingException"))
    record = world.fleet()
    record.tell(parts())
    world.door.wait(1)
    began = time.monotonic()
    record.close(PATIENCE)
    assert time.monotonic() - began < PATIENCE, "its thread has ended"
    assert world.door.answered == 2


def test_credentials_may_come_late(world: World) -> None:
    """An instance profile that reaches IMDS a second after the agent's start: no record for an hour."""
    missing = [AgentError("there are no AWS credentials")]

    def make() -> fleet.PutsItems:
        if missing:
            raise missing.pop()
        return world.door

    record = world.fleet(make=make)
    record.tell(parts())
    world.clock.stay_looked_at()
    world.clock.now += 60
    world.door.wait(1)
    assert world.record()["Phase"] == "booting"
    assert world.trouble == []


def test_a_table_that_is_missing_is_told_once_and_looked_for_hourly(bare: World) -> None:
    """A status that says nothing of a record that nobody will ever find; or says it a thousand times."""
    record = bare.fleet()
    record.tell(parts())
    bare.door.wait(1)
    for hours in range(2, 4):
        bare.clock.now += 3599
        record.tell(parts("in service", restarts=hours))
        bare.clock.stay_looked_at()
        assert len(bare.door.asked) == hours - 1
        bare.clock.now += 1
        bare.door.wait(hours)
    [said] = bare.trouble
    assert "dynamodb:PutItem on table adf-config failed: ResourceNotFoundException" in said
    bare.make_table()
    bare.clock.stay_looked_at()
    bare.clock.now += 3600
    bare.door.wait(4)
    assert bare.record()["Restarts"] == "3", "what was told meanwhile"
    record.tell(parts("draining"))
    bare.clock.stay_looked_at()
    bare.clock.now += 5
    bare.door.wait(5)
    assert bare.record()["Phase"] == "draining"
    assert bare.trouble == [said]


def test_a_touch_that_is_throttled_after_a_denial_is_tried_again_with_the_last_value(world: World) -> None:
    """A role that was mended, and a record that shows for an hour what was so before."""
    world.door.hook = raising(client_error("AccessDeniedException"))
    record = world.fleet()
    record.tell(parts())
    world.door.wait(1)
    world.clock.stay_looked_at()
    world.door.hook = raising(client_error("ThrottlingException"))
    world.clock.now += 3600
    world.door.wait(2)
    world.clock.stay_looked_at()
    record.tell(parts(restarts=1))
    world.door.hook = lambda: None
    world.clock.now += 60
    world.door.wait(3)
    assert world.record()["Restarts"] == "1"
    assert len(world.trouble) == 1


def test_an_action_that_the_role_lacks_is_named_once(world: World) -> None:
    """A fleet without records, and no word of what to allow."""
    go = threading.Event()

    def deny() -> None:  # moto denies in EC2's XML, which AWS's JSON services don't speak
        go.wait(PATIENCE)
        raise client_error("AccessDeniedException")

    world.door.hook = deny
    record = world.fleet()
    record.tell(parts())
    world.door.wait_asked()
    record.tell(parts("in service"))
    go.set()
    world.door.wait(1)
    world.clock.stay_looked_at()
    record.tell(parts("failed"))
    record.close(PATIENCE)
    [said] = world.trouble
    assert said.startswith("the fleet record is not written: dynamodb:PutItem on table adf-config is denied")
    assert len(world.door.asked) == 1


def test_a_fault_of_the_writers_own_is_told(world: World) -> None:
    """A bug that ends the writer in silence, and an instance that counts as gone two hours later."""
    world.door.hook = raising(KeyError("hunter2"))
    record = world.fleet()
    record.tell(parts())
    record.close(PATIENCE)
    record.tell(parts("in service"))
    until(lambda: world.trouble)
    assert world.trouble == ["the fleet record is not written any more: unexpected: KeyError"]


def test_a_status_that_cannot_be_written_does_not_end_the_record(world: World) -> None:
    """A full /run that takes the fleet record with it."""

    def full(_: str) -> None:
        raise AgentError("the disk is full")

    world.door.hook = raising(client_error("AccessDeniedException"))
    record = Fleet(TABLE, APP, INSTANCE, lambda: world.door, 1, world.clock, troubled=full)
    record.tell(parts())
    world.door.wait(1)
    world.door.hook = lambda: None
    world.clock.stay_looked_at()
    world.clock.now += 3600
    world.door.wait(2)
    record.close(PATIENCE)
    assert world.record()["Phase"] == "booting"
