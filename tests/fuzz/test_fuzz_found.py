"""What fuzzing found, kept: each input once ended as a fault of the agent, in a hang, or in a secret shown."""

import argparse
import json
import time
import warnings
from pathlib import Path
from types import MappingProxyType

import pytest
from fuzzing import SECONDS, SENTENCE, budget, check_refusal, deep_json

from adf_agent import analyze, dockerignore, history, lastgood, launch, location, logs, screen, settings, state, status
from adf_agent.doctor.redact import Redactor
from adf_agent.errors import AgentError, ReleaseError, SettingsError
from adf_agent.fleetrecord import FleetRecord
from adf_agent.manifest import LIMIT, Manifest
from adf_agent.root import Root

SLOW = {
    "wildcards in one name": ("*a*a*a*a*b", "a" * 4000),
    "wildcards across folders": ("**/a/**/a/**/a/**/b", "a/" * 2000),
    "both": ("**/*a*a*/**/*a*a*/**/*b*", "aa/" * 1300),
    "a question mark after each": ("*?*?*?*?*?*b", "a" * 4000),
    "a set after each": ("*[a-b]*[a-b]*[a-b]*[a-b]c", "a" * 4000),
}


@pytest.mark.parametrize(("pattern", "path"), SLOW.values(), ids=SLOW)
def test_wildcards_in_a_row_take_no_time(pattern: str, path: str) -> None:
    """A `.dockerignore` with `*a*a*a*b` in it and one long name hold up every boot of the release for hours."""
    with budget():
        assert not dockerignore.left_out(dockerignore.patterns(pattern.encode()))(path)


def test_two_odd_wildcards_are_refused() -> None:
    """`a**a**a**b` means what nobody expects, and takes as long as the cube of a name's length."""
    with pytest.raises(ReleaseError, match="is not a pattern"):
        dockerignore.left_out(["a**a**a**b"])
    assert dockerignore.left_out(["a**b"])("a/x/b")


