import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Unprivileged
from fixtures_agent import BASE, Machine, app
from test_boot import free_port

from adf_agent import logs
from adf_agent.errors import AgentError
from adf_agent.logs import Wish
from adf_agent.root import Root
from adf_agent.state import prepare

NOW = 1_714_564_800.0  # 2024-05-01T12:00:00Z
HOUR = 3600.0
SAYS = "echo one; echo two; echo three >&2; exec /bin/httpd -f -p 8000 -h /"
TALKS = f'FROM {BASE}\nEXPOSE 8000\nSTOPSIGNAL SIGKILL\nCMD ["/bin/sh", "-c", "{SAYS}"]\n'
DIES = f'FROM {BASE}\nEXPOSE 8000\nCMD ["/bin/sh", "-c", "echo no database; echo bye; exit 7"]\n'


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", NOW - 600),
        ("2h", NOW - 2 * HOUR),
        ("90", NOW - 90),
        ("2024-05-01T11:00:00Z", NOW - HOUR),
        ("2024-05-01T13:00:00+02:00", NOW - HOUR),
        ("2024-05-01", None),
    ],
)
def test_since_is_a_while_ago_or_a_time(text: str, seconds: float | None) -> None:
    """An operator who gets the log of the wrong hour."""
    found = logs.moment(text, NOW)
    assert found == seconds or (seconds is None and abs(found - NOW) < 2 * 86400), "the machine's own midnight"


@pytest.mark.parametrize("text", ["yesterday", "10 minutes", "", "99999-01-01"])
def test_what_is_no_time_is_said_with_what_would_be_one(text: str) -> None:
    """A typo that shows another hour's log."""
    with pytest.raises(ValueError, match="is no time: write 10m, 2h or 2024-05-01T12:00:00Z"):
        logs.moment(text, NOW)


def booted(machine: Path, journal: str = "") -> Path:
    """A *machine* that systemd runs, with a *journal* file."""
    (machine / "run/systemd/system").mkdir(parents=True)
    if journal:
        file = machine / journal
        file.parent.mkdir(parents=True)
        file.write_bytes(b"LPKSHHRH")
    return machine


WHOLE = Root(Path("/"))


@pytest.mark.parametrize(
    ("wish", "terminal", "options"),
    [
        (Wish(), True, ["--output=short-iso", "--lines=100"]),
        (Wish(lines="5"), False, ["--output=cat", "--lines=5"]),
        (
            Wish(lines="all", since=NOW, follow=True),
            False,
            ["--output=cat", "--lines=all", f"--since=@{NOW:.3f}", "--follow"],
        ),
    ],
)
def test_the_agent_s_lines_are_the_journal_s_where_systemd_runs(
    tmp_path: Path, wish: Wish, terminal: bool, options: list[str]
) -> None:
    """An operator who does not remember the unit's name; a program that gets lines which are no JSON."""
    machine = booted(tmp_path, "var/log/journal/0123/system.journal")
    command = logs.agent(WHOLE, wish, machine, terminal=terminal)
    assert command == ["journalctl", "--unit=adf-agent", "--no-pager", *options]


def test_the_agent_s_lines_are_in_upstart_s_file_without_systemd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An instance of the older kind, whose log nobody finds."""
    with pytest.raises(AgentError, match=r"neither systemd nor .*/var/log/upstart/adf-agent\.log has a log"):
        logs.agent(WHOLE, Wish(), tmp_path, terminal=True)
    path = tmp_path / "var/log/upstart/adf-agent.log"
    path.parent.mkdir(parents=True)
    path.write_text('{"event": "phase"}\n')
    command = logs.agent(WHOLE, Wish(since=NOW, follow=True, lines="all"), tmp_path, terminal=True)
    assert command == ["tail", "--lines=+1", "-F", str(path)]
    assert capsys.readouterr().err == f"adf-agent: --since does not count: the lines of {path} have no times\n"


def run_as(unprivileged: Unprivileged, code: str, *arguments: str) -> str:
    """What *code* prints, as a user without rights."""
    process = unprivileged("-c", code, *arguments)
    out, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    return out


def test_a_journal_that_may_not_be_read_is_no_empty_one(unprivileged: Unprivileged) -> None:
    """`-- No entries --`, from which an operator concludes that the agent never ran."""
    machine = booted(unprivileged.folder, "run/log/journal/0123/system.journal")
    journal = machine / "run/log/journal/0123/system.journal"
    journal.chmod(0)
    code = """
