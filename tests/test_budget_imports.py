"""What the packages' commands import, which is most of their start: budgets that do not depend on the machine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_agent import Machine

LIBRARIES = {"boto3", "botocore", "docker", "requests", "rich", "structlog", "tenacity", "urllib3", "yaml"}
# In modules, the interpreter's own among them; up to a fifth above what they are with Python 3.11.
STATUS_IMPORTS, HELP_IMPORTS, RUN_IMPORTS = 78, 130, 575
OPERATORS_HELP = {"adf-config": 64, "adf-release": 64, "adf-roll": 64, "adf-sandbox": 94}


def imports(*command: str | Path) -> list[str]:
    """The modules that a Python imports for *command*, which must succeed or find no agent."""
    done = subprocess.run([*command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr[-2000:]
    return modules(done.stderr)


def modules(text: str) -> list[str]:
    """What -X importtime has written down in *text*."""
    return re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", text, re.MULTILINE)


def tops(names: list[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.fixture(scope="module")
def agent(unpacked: Path) -> tuple[str, ...]:
    """The packages' command, by the launcher's own Python and options, which writes down its imports."""
    launcher = unpacked / "usr/bin/adf-agent"
    return *launcher.read_text().partition("\n")[0].removeprefix("#!").split(), "-Ximporttime", str(launcher)


def test_status_imports_nothing_but_the_standard_library(agent: tuple[str, ...], tmp_path: Path) -> None:
    """A screen that comes late, or not at all where a library is broken: when it is looked at most."""
    found = imports("env", f"ADF_ROOT={tmp_path}", *agent, "status")
    assert {"json", "adf_agent"} <= tops(found) <= {"adf_agent", *sys.stdlib_module_names}
    assert len(found) <= STATUS_IMPORTS


def test_the_agents_help_imports_no_library(agent: tuple[str, ...]) -> None:
    """Who types a command wrong at night waits for AWS's SDK to be told so."""
    found = imports(*agent, "--help")
    assert "argparse" in found
    assert not tops(found) & LIBRARIES
    assert len(found) <= HELP_IMPORTS


@pytest.mark.parametrize(("name", "most"), OPERATORS_HELP.items())
def test_an_operators_help_imports_no_library(name: str, most: int) -> None:
    """A completion or a typing error that takes a second: people go back to the AWS console."""
    found = imports(sys.executable, "-Ximporttime", Path(sys.executable).with_name(name), "--help")
    assert "argparse" in found
    assert not tops(found) & {*LIBRARIES, "moto", "flask", "werkzeug"}
    assert len(found) <= most


def test_awss_sdk_is_not_waited_for_before_the_first_stage(agent: tuple[str, ...], machine: Machine) -> None:
    """Every boot of every instance is later by the largest import there is, before anybody sees it begin."""
    machine.command = agent
    machine.user_data()
    daemon = machine.daemon()
    daemon.until(lambda: daemon.events("stage.started"), "the first stage")
    log = daemon.log()
    begun = next(line for line in log.splitlines() if '"stage.started"' in line)
    assert json.loads(begun)["stage"] == "settings"
    found = modules(log.partition(begun)[0])
    assert "adf_agent.supervise" in found
    assert not tops(found) & {"boto3", "botocore"}
    assert len(found) <= RUN_IMPORTS