@pytest.mark.parametrize(
    ("pattern", "out", "kept"), [("[[a-b]", "[", "c"), ("[a&&b]", "&", "c"), ("[a||~~b]", "~", "c"), ("[^a]", "b", "/")]
)
def test_a_set_is_taken_literally(pattern: str, out: str, kept: str) -> None:
    """Python warns that it may read `[[a-b]` otherwise one day: then a secret that it names gets into the image."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matches = dockerignore.left_out(dockerignore.patterns(pattern.encode()))
    assert (matches(out), matches(kept)) == (True, False)


@pytest.mark.parametrize("pattern", ["[[:alpha:]]", "[--a]", "[a--]"])
def test_a_set_that_go_reads_otherwise_is_refused(pattern: str) -> None:
    """A class of characters that means nothing here lets the secret through."""
    with pytest.raises(ReleaseError, match="is not a pattern"):
        dockerignore.left_out([pattern])


def test_more_patterns_than_anybody_writes_are_refused() -> None:
    """Four megabytes of patterns, each held against each of 200,000 names, are hours."""
    with pytest.raises(ReleaseError, match="more than 5000 patterns"):
        dockerignore.patterns(b"a\n" * 5001)


MANIFESTS = {
    "a key of many parts": b"a." * 5000 + b"a = 1",
    "a table of many parts": b"[" + b"a." * 5000 + b"a]",
    "a quoted key of many parts": b"'a'.\"b\" . " * 3000 + b"a = 1",
    "an inline table of many parts": b"build = {" + b"a." * 5000 + b"a = 1}",
    "a long value": b'container.memory = "' + b"x" * (LIMIT - 99) + b'"',
    "a long key": b"x" * (LIMIT - 99) + b" = 1",
    "a large file": b"#" * (LIMIT + 1),
    "a long line that is none": b"x" * (LIMIT - 99),
}


N = "9" * 400
TOO_MUCH = {
    "memory beyond any float": f'container.memory = "{N}"',
    "memory as a number": f"container.memory = {N}",
    "memory beyond Docker's": 'container.memory = "99999999999t"',
    "processors beyond Docker's": "container.cpus = 1e305",
    "processors as a number": f"container.cpus = {N}",
    "fewer processors than Docker's least": "container.cpus = 1e-12",
    "a stop that nobody waits for": f'container.stop_timeout = "{N}"',
    "a limit beyond the kernel's": f"container.ulimits.nofile = {2**63}",
    "a pair of limits beyond the kernel's": f"container.ulimits.nofile = [1, {N}]",
    "a limit with no name": 'container.ulimits."no file" = 1',
    "NUL in a command": 'container.command = ["a\\u0000b"]',
    "NUL in a command of one text": 'container.command = "a\\u0000b"',
    "NUL in a user": 'container.user = "\\u0000"',
    "NUL in a Dockerfile's name": 'build.dockerfile = "\\u0000"',
    "NUL in a target": 'build.target = "a\\u0000"',
    "NUL in an argument's name": 'build.args."A\\u0000" = "c"',
    "NUL in an argument": 'build.args.A_TOKEN = "hunter2\\u0000"',
    "an argument's name that is a pair": 'build.args."A=B" = "hunter2"',
    "a wait beyond the clock": 'health.interval = "99999999999999s"',
    "a timeout beyond the clock": 'health.timeout = "99999999999999s"',
    "a start beyond the clock": f"health.start_timeout = {N}",
}


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_no_machine_can_do_is_refused_in_words(text: str) -> None:
    """“Unexpected: int too large to convert”, on every instance, of a release that was tried with less."""
    with pytest.raises(ReleaseError, match=r"^adf\.toml: \[") as caught:
        Manifest.parse(text.encode())
    check_refusal(caught.value, canary="hunter2")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name in ("ADF_BOOT_TIMEOUT", "ADF_UNHEALTHY_AFTER") for text in (N, "99999999999999s")),
        *(("ADF_ARCHIVE_LIMIT", f"{what}={N}") for what in ("members", "bytes", "ratio")),
    ],
)
def test_a_setting_beyond_any_machine_is_refused_in_words(root: Root, name: str, text: str) -> None:
    """An agent that dies of its own clock, and starts again, and dies."""
    with pytest.raises(SettingsError, match=rf"^{name} from agent\.env: .* is too l") as caught:
        settings.resolve({"RELEASE_URL": "https://x.example/a.tgz"}, {}, {name: text})
    check_refusal(caught.value)
    root.etc.mkdir(parents=True, exist_ok=True)
    (root.etc / "agent.env").write_text(f"{name}={text}\n")
    assert launch.patience(root) == 900


@pytest.mark.parametrize(
    "unit", ["eyJ-", "eyJaaaaaaaaaa-", "pwd", "--pwd", "--a", "--token-", "pwd-", "--x-key", 'token=\\"', "bearer "]
)
def test_a_megabyte_without_a_blank_is_looked_through_in_seconds(unit: str) -> None:
    """`doctor --collect` that takes minutes for 400 kB of a build's output, and is given up by who needs it."""
    for size in (2**14, 2**17, 2**20):  # where it grows by the square, the second is too much already
        before = time.process_time()
        assert Redactor([])(unit * (size // len(unit)))
        assert time.process_time() - before < SECONDS


@pytest.mark.parametrize("data", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_takes_little_memory_and_a_short_sentence(data: bytes) -> None:
    """Ten kilobytes of `a.a.a.a…` in adf.toml take 100 MB, forty take all: the instance is lost without a word."""
    with budget(), pytest.raises(ReleaseError) as caught:
        Manifest.parse(data)
    check_refusal(caught.value)


def test_a_long_value_of_a_setting_makes_no_long_sentence() -> None:
    """A sentence of a megabyte goes into the journal, the status and onto the serial console."""
    for name, value in (("ADF_PUBLISH", "x" * 100_000), ("ADF_" + "X" * 100_000, "x")):
        with budget(), pytest.raises(SettingsError) as caught:
            settings.resolve({"RELEASE_URL": "https://x.example/a.tgz", name: value}, {}, {})
        assert len(caught.value.sentence) < SENTENCE


def test_a_url_in_a_url_shows_no_password() -> None:
    """`https://https://user:password@host/…`, pasted twice at its start, was shown as it stood."""
    assert "secret" not in location.parse("https://https://me:secret@x.example/a.tgz").shown


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path)
    state.prepare(root)
    return root


RECORDS = {
    "deep": deep_json(50_000),
    "endless": b'{"phase": "failed", "stages": [{"name": "a", "state": "done", "started": 0, "seconds": Infinity}]}',
    "no number": b'{"phase": "failed", "stages": [{"name": "a", "state": "done", "started": 0, "seconds": NaN}]}',
    "beyond any calendar": b'{"phase": "", "began": 1e300, "stages": [{"name": "a", "state": "done", "started": 0}]}',
    "beyond any float": b'{"phase": "failed", "stages": [{"name": "a", "state": "x", "started": 1%s, "at": 0.5}]}'
    % (b"0" * 400),
}


@pytest.mark.parametrize("data", RECORDS.values(), ids=RECORDS)
def test_a_spoilt_record_gives_no_traceback(root: Root, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells a person why the boot failed fails itself, when it is needed most."""
    root.status.write_bytes(data)
    monkeypatch.setenv("ADF_ROOT", str(root.status.parents[2]))
    monkeypatch.setenv("PATH", str(root.var))
    assert status.main([]) in (1, 3)
    with pytest.raises(AgentError, match="docker"):
        logs.app(root, logs.Wish())
    (root.var / "boots.json").write_bytes(b'{"boots": [%s]}' % data)
    with pytest.raises(AgentError, match="no boot is known"):
        analyze.answer(argparse.Namespace(json=False, svg=None), root)


@pytest.mark.parametrize("name", [r"\u0000", r"\ud800", "--help"])
def test_a_container_that_docker_can_not_know_is_none(root: Root, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`adf-agent logs` with a traceback, on a disk that has lost some bytes."""
    root.status.write_text(f'{{"container": {{"id": "{name}"}}}}')
    monkeypatch.setenv("PATH", str(root.var))
    with pytest.raises(AgentError, match="docker"):
        logs.app(root, logs.Wish())


def test_a_name_in_the_record_does_not_paint_the_terminal() -> None:
    """A key of a spoilt record moves the cursor, and the person before it reads what never happened."""
    shown = screen.screen({"config": {"partitions": {"\x1b[2J": 1}}}, 3, "", 0.0, color=False)
    assert "\x1b" not in shown


STATES = ['{"images": [{}]}', '{"images": [1]}', '{"standing": "gone"}', deep_json(50_000).decode()]


@pytest.mark.parametrize("text", STATES, ids=["table", "number", "standing", "deep"])
def test_a_spoilt_state_is_the_empty_one(root: Root, text: str) -> None:
    """A state file with one odd entry fails every boot from then on, in place of the first one after it."""
    (root.var / "state.json").write_text(text)
    assert state.load(root) == state.State()
    state.Ledger(root).keep("adf/release:1")


@pytest.mark.parametrize(
    "tags", ["{", "[1]", '{"ADF_APP": 1}', deep_json(50_000).decode()], ids=["cut", "list", "number", "deep"]
)
def test_spoilt_tags_are_asked_for_again(root: Root, tags: str) -> None:
    """Tags that were kept by halves end the restart of an agent whose container serves."""
    state.save(root, state.State(tags=tags))
    assert state.Ledger(root).tags() is None


def test_a_spoilt_history_does_not_end_a_boot(root: Root) -> None:
    """The boot that ends well is over as it can't be compared with one of another version."""
    (root.var / "boots.json").write_text('{"boots": [{"instance": [1]}, {"instance": "i-1"}]}')
    history.keep(root, {"stages": [], "instance": {"id": "i-1"}})
    assert [boot["instance"] for boot in history.load(root)] == [{"id": "i-1"}]


@pytest.mark.parametrize("data", [deep_json(50_000), None], ids=["deep", "number"])
def test_a_spoilt_last_config_is_none(root: Root, data: bytes | None) -> None:
    """A restart while DynamoDB is away ends as a fault of the agent in place of a config error."""
    parts = {"instance_id": "i", "app": "a", "release": "r", "values": {"A": [1, False, "base"]}, "revision": 1}
    (root.var / "config.json").write_bytes(data or json.dumps(parts).encode())
    assert lastgood.load(root, "i", "a", "r") is None


def test_a_fleet_record_with_odd_stages_is_read() -> None:
    """One item that somebody wrote by hand, and `adf-roll` can't start."""
    item = MappingProxyType({"Name": {"S": "i-1"}, "Stages": {"S": "settings ., docker 1.2.3, image 0.50"}})
    assert FleetRecord.of_item(item).boot_seconds == pytest.approx(1.7)
