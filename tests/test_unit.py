"""The unit's numbers and names beside the agent's own, and what systemd makes of it; what it does is in test_box."""

import subprocess
from pathlib import Path

from fixtures_package import UNIT

from adf_agent import leave, settings, supervise, works
from adf_agent.errors import EXIT_CODES, TRY_AGAIN
from adf_agent.notation import duration
from adf_agent.root import Root

PLACES = {"StateDirectory": "/var/lib", "RuntimeDirectory": "/run", "ConfigurationDirectory": "/etc"}
USAGE = 2  # argparse's exit code for a wrong command line


def seconds(unit: dict[str, list[str]], key: str) -> float:
    [value] = unit[key]
    return duration(value)


def test_the_sandbox_is_as_tight_as_it_was_promised() -> None:
    """A line left out at some refactoring, and the agent may do to the machine what it likes."""
    checked = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_systemd_gives_a_stop_the_time_that_the_agent_takes_for_it(unit: dict[str, list[str]]) -> None:
    """A drain that systemd ends with SIGKILL: requests cut off, and the load balancer never told."""
    spare = seconds(unit, "TimeoutStopSec") - leave.STOP_SECONDS - works.CLOSE_SECONDS
    assert 10 <= spare <= 30, "for its own end; more would only hold up a shutdown that hangs"
    assert unit["KillMode"] == ["mixed"], "a build's docker command is the agent's to end"


def test_the_watchdog_is_slower_than_the_loop_and_faster_than_a_spot_notice(unit: dict[str, list[str]]) -> None:
    """An agent that is killed because the disk was busy, or one that hangs until the instance is gone."""
    watchdog = seconds(unit, "WatchdogSec")
    assert watchdog >= 30 * supervise.TICK_SECONDS
    assert watchdog + seconds(unit, "TimeoutAbortSec") + seconds(unit, "RestartSec") < leave.SPOT_SECONDS


def test_systemd_waits_for_the_settings_as_long_as_the_agent_does(unit: dict[str, list[str]]) -> None:
    """An agent that is killed while it waits for slow instance metadata, and never says so."""
    assert seconds(unit, "TimeoutStartSec") > duration(settings.TABLE["ADF_BOOT_TIMEOUT"].default)
    assert unit["Type"] == ["notify"]


def test_what_may_pass_is_tried_again_and_nothing_else(unit: dict[str, list[str]]) -> None:
    """A broken release that is booted for ever, or an outage after which nobody starts the agent."""
    assert unit["Restart"] == ["on-failure"]
    permanent = {int(code) for code in unit["RestartPreventExitStatus"][0].split()}
    assert permanent == {USAGE, *EXIT_CODES.values()} - {EXIT_CODES["agent"]}
    assert TRY_AGAIN not in permanent
    assert unit["StartLimitIntervalSec"] == ["0"], "no number of starts is too many"


def test_network_and_docker_are_there_until_the_agent_has_left_and_cloud_init_waits_for_nobody(
    unit: dict[str, list[str]],
) -> None:
    """A shutdown that takes a drain's network away; a deadlock with cloud-init, whose end waits for this unit."""
    assert unit["After"] == unit["Wants"] == ["network-online.target docker.service"]
    assert "cloud" not in "".join([*unit["After"], *unit["WantedBy"], *unit.get("Requires", [])])


def test_the_folders_are_those_that_the_agent_looks_in(unit: dict[str, list[str]]) -> None:
    """An agent that may not write its state, or a status that is gone as soon as the agent is."""
    root = Root(Path("/"))
    folders = {key: f"{place}/{unit[key][0]}" for key, place in PLACES.items()}
    wanted = {"StateDirectory": root.var, "RuntimeDirectory": root.run, "ConfigurationDirectory": root.etc}
    assert folders == {key: str(folder) for key, folder in wanted.items()}
    assert unit["RuntimeDirectoryPreserve"] == ["yes"]
