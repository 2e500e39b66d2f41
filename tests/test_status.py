import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Unprivileged

from adf_agent import root, status
from adf_agent.errors import ImageError
from adf_agent.record import Record
from adf_agent.root import Root
from adf_agent.state import prepare
from adf_agent.status import FAILED, IN_SERVICE, NO_AGENT, UNDER_WAY

NOW = 1_000.0
DIGEST = "0123456789ab" + "c" * 52
FULL: Mapping[str, Any] = {
    "schema": 1,
    "version": "0.1.0",
    "agent": {"pid": 7, "started": 70, "boot_id": "this", "mode": "boot"},
    "phase": "failed",
    "since": NOW - 300,
    "degraded": ["'ADF_OWNER' from tag is no setting"],
    "stages": [
        {"name": "settings", "state": "done", "started": NOW - 312, "seconds": 0.048, "fact": "i-0abc in eu-west-1"},
        {"name": "image", "state": "running", "started": NOW - 12},
        {"name": "config", "state": "stopped", "started": NOW - 311, "seconds": 1.5, "fact": ""},
        {"name": "health", "state": "failed", "started": NOW - 310, "seconds": 10.0, "fact": "not healthy"},
    ],
    "instance": {"id": "i-0abc", "region": "eu-west-1", "zone": "eu-west-1a", "type": "t3.micro"},
    "release": {"name": "v1", "url": "https://dl.example.com/v1.tar.gz#sha256=00", "digest": DIGEST, "size": 9},
    "config": {"table": "adf-config", "partitions": ["web", "web@v1"], "keys": 12, "revision": 3},
    "container": {"id": "53d5f36c62ff00", "name": "adf-app", "address": "10.0.0.1", "ports": ["80:8000", "53:53/udp"]},
    "probe": {"probe": "http://:8000/", "answer": "GET http://127.0.0.1:80/: 500 Oh", "healthy": False},
    "error": {
        "stage": "health",
        "cause": "app",
        "sentence": "the app was not healthy within 10 s",
        "hint": "See the app's last lines.",
        "exit_code": 16,
        "lines": 2,
    },
}
SCREEN = """\
i-0abc t3.micro eu-west-1a: failed for 5 min
  degraded   'ADF_OWNER' from tag is no setting
  release    v1  https://dl.example.com/v1.tar.gz  sha256 0123456789ab
  config     12 keys from web + web@v1 in adf-config, revision 3
  container  adf-app 53d5f36c62ff  10.0.0.1:80:8000 10.0.0.1:53:53/udp
  probe      GET http://127.0.0.1:80/: 500 Oh
  ✓ settings      0.05 s  i-0abc in eu-west-1
  … image        12.00 s
  - config        1.50 s
  ✗ health       10.00 s  not healthy
  the app was not healthy within 10 s
  stage health, cause app, exit code 16
  → See the app's last lines."""
TAIL = "\n  last lines:\n    listening on 8001\n    no database"
WITHHELD = "\n  2 last lines are kept for root and adm: sudo adf-agent status"


@pytest.mark.parametrize(
    ("phase", "running", "mode", "rebooted", "strict", "code"),
    [
        ("booting", True, "run", False, False, UNDER_WAY),
        ("booting", False, "run", False, False, NO_AGENT),
        ("booting", False, "boot", True, False, NO_AGENT),
        ("draining", True, "run", False, False, UNDER_WAY),
        ("draining", False, "run", False, False, NO_AGENT),
        ("restarting", True, "run", False, False, UNDER_WAY),
        ("stopped", False, "boot", False, False, NO_AGENT),
        ("failed", True, "run", False, False, FAILED),
        ("failed", False, "boot", False, False, FAILED),
        ("held", True, "run", False, False, FAILED),
        ("in service", True, "run", False, False, IN_SERVICE),
        ("in service", True, "run", False, True, IN_SERVICE),
        ("in service", False, "run", False, False, NO_AGENT),
        ("in service", False, "boot", False, False, IN_SERVICE),
        ("in service", False, "boot", False, True, IN_SERVICE),
        ("in service", False, "boot", True, False, NO_AGENT),
        ("warmed", True, "run", False, False, IN_SERVICE),
        ("warmed", True, "run", False, True, FAILED),
        ("standby", True, "run", False, False, IN_SERVICE),
        ("standby", True, "run", False, True, FAILED),
        ("a later version's", True, "run", False, False, UNDER_WAY),
    ],
)
def test_the_exit_code_says_what_a_script_has_to_know(
    phase: str, running: bool, mode: str, rebooted: bool, strict: bool, code: int
) -> None:
    """A deploy script that goes on though nobody serves, or stops though all is well."""
    found = {"phase": phase, "agent": {"mode": mode}, "degraded": []}
    assert status.verdict(found, running=running, rebooted=rebooted, strict=strict) == code


