"""What nobody thought of, at one place or another: it is named, and what comes after it comes all the same."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from fixtures_agent import Daemon, Machine, app
from test_run import answers, serving

from adf_agent import commands, works
from adf_agent.errors import AgentError
from adf_agent.root import Root
from adf_agent.sandbox.group import Group
from adf_agent.sandbox.member import Hook
from adf_agent.supervise import Work

SECRET = "hunter2"  # the exception's own text
# A function of the agent that fails the first times that it is called, in a way that nothing is prepared for.
FAULTY = f"""
import importlib, os, sys

path, name, times = os.environ["FAULT"].split()
module, left = importlib.import_module(path), int(times)
real = getattr(module, name)

def faulty(*args, **keys):
    global left
    left -= 1
    if left >= 0:
        raise RuntimeError("{SECRET}")
    return real(*args, **keys)

setattr(module, name, faulty)
sys.argv = ["adf-agent", os.environ["COMMAND"]]
from adf_agent.__main__ import main
raise SystemExit(main())
"""


def faulty(machine: Machine, fault: str, command: str = "run") -> Daemon:
    """An `adf-agent run`, or another *command*, in which "MODULE FUNCTION TIMES" fails."""
    with (machine.root / "agent.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", FAULTY],
            env={**os.environ, **machine.environment, "FAULT": f"adf_agent.{fault}", "COMMAND": command},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    daemon = Daemon(machine, process)
    machine.closing.append(daemon.kill)
    return daemon


def times(events: list[dict[str, Any]]) -> list[float]:
    return [datetime.fromisoformat(event["timestamp"]).timestamp() for event in events]


def test_a_work_begins_whatever_the_one_before_it_ended_with() -> None:
    """One fault after which no restart, no drain and no report of it comes any more, until the machine is gone."""

    def fail(_: object) -> None:
        raise RuntimeError

    former = Work(fail, None, lambda: None)
    begun: list[str] = []
    work = Work(lambda _: begun.append("begun"), former, lambda: None)
    work.task.future.exception(timeout=10)
    assert (work.outcome(), begun) == (None, ["begun"])


@pytest.mark.parametrize("fault", ["container adopt 2", "container exit_state 2"], ids=["restart", "its reason"])
def test_a_restart_that_fails_unexpectedly_is_tried_again_after_a_pause(machine: Machine, fault: str) -> None:
    """An app that stays down, and an agent that turns a core into heat and a disk into log."""
    port = serving(machine)
    agent = faulty(machine, fault)
    agent.reach("in service")
    machine.containers()[0].kill()
    agent.until(lambda: len([e for e in agent.events("phase") if e["phase"] == "restarting"]) == 3, "the third try")
    agent.reach("in service")
    agent.until(answers(port), "it answers again")
    began = times([event for event in agent.events("phase") if event["phase"] == "restarting"])
    assert began[2] - began[1] >= 1 - works.SPREAD
    told = agent.events("unexpected")
    assert len(told) == 2
    assert all(re.search(r"works\.py.*, in again\n(?s:.*)RuntimeError$", event["exception"]) for event in told)
    assert SECRET not in agent.log()
    assert agent.end() == 0, agent.log()
    assert machine.containers() == []


def test_a_stop_that_failed_unexpectedly_is_named_and_does_not_end_well(machine: Machine) -> None:
    """A shutdown that cuts the app off and calls itself a success."""
    serving(machine)
    agent = faulty(machine, "container stop 9")
    agent.reach("in service")
    assert agent.end() == 1
    status = machine.status()
    assert status["phase"] == "stopped"
    assert status["degraded"] == ["drain: container stopped: unexpected: RuntimeError"]
    assert [event["event"] for event in map(json.loads, agent.log().splitlines())].count("unexpected") == 1


def test_a_reload_that_failed_unexpectedly_is_heard_of_and_the_app_serves_on(machine: Machine) -> None:
    """An `adf-agent reload` in a script that waits for ever."""
    port = serving(machine)
    agent = faulty(machine, "serving reload 1")
    agent.reach("in service")
    reloaded = machine.run("reload")
    assert reloaded.code == 1
    assert "the reload failed: unexpected: RuntimeError" in reloaded.log
    agent.reach("in service")
    assert answers(port)()
    assert machine.run("reload").code == 0


def test_a_boot_that_failed_unexpectedly_is_taken_back_and_its_group_told(machine: Machine) -> None:
    """An instance that stays in its launch for the hook's whole hour, with an app that nobody looks after."""
    serving(machine)
    with Group(machine.cloud, "web", (Hook("adf-launch", "launch"),)) as group:
        group.launch()
        agent = faulty(machine, "health wait 1")
        assert agent.ended() == 1
        assert group.completed == [("adf-launch", "ABANDON")]
    assert machine.containers() == []
    assert machine.status()["error"]["sentence"] == "unexpected: RuntimeError"


def test_the_group_is_told_of_a_failed_boot_whatever_becomes_of_the_rest(machine: Machine) -> None:
    """A failed instance that is never replaced, as one client of AWS could not be made."""
    machine.user_data(RELEASE_URL=machine.release(app(Dockerfile="FROM scratch\nCOPY none /\n")))
    with Group(machine.cloud, "web", (Hook("adf-launch", "launch"),)) as group:
        group.launch()
        agent = faulty(machine, "report own 9")
        assert agent.ended() == 14
        assert group.completed == [("adf-launch", "ABANDON")]


@pytest.mark.parametrize(("command", "fault"), [("run", "phases next_state 1"), ("boot", "boot boot 1")])
def test_what_ends_the_agent_itself_is_told_without_its_own_words(machine: Machine, command: str, fault: str) -> None:
    """The app's password in the journal, as Python prints what nobody caught with all that it holds."""
    serving(machine)
    agent = faulty(machine, fault, command)
    assert agent.ended() == 1
    log = agent.log()
    assert SECRET not in log
    assert log.count("adf-agent: unexpected: RuntimeError") == 1
    [told] = agent.events("unexpected")
    assert ", in faulty" in told["exception"], "where it came from"
    assert machine.status()["error"]["sentence"] == "unexpected: RuntimeError"


def test_an_error_that_ends_the_agent_is_told_as_the_record_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same password on the console, once masked by the log and once not, from an error that was foreseen."""
    before = structlog.get_config()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))  # which would be set, also for the tests after this

    def run() -> None:
        with commands.only_agent(Root(tmp_path), "run") as (_, record, _):
            record.mask.add([SECRET])
            raise AgentError(f"no way in by {SECRET}", hint=f"Mend {SECRET}.")

    with pytest.raises(AgentError) as caught:
        run()
    structlog.configure(**before)
    assert (caught.value.sentence, caught.value.hint) == ("no way in by ***", "Mend ***.")