import sys; from pathlib import Path; from adf_agent import logs; from adf_agent.root import Root
try: print(logs.agent(Root(Path("/")), logs.Wish(), Path(sys.argv[1]), terminal=True))
except logs.AgentError as error: print(error.sentence, error.hint, sep="|")
"""
    said = run_as(unprivileged, code, str(machine))
    assert said == "this user may not read the system's journal|sudo adf-agent logs --agent\n"
    journal.chmod(0o644)
    assert "journalctl" in run_as(unprivileged, code, str(machine))


def test_the_log_of_an_agent_below_a_folder_is_not_guessed(tmp_path: Path) -> None:
    """The log of the machine's own agent, taken for that of another one."""
    with pytest.raises(AgentError, match="below ADF_ROOT"):
        logs.agent(Root(tmp_path), Wish(), booted(tmp_path), terminal=True)


@pytest.fixture
def talking(machine: Machine) -> Machine:
    """An instance whose app said one and two, and three on standard error."""
    files = app(Dockerfile=TALKS)
    booted = machine.boot(RELEASE_URL=machine.release(files), ADF_PUBLISH=f"{free_port()}:8000")
    assert booted.code == 0, booted.log
    return machine


def test_the_app_s_lines_are_docker_s(talking: Machine) -> None:
    """An operator who looks up container ids at night; an app's errors that are lost on the way."""
    shown = talking.run("logs")
    assert (shown.code, shown.out, shown.log) == (0, "one\ntwo\n", "three\n")
    assert talking.run("logs", "--app", "-n", "0").out == ""
    assert talking.run("logs", "--since", "1h").out == "one\ntwo\n"
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    assert talking.run("logs", "--since", later).out == ""


def test_following_goes_on_until_ctrl_c(talking: Machine) -> None:
    """A log that stops in the middle; a Ctrl-C that leaves a traceback."""
    with talking.start("logs", "-f") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert [process.stdout.readline() for _ in range(2)] == ["one\n", "two\n"]
        [container] = talking.containers()
        container.exec_run(["sh", "-c", "echo four > /proc/1/fd/1"])
        assert process.stdout.readline() == "four\n"
        process.send_signal(signal.SIGINT)
        process.wait(20)
        said = process.stderr.read()
        assert said.endswith("three\n")
        assert "the lines end with this container; those of the next: adf-agent logs -f" in said


def test_a_pipe_s_end_is_the_tool_s_own(machine: Machine) -> None:
    """Python's ignored SIGPIPE, handed on: a `tail` that complains, where somebody asked for the first lines."""
    prepare(Root(machine.root))
    (machine.root / "var/lib/adf-agent/build.log").write_text("line\n" * 200_000)
    command = f"{sys.executable} -m adf_agent logs --build -n all | head -1; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, **machine.environment}
    shown = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("line\n141\n", "")


def test_the_lines_of_a_container_that_is_gone_are_those_that_were_kept(machine: Machine) -> None:
    """A boot that failed, its container taken away, and with it the only line that says why."""
    files = app(Dockerfile=DIES)
    assert machine.boot(RELEASE_URL=machine.release(files), ADF_PUBLISH=f"{free_port()}:8000").code == 16
    shown = machine.run("logs", "-f")
    assert (shown.code, shown.out) == (0, "no database\nbye\n")
    assert (
        shown.log == "adf-agent: the container is gone: these are the last lines of the app, kept when it last failed\n"
    )
    assert machine.run("logs", "-n", "1").out == "bye\n"
    assert "--since does not count" in machine.run("logs", "--since", "10m").log
    kept = machine.root / "var/lib/adf-agent/last-lines"
    kept.write_bytes(b"")
    shown = machine.run("logs")
    assert (shown.code, shown.log.splitlines()[1]) == (1, "  → adf-agent status")