@pytest.mark.parametrize(("strict", "code"), [(False, IN_SERVICE), (True, FAILED)])
def test_degraded_is_in_service_unless_it_is_asked_for_strictly(strict: bool, code: int) -> None:
    """A fleet replaced for a stray tag."""
    found = {"phase": "in service", "agent": {"mode": "run"}, "degraded": ["a stray tag"]}
    assert status.verdict(found, running=True, rebooted=False, strict=strict) == code


@pytest.mark.parametrize(
    ("agent", "alive"),
    [
        ({}, True),
        ({"boot_id": "former"}, False),
        ({"started": 71}, False),
        ({"pid": 8}, False),
        ({"pid": 9, "started": 0}, False),
    ],
)
def test_only_the_very_process_that_wrote_the_record_keeps_it_alive(agent: Mapping[str, Any], alive: bool) -> None:
    """A dead agent that counts as running because its number was given to another process."""
    found = {"agent": {**FULL["agent"], **agent}}
    assert status.alive(found, "this", lambda pid: {7: 70}.get(pid, 0)) is alive


def test_a_process_that_has_ended_never_counts_as_started() -> None:
    """An agent that is a zombie below a careless parent, and is waited for without end."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert root.started(process.pid) == 0, "a zombie"
    assert root.started(process.pid) == 0, "gone"
    assert root.started(os.getpid()) > 0


@pytest.mark.parametrize(("tail", "end"), [("listening on 8001\nno database\n", TAIL), ("", WITHHELD)])
def test_the_screen_has_all_of_the_boot(tail: str, end: str) -> None:
    """An instance that fails while its operator has to look into five places to see why."""
    assert status.screen(FULL, FAILED, tail, NOW, color=False) == SCREEN + end


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        ({"schema": 2, "version": "9.0"}, FAILED, "  (written by adf-agent 9.0, a newer one than this)"),
        ({"phase": "booting"}, NO_AGENT, "i-0abc t3.micro eu-west-1a: no agent running; it was booting for 5 min"),
        ({"since": NOW + 9}, FAILED, "i-0abc t3.micro eu-west-1a: failed for 0 s"),
        ({"since": NOW - 7200}, FAILED, "i-0abc t3.micro eu-west-1a: failed for 2 h"),
        ({"instance": {"id": "i-0abc", "zone": "", "type": ""}}, FAILED, "i-0abc: failed for 5 min"),
        ({"release": {"name": "v1", "url": "docker://r/web:v1"}}, FAILED, "  release    v1  docker://r/web:v1"),
        (
            {"config": {"table": "t", "partitions": ["web"], "keys": 1, "revision": None}},
            FAILED,
            "  config     1 keys from web in t",
        ),
        ({"container": {"id": "53d5", "name": "adf-app"}}, FAILED, "  container  adf-app 53d5  no port"),
    ],
)
def test_the_screen_says_what_is_special(change: Mapping[str, Any], code: int, line: str) -> None:
    """A screen that hides what differs from the usual: an agent that is dead, a record that it can't wholly read."""
    assert line in status.screen({**FULL, **change}, code, "", NOW, color=False).splitlines()


@pytest.mark.parametrize("gone", [*FULL, *(f"{part} is empty" for part in FULL)])
def test_the_screen_comes_whatever_is_missing_in_the_record(gone: str) -> None:
    """A status command of one version that breaks at what another one wrote, when it is needed most."""
    part = gone.removesuffix(" is empty")
    left = {key: value for key, value in FULL.items() if key != part}
    found = left if gone == part else {**left, part: type(FULL[part])()}
    assert "not healthy" in status.screen(found, FAILED, "", NOW, color=False)
    status.verdict(found, running=False, rebooted=False, strict=True)
    assert status.alive(found, "this", lambda _: 70) is (part != "agent")


def test_the_screen_of_an_empty_record_and_of_none() -> None:
    """A traceback on an instance whose agent never started."""
    assert "systemctl start adf-agent" in status.screen(None, NO_AGENT, "", NOW, color=False)
    assert status.screen({"schema": 1}, NO_AGENT, "", NOW, color=False).startswith("unknown instance: no agent running")
    assert "?" in status.screen({"stages": [{}]}, NO_AGENT, "", NOW, color=False)


HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b1m\x00\r\u202e"


