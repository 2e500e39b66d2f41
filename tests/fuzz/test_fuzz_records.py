"""What the agent reads back: status, history, state, last good config, fleet records."""

import argparse
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fuzzing import JSON, check_refusal, deep_json, fuzzed, mutated, nested, texts
from hypothesis import strategies as st

from adf_agent import analyze, history, lastgood, logs, state, status
from adf_agent.config import AppConfig, Value
from adf_agent.errors import AgentError
from adf_agent.fleetrecord import FleetRecord, facts, item
from adf_agent.root import Root
from adf_agent.state import Ledger, State

ODD = JSON | st.sampled_from([1e308, -1e308, float("inf"), float("nan"), 10**30, -1, "", True])
WORDS = ["booting", "in service", "failed", "held", "warmed", "done", "running", "image", "health", "settings", "boot"]
TEXTS = st.sampled_from(WORDS) | texts("\n", "\x1b[2J", "\ud800", "\0")
NUMBERS = st.floats(0, 1e6) | st.integers(0, 2**40) | st.just(1_700_000_000.0)


def table(**known: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """A part of a record as it is written, or with anything in place of anything."""
    return st.fixed_dictionaries({}, optional={name: value | ODD for name, value in known.items()})


RETRIES = table(number=NUMBERS, seconds=NUMBERS, reason=TEXTS)
STAGE = table(name=TEXTS, state=TEXTS, started=NUMBERS, at=NUMBERS, seconds=NUMBERS, fact=TEXTS, retries=RETRIES)
ERROR = table(stage=TEXTS, cause=TEXTS, sentence=TEXTS, hint=TEXTS, exit_code=NUMBERS, lines=NUMBERS)
AGENT = table(pid=NUMBERS, started=NUMBERS, boot_id=TEXTS, mode=TEXTS)
RECORDS = table(
    schema=st.just(1),
    version=TEXTS,
    agent=AGENT,
    phase=TEXTS,
    since=NUMBERS,
    began=NUMBERS,
    seconds=NUMBERS,
    degraded=st.lists(TEXTS, max_size=2),
    troubles=st.lists(table(reason=TEXTS, since=NUMBERS, hint=TEXTS), max_size=2),
    stages=st.lists(STAGE, max_size=4),
    instance=table(id=TEXTS, type=TEXTS, zone=TEXTS),
    release=table(name=TEXTS, url=TEXTS, digest=TEXTS),
    config=table(keys=NUMBERS, partitions=st.lists(TEXTS, max_size=2), table=TEXTS, revision=NUMBERS),
    container=table(id=TEXTS, name=TEXTS, ports=st.lists(NUMBERS, max_size=2)),
    probe=table(answer=TEXTS),
    group=TEXTS,
    restarts=NUMBERS,
    drain=table(why=TEXTS, steps=table(stop=NUMBERS)),
    error=ERROR,
)
GOOD_STAGE = st.fixed_dictionaries(
    {"name": TEXTS, "state": TEXTS, "started": NUMBERS, "at": NUMBERS, "seconds": NUMBERS | st.just(float("inf"))}
)
GOOD = st.fixed_dictionaries(
    {"phase": TEXTS, "began": NUMBERS | ODD, "stages": st.lists(GOOD_STAGE, min_size=1, max_size=4)}
)
DEEP = nested(deep_json) | nested(lambda depth: b'{"stages":' * depth + b"1" + b"}" * depth)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


FILES = mutated(RECORDS.map(as_json)) | GOOD.map(as_json) | DEEP | st.binary(max_size=100)
HISTORIES = st.fixed_dictionaries({"schema": st.just(1), "boots": st.lists(GOOD | RECORDS, max_size=4)}).map(as_json)


@contextmanager
def machine(**files: bytes) -> Iterator[Root]:
    """A root with these files in it, by the name that Root has for them or their own below /var."""
    with TemporaryDirectory(prefix="adf-fuzz-", dir="/dev/shm") as folder:
        root = Root(Path(folder))
        state.prepare(root)
        for name, data in files.items():
            path = root.status if name == "status" else root.tail if name == "tail" else root.var / f"{name}.json"
            path.write_bytes(data)
        yield root


@contextmanager
def captured() -> Iterator[io.BytesIO]:
    """Standard output and error, as bytes."""
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, "utf-8")
    with redirect_stdout(stream), redirect_stderr(stream):
        yield written
        stream.flush()
    stream.detach()


