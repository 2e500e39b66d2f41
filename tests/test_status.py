import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Unprivileged
from fixtures_agent import Machine, app
from test_boot import free_port

from adf_agent import root, screen, status
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
    "troubles": [
        {"reason": "'ADF_OWNER' from tag is no setting", "since": NOW - 312, "hint": "adf-agent settings"},
    ],
    "stages": [
        {"name": "settings", "state": "done", "started": NOW - 312, "seconds": 0.048, "fact": "i-0abc in eu-west-1"},
        {
            "name": "image",
            "state": "running",
            "started": NOW - 12,
            "retries": {"number": 3, "seconds": 1.2, "reason": "429 Too Many Requests"},
        },
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
             for 5 min → adf-agent settings
  release    v1  https://dl.example.com/v1.tar.gz  sha256 0123456789ab
  config     12 keys from web + web@v1 in adf-config, revision 3
  container  adf-app 53d5f36c62ff  10.0.0.1:80:8000 10.0.0.1:53:53/udp
  probe      GET http://127.0.0.1:80/: 500 Oh
  ✓ settings      0.05 s  i-0abc in eu-west-1
  … image        12.00 s    (3 tries failed: 429 Too Many Requests)
  - config        1.50 s
  ✗ health       10.00 s  not healthy
  the app was not healthy within 10 s
  stage health, cause app, exit code 16
  → See the app's last lines.
  → adf-agent logs
  → once it is mended: sudo systemctl start adf-agent"""
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
    assert screen.screen(FULL, FAILED, tail, NOW, color=False) == SCREEN + end


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
        ({"error": {**FULL["error"], "lines": 0}}, FAILED, "  the app wrote no line"),
    ],
)
def test_the_screen_says_what_is_special(change: Mapping[str, Any], code: int, line: str) -> None:
    """A screen that hides what differs from the usual: an agent that is dead, a record that it can't wholly read."""
    assert line in screen.screen({**FULL, **change}, code, "", NOW, color=False).splitlines()


ERROR = FULL["error"]
AGAIN = "once it is mended: sudo systemctl start adf-agent"


@pytest.mark.parametrize(
    ("change", "code", "steps"),
    [
        (
            {"error": {**ERROR, "cause": "build"}},
            FAILED,
            ["See the app's last lines.", "adf-agent logs --build", AGAIN],
        ),
        ({"error": {**ERROR, "cause": "settings", "hint": ""}}, FAILED, ["adf-agent settings", AGAIN]),
        ({"error": {**ERROR, "cause": "dependency", "hint": ""}}, FAILED, ["adf-agent doctor", AGAIN]),
        ({"error": {**ERROR, "hint": ""}, "group": "web"}, FAILED, ["adf-agent logs"]),  # another comes in its place
        (
            {"error": {**ERROR, "hint": ""}, "phase": "held"},
            FAILED,
            [
                "adf-agent logs",
                "once it is mended: sudo adf-agent reload",
                "or let it go: sudo adf-agent hold --off",
            ],
        ),
        ({"error": None, "phase": "drained"}, UNDER_WAY, []),
        (
            {"error": None, "phase": "drained", "drain": {"why": "drain", "steps": {}}},
            UNDER_WAY,
            ["sudo adf-agent reload, to serve again"],
        ),
        (
            {"error": None, "phase": "in service"},
            NO_AGENT,
            ["adf-agent logs --agent", "sudo systemctl start adf-agent"],
        ),
        ({"error": None, "phase": "stopped"}, NO_AGENT, ["sudo systemctl start adf-agent"]),
        ({"error": None, "phase": "in service"}, IN_SERVICE, []),
    ],
)
def test_what_to_type_next_is_said(change: Mapping[str, Any], code: int, steps: list[str]) -> None:
    """An operator who knows what is wrong, and looks through the documentation for what to do about it at night."""
    shown = screen.screen({**FULL, "troubles": [], "degraded": [], **change}, code, "", NOW, color=False)
    assert [line.removeprefix("  → ") for line in shown.splitlines() if line.startswith("  → ")] == steps


@pytest.mark.parametrize(
    ("troubles", "rows"),
    [
        (
            [{"reason": "the disk is full", "since": NOW - 7200, "hint": "df -h"}],
            ["the disk is full", "for 2 h → df -h"],
        ),
        ([{"reason": "slow", "since": NOW, "hint": ""}], ["slow", "for 0 s → adf-agent doctor"]),
        (None, ["a former version's", "→ adf-agent doctor"]),
    ],
)
def test_degraded_says_why_since_when_and_what_next(troubles: object, rows: list[str]) -> None:
    """A warning that is read as new each night, and that nobody knows what to do about."""
    record = {**FULL, "degraded": ["a former version's"], "troubles": troubles}
    shown = screen.screen(record, FAILED, "", NOW, color=False).splitlines()
    at = next(number for number, line in enumerate(shown) if line.startswith("  degraded"))
    assert [line[13:] for line in shown[at : at + 2]] == rows


ALIEN: list[Any] = [None, 7, "text", ["text"], [[]], {"a": {"b": 1}}, [{"name": {}, "seconds": "long"}]]


@pytest.mark.parametrize("alien", ALIEN, ids=repr)
@pytest.mark.parametrize("part", [part for part in FULL if part != "error"])
def test_a_part_of_a_newer_schema_hides_none_of_the_others(part: str, alien: object) -> None:
    """A status of an instance with a newer agent that says nothing at all, as one part of it has another form now."""
    found = {**FULL, "schema": 2, part: alien}
    code = status.verdict(found, running=status.alive(found, "this", lambda _: 70), rebooted=False, strict=True)
    assert "the app was not healthy within 10 s" in screen.screen(found, code, "", NOW, color=False)


@pytest.mark.parametrize("gone", [*FULL, *(f"{part} is empty" for part in FULL)])
def test_the_screen_comes_whatever_is_missing_in_the_record(gone: str) -> None:
    """A status command of one version that breaks at what another one wrote, when it is needed most."""
    part = gone.removesuffix(" is empty")
    left = {key: value for key, value in FULL.items() if key != part}
    found = left if gone == part else {**left, part: type(FULL[part])()}
    assert "not healthy" in screen.screen(found, FAILED, "", NOW, color=False)
    status.verdict(found, running=False, rebooted=False, strict=True)
    assert status.alive(found, "this", lambda _: 70) is (part != "agent")


@pytest.mark.parametrize(("schema", "newer"), [(2, True), (1, False), (None, False), (0, False), ("x", False)])
def test_only_a_newer_schema_is_called_newer(schema: object, newer: bool) -> None:
    """A record without a schema, and an operator who looks for a newer agent that was never there."""
    shown = screen.screen({"phase": "in service", "schema": schema}, IN_SERVICE, "", NOW, color=False)
    assert ("a newer one than this" in shown) is newer


@pytest.mark.parametrize(
    ("files", "command"),
    [
        ((), "systemctl"),
        (("run/systemd/system/x",), "systemctl"),
        (("etc/init/adf-agent.conf",), "initctl"),
        (("run/systemd/system/x", "etc/init/adf-agent.conf"), "systemctl"),
    ],
)
def test_what_starts_the_agent_is_what_the_machine_has(tmp_path: Path, files: tuple[str, ...], command: str) -> None:
    """“systemctl: command not found”, on the one fleet of Ubuntu 14.04."""
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    assert screen.start_command(f"{tmp_path}/") == f"sudo {command} start adf-agent"


def test_the_screen_of_an_empty_record_and_of_none() -> None:
    """A traceback on an instance whose agent never started."""
    assert "systemctl start adf-agent" in screen.screen(None, NO_AGENT, "", NOW, color=False)
    assert screen.screen({"schema": 1}, NO_AGENT, "", NOW, color=False).startswith("unknown instance: no agent running")
    assert "?" in screen.screen({"stages": [{}]}, NO_AGENT, "", NOW, color=False)


def test_a_line_without_end_is_cut() -> None:
    """A stack printed as one line of JSON that scrolls away why the boot failed."""
    shown = screen.screen(FULL, FAILED, "x" * 60_000, NOW, color=False)
    assert len(shown) < 5_000
    assert "x" * 400 in shown


def test_the_probe_is_that_of_a_container() -> None:
    """A drained instance that shows “200 OK” of an app that is gone."""
    assert "  probe " in screen.screen({**FULL, "container": {"id": "1"}}, FAILED, "", NOW, color=False)
    assert "  probe " not in screen.screen({**FULL, "container": None}, FAILED, "", NOW, color=False)


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
    shown = screen.screen(hostile(FULL), FAILED, f"fine\n{HOSTILE}colored \x1b[31mred\x1b[0m", NOW, color=False)
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
    assert "→ adf-agent logs --agent" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_an_answer_that_finds_no_room_is_no_fault_of_the_record(tmp_path: Path) -> None:
    """A traceback, or a hunt for a broken record, where `adf-agent status > report` met a full disk."""
    recorded(tmp_path)
    with Path("/dev/full").open("wb") as full:
        shown = ask(tmp_path, stdout=full.fileno())
    assert (shown.returncode, shown.stderr.splitlines()[0]) == (
        1,
        "adf-agent: the answer can't be written: [Errno 28] No space left on device",
    )


def test_a_torn_record_is_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing health check, once a week, as on a full disk the record is written over and not replaced."""
    path = recorded(tmp_path).status
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    monkeypatch.setattr("adf_agent.status.time.sleep", lambda _: path.write_bytes(whole))
    assert status.read(str(path)) == json.loads(whole)


def test_a_full_run_folder_leaves_the_status_true(machine: Machine) -> None:
    """A status that says `in service` for ever, as nothing could be written when the app died."""
    if os.geteuid() != 0:
        pytest.fail("a disk of its own needs root: sudo make test", pytrace=False)
    with ExitStack() as stack:
        for place in ("run", "var/lib"):
            disk = machine.root / place / "adf-agent"
            disk.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], check=True)
            stack.callback(subprocess.run, ["umount", "--lazy", str(disk)], check=False)
        machine.user_data(RELEASE_URL=machine.release(app()), ADF_PUBLISH=f"{free_port()}:8000")
        agent = machine.daemon()
        agent.reach("in service")
        for place in ("run", "var/lib"):
            fill(machine.root / place / "adf-agent/filler")
        [container] = machine.containers()
        container.kill()
        agent.until(lambda: machine.status()["troubles"], "the record tells of it")
        shown = machine.run("status")
        assert "the app exited with code 137" in shown.out
        assert "→ adf-agent logs" in shown.out
        agent.kill()
        shown = machine.run("status")
        assert (shown.code, "no agent running" in shown.out) == (NO_AGENT, True)
        assert "→ adf-agent logs --agent" in shown.out
        machine.clean()


def fill(path: Path) -> None:
    """Takes all that is free there, to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))


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