def test_of_a_build_that_failed_the_build_s_lines_are_named(machine: Machine) -> None:
    """The build's last lines, taken for the app's."""
    files = app(Dockerfile=f"FROM {BASE}\nRUN echo compiling; exit 3\n")
    assert machine.boot(RELEASE_URL=machine.release(files), ADF_PUBLISH=f"{free_port()}:8000").code == 14
    shown = machine.run("logs")
    assert (shown.code, shown.log.splitlines()[1]) == (1, "  → adf-agent logs --build")
    shown = machine.run("logs", "--build")
    assert shown.code == 0
    assert "compiling" in shown.out


@pytest.mark.parametrize(
    ("options", "lines"), [((), 100), (("-n", "3"), 3), (("-n", "all"), 300), (("--since", "1h"), 300)]
)
def test_so_many_lines_come_as_were_asked_for(machine: Machine, options: tuple[str, ...], lines: int) -> None:
    """Weeks of a log on a slow line at night; or no more than its end, where all since an hour was asked for."""
    prepare(Root(machine.root))
    (machine.root / "var/lib/adf-agent/build.log").write_text("line\n" * 300)
    assert machine.run("logs", "--build", *options).out.count("\n") == lines


@pytest.mark.parametrize("source", ["--app", "--build"])
def test_where_there_is_nothing_that_is_said(machine: Machine, source: str) -> None:
    """Silence, which is read as an app that says nothing."""
    shown = machine.run("logs", source)
    assert shown.code == 1
    assert shown.log.count("\n") == 2, "a sentence and the next step"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "many"], "is no number of lines"),
        (["--since", "x"], "is no time"),
        (["--app", "--build"], "not allowed"),
    ],
)
def test_a_wrong_command_line_is_said(machine: Machine, arguments: list[str], said: str) -> None:
    """A log of other lines than were asked for."""
    shown = machine.run("logs", *arguments)
    assert (shown.code, said in shown.log) == (2, True)


def refused(unprivileged: Unprivileged, source: str, **environment: str) -> list[str]:
    process = unprivileged("-m", "adf_agent", "logs", source, env={"ADF_ROOT": str(unprivileged.folder), **environment})
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1, log
    return log.splitlines()


def test_who_may_not_read_is_told_in_a_sentence_how_one_may(unprivileged: Unprivileged) -> None:
    """An operator without rights who is shown a stack of tracebacks, or nothing."""
    root = Root(unprivileged.folder)
    prepare(root)
    for path in (root.var / "build.log", root.tail):
        path.write_text("secret\n")
        path.chmod(0)
    assert refused(unprivileged, "--build")[1:] == ["  → sudo adf-agent logs --build"]
    assert refused(unprivileged, "--app")[1:] == ["  → sudo adf-agent logs"]
    closed = unprivileged.folder / "closed"
    closed.mkdir(mode=0)
    assert refused(unprivileged, "--app", DOCKER_HOST=f"unix://{closed}/docker.sock") == [
        "adf-agent: this user may not use Docker",
        "  → sudo adf-agent logs",
    ]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"DOCKER_HOST": "unix:///nowhere.sock"}, "Docker does not tell: "),
        ({"PATH": "/nowhere"}, "there is no command `docker` here"),
    ],
)
def test_a_docker_that_is_not_there_is_named(machine: Machine, environment: dict[str, str], said: str) -> None:
    """Last lines of weeks ago that are taken for today's, as Docker is stopped."""
    shown = machine.run("logs", **environment)
    assert (shown.code, said in shown.log, shown.log.count("\n")) == (1, True, 2), shown.log