@fuzzed(
    "status file", st.tuples(FILES, st.sampled_from([[], ["--json"], ["--strict"]]), st.binary(max_size=40)), weight=5
)
def test_status_says_something_of_any_record(case: tuple[bytes, list[str], bytes]) -> None:
    """Half a record, or one of a newer version, and `status` gives a traceback when it is needed most."""
    data, options, tail = case
    with machine(status=data, tail=tail) as root, pytest.MonkeyPatch.context() as environment, captured() as written:
        environment.setenv("ADF_ROOT", str(root.status.parents[2]))
        code = status.main(options)
    assert code in (0, 1, 3, 4)
    shown = written.getvalue().decode()
    assert shown.strip()
    assert not set(shown) & set("\x1b\0\x07")
    assert code == 1 or not options or options[0] != "--json" or json.loads(shown)["running"] in (True, False)


@fuzzed("status file", st.tuples(FILES, HISTORIES | FILES, st.sampled_from([True, False])), weight=4)
def test_analyze_says_something_of_any_record(case: tuple[bytes, bytes, bool]) -> None:
    """A boot of a former version with one stage that is none, and no boot can be analyzed any more."""
    data, boots, is_json = case
    with machine(status=data, boots=boots) as root:
        for drawn in (None, "-"):
            try:
                text = analyze.answer(argparse.Namespace(json=is_json, svg=drawn), root)
            except AgentError as error:
                check_refusal(error)
                continue
            assert not set(text) & set("\x1b\0\x07")


@fuzzed("status file", FILES)
def test_logs_finds_a_source_by_any_record(data: bytes) -> None:
    """A record that was cut short, and `logs` gives a traceback in place of the app's lines."""
    with machine(status=data, tail=b"last words\n") as root, pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", str(root.var))  # no Docker there: what is asked of it is what counts
        with pytest.raises(AgentError) as caught:
            logs.app(root, logs.Wish())
    check_refusal(caught.value)


STATES = table(
    instance_id=TEXTS,
    boot_id=TEXTS,
    manifest=TEXTS,
    images=st.lists(TEXTS | ODD, max_size=3),
    boots=st.integers(0, 2**40),
    in_service=st.booleans(),
    tags=st.sampled_from(["", "{", "[]", "[1]", '{"ADF_APP": "web"}', '{"ADF_APP": 1}', "[[]]"]),
    standing=st.sampled_from(["", "joining", "joined", "leaving", "draining", "drained", "gone"]),
)


@fuzzed("state.json", mutated(STATES.map(as_json)) | DEEP | st.binary(max_size=60), weight=4)
def test_any_state_file_is_a_state(data: bytes) -> None:
    """A state file that a full disk or a hand has spoilt fails every boot from then on."""
    with machine(state=data) as root:
        ledger = Ledger(root)
        assert all(isinstance(image, str) for image in ledger.state.images)
        assert ledger.state.standing in ("", "joining", "joined", "leaving", "draining", "drained")
        tags = ledger.tags()
        assert tags is None or all(isinstance(text, str) for pair in tags.items() for text in pair)
        ledger.keep("adf/release:1")
        ledger.begin()


@fuzzed(
    "state.json", st.builds(State, instance_id=st.text(), manifest=st.text(), images=st.lists(st.text()).map(tuple))
)
def test_a_state_is_read_as_it_was_written(written: State) -> None:
    """A container that is not found again after a restart runs beside the next one."""
    with machine() as root:
        state.save(root, written)
        assert state.load(root) == written


CONFIG = table(instance_id=st.just("i-1"), app=st.just("web"), release=st.just("v1"), values=ODD, revision=NUMBERS)


