"""The jobs for upstart: no upstart runs them here, so their stanzas are read, and held against the unit for systemd."""

import re
import subprocess
from pathlib import Path

import pytest

from adf_agent.errors import EXIT_CODES, TRY_AGAIN
from adf_agent.leave import STOP_SECONDS
from adf_agent.works import CLOSE_SECONDS

REPOSITORY = Path(__file__).parent.parent
AGENT = REPOSITORY / "upstart/adf-agent.conf"
FOLDERS = REPOSITORY / "upstart/adf-agent-folders.conf"

# init(5) of upstart 1.12, as far as a system job may need it. One name may begin another.
TEXT = r"\S.*"
EVENTS = r"[^()]+|\(.+\)"
PROCESSES = ("", "pre-start ", "post-start ", "pre-stop ", "post-stop ")
COMMANDS = [f"{process}{kind}" for process in PROCESSES for kind in ("exec", "script")]
STANZAS = {
    **dict.fromkeys(COMMANDS, TEXT),
    "author": TEXT,
    "chdir": r"/\S*",
    "console": "none|log|output|owner",
    "description": '".+"',
    "env": r"[A-Z_]+=\S*",
    "expect": "fork|daemon|stop",
    "kill signal": "SIG[A-Z0-9]+",
    "kill timeout": r"\d+",
    "limit": r"[a-z]+ (?:\d+|unlimited) (?:\d+|unlimited)",
    "manual": "",
    "nice": r"-?\d+",
    "normal exit": r"(?:(?:\d+|[A-Z]+) ?)+",
    "oom score": r"-?\d+|never",
    "respawn": "",
    "respawn limit": r"\d+ \d+|unlimited",
    "setgid": r"[\w-]+",
    "setuid": r"[\w-]+",
    "start on": EVENTS,
    "stop on": EVENTS,
    "task": "",
    "umask": "0?[0-7]{3}",
}
LONGEST_FIRST = sorted(STANZAS, key=len, reverse=True)
Job = dict[str, list[str]]


def read(text: str) -> Job:
    """The stanzas of a job, name → arguments; a script's are its lines. Raises ValueError, which names the line."""
    job: Job = {}
    lines = [line.strip() for line in text.splitlines()]
    while lines:
        line = lines.pop(0)
        if not line or line.startswith("#"):
            continue
        name = next((each for each in LONGEST_FIRST if f"{line} ".startswith(f"{each} ")), "")
        value = line.removeprefix(name).strip()
        if name.endswith("script"):
            end = lines.index("end script")
            value, lines = "\n".join(lines[:end]), lines[end + 1 :]
        if not name or not re.fullmatch(STANZAS[name], value, re.DOTALL):
            raise ValueError(line)
        job.setdefault(name, []).append(value)
    return job


@pytest.fixture(scope="module")
def agent() -> Job:
    return read(AGENT.read_text())


@pytest.mark.parametrize(
    "text",
    ["respwan", "kill timeout 5 min", "normal exit", "console syslog", "setuid", "oom -500", "script\nexec true"],
)
def test_what_upstart_would_refuse_is_seen(text: str) -> None:
    """A slip makes upstart forget the whole job, with a line in a log that nobody reads, and no agent starts."""
    with pytest.raises(ValueError, match=r"\S"):
        read(text)


@pytest.mark.parametrize("path", [AGENT, FOLDERS], ids=lambda path: path.stem)
def test_every_stanza_is_one_of_upstarts_and_every_command_a_shells(path: Path) -> None:
    """A job that upstart can't read, or a script that no shell can, and the instance never boots its release."""
    job = read(path.read_text())
    commands = [command for name in COMMANDS for command in job.get(name, [])]
    assert commands
    for command in commands:
        subprocess.run(["sh", "-n", "-c", command], check=True)
    twice = [name for name, values in job.items() if len(values) > 1 and name not in ("env", "limit")]
    assert not twice, "only the last one would count"


def test_it_starts_with_docker_and_docker_outlives_it(agent: Job) -> None:
    """Docker stops first at a shutdown, and the app is cut off while its load balancer still sends it requests."""
    assert agent["start on"] == ["started docker"]
    assert agent["stop on"] == ["stopping docker or runlevel [!2345]"]


def test_no_process_of_it_is_roots_and_its_folders_are_there_before_it(agent: Job) -> None:
    """As setuid holds for pre-start too: made there, the folders are refused; made nowhere, the agent fails."""
    assert (agent["setuid"], agent["setgid"]) == (["adf-agent"], ["adf-agent"])
    folders = read(FOLDERS.read_text())
    assert folders["start on"] == ["starting adf-agent"]
    assert "task" in folders, "else `starting` would not wait for it"
    assert "setuid" not in folders
    made = folders["exec"][0].split()
    assert made[:6] == ["install", "-d", "-o", "adf-agent", "-g", "adf-agent"]
    assert {"/run/adf-agent", "/var/lib/adf-agent"} <= set(made)


def test_a_drain_fits_its_kill_timeout_as_systemds(agent: Job, unit: dict[str, list[str]]) -> None:
    """The default of 5 s kills the agent in the midst of a drain, and requests are lost with each scale-in."""
    assert agent["kill signal"] == ["SIGTERM"]
    timeout = int(agent["kill timeout"][0])
    assert timeout > STOP_SECONDS + CLOSE_SECONDS
    assert unit["TimeoutStopSec"] == [f"{timeout}s"]


def test_a_permanent_failure_stays_failed_and_a_crash_is_started_again(agent: Job, unit: dict[str, list[str]]) -> None:
    """A Dockerfile that can't be built is built again and again; or an agent that crashed leaves its app to itself."""
    normal = {int(code) for code in agent["normal exit"][0].split()}
    assert normal == {0, 2, *EXIT_CODES.values()} - {EXIT_CODES["agent"]}
    assert TRY_AGAIN not in normal
    assert unit["RestartPreventExitStatus"] == [" ".join(map(str, sorted(normal - {0})))]
    assert "respawn" in agent
    count, seconds = map(int, agent["respawn limit"][0].split())
    pause = int(agent["post-stop exec"][0].removeprefix("sleep "))
    assert unit["RestartSec"] == [f"{pause}s"]
    assert count * pause < seconds, "a crash at each start would never reach the limit"


def test_it_lives_as_under_systemd(agent: Job, unit: dict[str, list[str]]) -> None:
    """The agent's memory grows, its secrets are dumped or its files are read by all, on the older systems alone."""
    assert agent["env"] == unit["Environment"]
    assert agent["oom score"] == unit["OOMScoreAdjust"]
    assert agent["umask"] == unit["UMask"]
    assert agent["limit"] == ["core 0 0"]
    assert unit["LimitCORE"] == ["0"]


def test_it_runs_what_pip_installs(agent: Job) -> None:
    """The command is none that the wheel has, and upstart gives up after ten tries."""
    assert agent["exec"] == ["/opt/adf-agent/bin/adf-agent run"]
    assert 'adf-agent = "adf_agent.__main__:main"' in (REPOSITORY / "pyproject.toml").read_text()


def test_what_it_says_goes_to_a_file_that_is_rotated(agent: Job) -> None:
    """The reason of a failed boot is written nowhere; or to a file that nobody rotates, and the disk fills."""
    assert agent["console"] == ["log"]
