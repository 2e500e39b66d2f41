import grp
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adf_agent.errors import AgentError, HealthError, ImageError, Stopped
from adf_agent.record import Record
from adf_agent.root import Root, boot_id, started
from adf_agent.state import prepare


@dataclass(frozen=True)
class Came:
    fact: str = "12 keys"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    place = Root(tmp_path)
    prepare(place)
    return place


def read(root: Root) -> Any:
    return json.loads(root.status.read_bytes())


def fail(error: BaseException) -> Callable[[], Came]:
    def call() -> Came:
        raise error

    return call


def test_a_record_is_there_from_the_start_and_says_whose_it_is(root: Root) -> None:
    """An instance that hangs in its first stage and looks as if no agent had ever run."""
    Record(root, "boot", wall=lambda: 1000.0)
    agent = {"pid": os.getpid(), "started": started(os.getpid()), "boot_id": boot_id(), "mode": "boot"}
    found = read(root)
    assert (found["schema"], found["phase"], found["since"], found["agent"]) == (1, "booting", 1000.0, agent)


def test_a_stage_is_written_down_before_it_starts_and_when_it_ends(root: Root) -> None:
    """A boot that hangs, or is killed, and nobody knows in which stage."""
    record = Record(root, "boot", wall=lambda: 1000.0)
    during: list[Any] = []

    def call() -> Came:
        during.extend(read(root)["stages"])
        return Came()

    assert record.stage("config", call) == Came()
    assert during == [{"name": "config", "state": "running", "started": 1000.0}]
    [after] = read(root)["stages"]
    assert after.pop("seconds") >= 0
    assert after == {"name": "config", "state": "done", "started": 1000.0, "fact": "12 keys"}


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ImageError("the build failed"), "failed"),
        (AgentError("the disk is full"), "failed"),
        (KeyError("hunter2"), "failed"),
        (HealthError("another stage's, waited for here"), "stopped"),
        (Stopped(), "stopped"),
    ],
)
def test_a_stage_that_ends_badly_says_so_and_lets_the_error_pass(root: Root, error: Exception, state: str) -> None:
    """Three stages marked as failed for the fault of one; a secret in an unexpected error's text, for all to read."""
    record = Record(root, "boot")
    with pytest.raises(type(error)):
        record.stage("image", fail(error))
    [stage] = read(root)["stages"]
    assert (stage["state"], stage["fact"]) == (state, ""), "why is said once, as the boot's error"


def test_overlapped_stages_lose_nothing(root: Root) -> None:
    """A stage that goes missing because another one ended in the same moment."""
    record = Record(root, "boot")

    def run(number: int) -> None:
        record.stage("release", Came)
        record.degrade(f"slow {number}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(80)))
    found = read(root)
    assert [stage["state"] for stage in found["stages"]] == ["done"] * 80
    assert len(found["degraded"]) == 80


def slow_to_write() -> Any:
    """A time that takes JSON a while to write."""
    return [0] * 20_000


def add_often(record: Record) -> None:
    for _ in range(3):
        record.add()


def test_a_stage_may_end_while_another_one_writes_the_record(root: Root) -> None:
    """A boot that fails with `dictionary changed size during iteration`, once in a thousand."""
    with ThreadPoolExecutor(1) as other:
        for _ in range(25):
            record = Record(root, "boot", wall=slow_to_write)
            writing = other.submit(add_often, record)
            record.stage("release", Came)
            writing.result()
            assert [stage["state"] for stage in read(root)["stages"]] == ["done"]


def test_since_is_when_the_phase_began(root: Root) -> None:
    """`in service for 2 s`, for weeks, as every probe's answer sets the clock back."""
    times = iter([100.0, 200.0, 300.0])
    record = Record(root, "boot", wall=lambda: next(times))
    record.add(probe={"answer": "200 OK"})
    record.add(phase="booting")
    assert read(root)["since"] == 100.0
    record.add(phase="in service")
    assert (read(root)["phase"], read(root)["since"]) == ("in service", 200.0)


def failure() -> AgentError:
    return HealthError("the app exited with code 7", hint="See the app's last lines.", log_tail=["one", "pass=hunter2"])


def test_the_apps_lines_are_for_fewer_eyes_than_the_failure(root: Root) -> None:
    """An app that prints its password when it fails, and a status.json that shows it to every user."""
    former = os.umask(0o022)
    Record(root, "boot").fail(failure())
    os.umask(former)
    assert read(root)["error"] == {
        "stage": "health",
        "cause": "app",
        "sentence": "the app exited with code 7",
        "hint": "See the app's last lines.",
        "exit_code": 16,
        "lines": 2,
    }
    assert read(root)["phase"] == "failed"
    assert "hunter2" not in root.status.read_text()
    assert root.status.stat().st_mode & 0o777 == 0o644
    assert root.tail.read_text() == "one\npass=hunter2\n"
    assert root.tail.stat().st_mode & 0o777 == 0o640
    if os.geteuid() == 0:
        assert root.tail.stat().st_gid == grp.getgrnam("adm").gr_gid


def test_no_secret_is_in_anything_that_is_written_down(root: Root) -> None:
    """A password in a file that every user reads, as it was part of a URL, of a fact or of the app's last lines."""
    record = Record(root, "boot")
    record.mask.add(["hunter2", "hunter2000"])
    record.degrade("hunter2 is weak")
    record.stage("config", lambda: Came("password hunter2000"))
    said = "GET https://me:hunter2@example.com/?X-Amz-Signature=5ec4e7"
    record.fail(HealthError(said, hint="Not hunter2000.", log_tail=["connecting with hunter2", said]))
    shown = root.status.read_text() + root.tail.read_text()
    assert [word for word in ("hunter2", "5ec4e7") if word in shown] == []
    assert "password ***" in shown
    assert "connecting with ***" in shown


def test_lines_of_an_earlier_failure_do_not_explain_a_later_one(root: Root) -> None:
    """An operator who looks for a fault that was mended long ago."""
    record = Record(root, "boot")
    record.fail(failure())
    record.fail(ImageError("the disk is full"))
    assert root.tail.read_text() == ""


def test_a_failure_is_recorded_though_its_lines_cannot_be_kept(root: Root) -> None:
    """A full disk: the boot fails of it, the lines can't be written, and status says no more than `booting`."""
    record = Record(root, "boot")
    shutil.rmtree(root.var)
    record.fail(failure())
    assert (read(root)["phase"], read(root)["error"]["exit_code"]) == ("failed", 16)