@fuzzed("state.json", mutated(CONFIG.map(as_json)) | DEEP | HISTORIES)
def test_any_file_of_the_last_config_and_boots_is_one_or_none(data: bytes) -> None:
    """A restart while DynamoDB is away ends as a fault of the agent in place of a config error."""
    with machine(config=data, boots=data) as root:
        found = lastgood.load(root, "i-1", "web", "v1")
        assert found is None or all(isinstance(text, str) for text in found.environment().values())
        assert all(isinstance(boot, dict) for boot in history.load(root))
        history.keep(root, {"stages": [], "instance": {"id": "i-1"}})


VALUES = st.builds(
    Value, st.text(st.characters(exclude_categories=["Cs"])), st.booleans(), st.sampled_from(["base", "overlay"])
)


@fuzzed("config items", st.dictionaries(st.text(min_size=1), VALUES))
def test_a_last_config_is_read_as_it_was_written(values: dict[str, Value]) -> None:
    """An app that starts with other values while the table can't be reached."""
    config = AppConfig("web", "v1", values, 7)
    with machine() as root:
        lastgood.save(root, "i-1", config)
        found = lastgood.load(root, "i-1", "web", "v1")
    assert found is not None
    assert (found.to_dict(), found.fingerprint) == (config.to_dict(), config.fingerprint)


DYNAMO = st.builds(lambda text: {"S": text}, TEXTS) | st.builds(
    lambda number: {"N": number}, st.sampled_from(["0", "1", "-1", "1.5", "1E+30", "1700000000", "9" * 38, "1E+125"])
)
STRAY: st.SearchStrategy[dict[str, Any]] = (
    DYNAMO | st.just({"BOOL": True}) | st.just({"NULL": True}) | st.just({"L": []}) | st.just({"B": b"x"})
)
STAGES = st.builds(
    lambda text: {"S": text}, texts("settings 0.01, ", "a ", "1.2", ".", "..", "1.2.3", "\N{ARABIC-INDIC DIGIT ONE}")
)
ITEMS = st.fixed_dictionaries(
    {"Name": DYNAMO},
    optional={"Stages": STAGES}
    | dict.fromkeys(["Release", "Group", "Phase", "Touched", "Stage", "Restarts", "Error"], STRAY),
)


@fuzzed("fleet records", ITEMS, weight=3)
def test_any_item_is_a_fleet_record(found: dict[str, dict[str, str]]) -> None:
    """One item that somebody wrote by hand, and `adf-roll` sees none of the fleet."""
    record = FleetRecord.of_item(found)
    assert record.is_recent(0.0) in (True, False)


SOUND = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
NAMES = st.sampled_from(["settings", "docker", "release", "config", "image", "container", "health", "report"])
PARTS = st.fixed_dictionaries(
    {
        "phase": st.sampled_from(["booting", "in service", "failed", "held"]),
        "release": st.fixed_dictionaries({"name": st.from_regex(r"[A-Za-z0-9._-]{1,100}", fullmatch=True)}),
        "group": SOUND,
        "restarts": st.integers(0, 99),
        "stages": st.lists(
            st.fixed_dictionaries({"name": NAMES, "state": st.just("done"), "seconds": st.floats(0, 9999)}), max_size=8
        ),
        "error": st.none() | st.fixed_dictionaries({"sentence": st.text(max_size=600)}),
    }
)


@fuzzed("fleet records", st.tuples(PARTS, st.text(max_size=300), st.integers(0, 2**40)), weight=3)
def test_a_fleet_record_is_read_as_it_was_written(case: tuple[dict[str, object], str, int]) -> None:
    """An instance that is gone explains itself by another one's release, or not at all."""
    parts, tail, now = case
    written = item(parts, "web", "i-1", tail, 1, 2, now)
    found = FleetRecord.of_item(written)
    assert (found.instance_id, found.phase, found.touched) == ("i-1", parts["phase"], now)
    assert (found.group, found.restarts) == (parts["group"], parts["restarts"])
    assert found.boot_seconds >= 0
    assert facts(parts, tail).items() <= written.items()
    if not parts["error"] and parts["phase"] not in ("failed", "held"):
        assert sum(len(name) + len(*value.values()) for name, value in written.items()) <= 1024