def hostile(value: Any) -> Any:
    """The same record, with what a terminal obeys in each of its texts."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, list):
        return [hostile(each) for each in value]
    return {key: hostile(each) for key, each in value.items()} if isinstance(value, dict) else value


def test_nothing_that_a_terminal_obeys_comes_from_the_record_or_the_app() -> None:
    """An app, a server's answer or a Dockerfile that takes over the terminal of whoever looks why it failed."""
    shown = status.screen(hostile(FULL), FAILED, f"fine\n{HOSTILE}colored \x1b[31mred\x1b[0m", NOW, color=False)
    assert [character for character in shown if not character.isprintable() and character != "\n"] == []
    assert all(line.startswith("  ") for line in shown.splitlines()[1:]), "no line that looks like the agent's own"
    assert "the app was not healthy within 10 s" in shown
    assert "red" in shown


@pytest.mark.parametrize(("environment", "color"), [({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False)])
def test_color_is_for_terminals_whose_user_wants_it(tmp_path: Path, environment: dict[str, str], color: bool) -> None:
    """Escape sequences in a serial console's log or in a pipe."""
    recorded(tmp_path)
    mine, its = pty.openpty()
    with os.fdopen(mine, "rb", buffering=0) as terminal:
        ask(tmp_path, stdout=its, **environment)
        os.close(its)
        assert (b"\x1b[31m" in terminal.read(4096)) is color
    assert "\x1b" not in ask(tmp_path).stdout


def recorded(folder: Path) -> Root:
    """A boot that failed in *folder*, with an app's last line, by an agent that still runs: this process."""
    place = Root(folder)
    prepare(place)
    Record(place, "boot").fail(ImageError("the build failed", hint="Mend it.", log_tail=["the app's own line"]))
    return place


def ask(folder: Path, *arguments: str, stdout: int = subprocess.PIPE, **environment: str) -> Any:
    """`adf-agent status`, with neither Docker nor IMDS to be reached."""
    away = {"DOCKER_HOST": "unix:///nowhere.sock", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"}
    return subprocess.run(
        [sys.executable, "-m", "adf_agent", "status", *arguments],
        env={**os.environ, **away, "ADF_ROOT": str(folder), **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )


def test_any_user_reads_the_status_but_not_the_apps_lines(unprivileged: Unprivileged) -> None:
    """A status that needs root, Docker or a network; an app's secrets shown to every user of the machine."""
    folder = unprivileged.folder
    recorded(folder)
    mine = ask(folder)
    assert (mine.returncode, "the app's own line" in mine.stdout) == (FAILED, True), mine.stderr
    away = {"ADF_ROOT": str(folder), "DOCKER_HOST": "unix:///nowhere.sock"}
    process = unprivileged("-m", "adf_agent", "status", env=away)
    shown, log = process.communicate(timeout=60)
    assert process.returncode == FAILED, log
    assert "the build failed" in shown
    same_user = os.geteuid() != 0
    assert ("the app's own line" in shown) is same_user
    assert ("1 last lines are kept for root and adm" in shown) is not same_user


def test_a_dead_agent_is_told_apart_from_one_that_boots(tmp_path: Path) -> None:
    """An agent that was killed half-way, and `--wait` that waits for it until the deploy's own time-out."""
    place = Root(tmp_path)
    prepare(place)
    write = (
        "import sys, pathlib; from adf_agent.record import Record, Root; Record(Root(pathlib.Path(sys.argv[1])), 'run')"
    )
    subprocess.run([sys.executable, "-c", write, str(tmp_path)], check=True)
    waited = ask(tmp_path, "--wait")
    assert waited.returncode == NO_AGENT
    assert "no agent running; it was booting" in waited.stdout
    told = json.loads(ask(tmp_path, "--json").stdout)
    assert (told["running"], told["phase"]) == (False, "booting")
    Record(place, "run")
    assert ask(tmp_path).returncode == UNDER_WAY


@pytest.mark.parametrize("content", [b"", b"[]", b'{"phase": ', b"\xff\xfe"])
def test_a_record_that_is_none_is_said_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    """A traceback from the command that was to explain what is wrong."""
    place = recorded(tmp_path)
    place.status.write_bytes(content)
    shown = ask(tmp_path)
    assert shown.returncode == FAILED
    assert "the status can't be read" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_terminal_without_unicode_gets_its_status_too(tmp_path: Path) -> None:
    """A serial console in ASCII on which the only command that explains a failure fails itself."""
    recorded(tmp_path)
    shown = ask(tmp_path, PYTHONIOENCODING="ascii")
    assert "Traceback" not in shown.stderr
    assert "the build failed" in shown.stdout


def test_where_no_agent_ever_ran_programs_get_json_too(tmp_path: Path) -> None:
    """A monitoring check that breaks on the machine that it was made for."""
    shown = ask(tmp_path, "--json")
    assert shown.returncode == NO_AGENT
    assert json.loads(shown.stdout) == {"running": False, "phase": None}
