import grp
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adf_agent import deadline, history
from adf_agent.deadline import Deadline
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
    at = during[0]["at"]
    assert at > 0, "seconds since the process began"
    assert during == [{"name": "config", "state": "running", "started": 1000.0, "at": at}]
    [after] = read(root)["stages"]
    assert after.pop("seconds") >= 0
    assert after == {"name": "config", "state": "done", "started": 1000.0, "at": at, "fact": "12 keys"}


def test_a_stage_s_place_in_the_boot_does_not_go_by_the_clock_on_the_wall(root: Root) -> None:
    """A waterfall with stages before the start, as the clock was set while the machine booted."""
    wall = iter([1000.0, 900.0, 5.0, 5.0, 5.0])
    record = Record(root, "boot", wall=lambda: next(wall))
    for name in ("settings", "docker"):
        record.stage(name, Came)
    first, second = (stage["at"] for stage in read(root)["stages"])
    assert 0 < first <= second
    record.begin()
    record.stage("settings", Came)
    assert read(root)["stages"][0]["at"] < first, "a later beginning counts anew"


def test_what_a_stage_tries_again_is_written_down_as_it_waits(root: Root) -> None:
    """A boot that took a minute longer, and nobody knows for which of its dependencies; a secret in what one said."""
    record = Record(root, "boot")
    record.mask.add(["hunter2"])
    seen: list[Any] = []

    def call() -> Came:
        seen.append(read(root)["stages"][0].get("retries"))
        if len(seen) < 3:
            raise HealthError(f"busy {len(seen)} hunter2", transient=True)
        return Came()

    record.stage("config", lambda: Deadline(60, threading.Event()).retry(call))
    assert [each and (each["number"], each["reason"]) for each in seen] == [None, (1, "busy 1 ***"), (2, "busy 2 ***")]
    [stage] = read(root)["stages"]
    assert 0 < stage["retries"]["seconds"] < 2
    Deadline(60, threading.Event()).retry(Came)  # outside a stage, nobody is told
    assert deadline.retried.get() is None


def test_stages_that_were_cut_off_by_a_failure_keep_their_length(root: Root) -> None:
    """A stage that goes on for days on the screen, though the boot has failed long ago."""
    record = Record(root, "boot")
    during: list[Any] = []

    def call() -> Came:
        record.fail(failure())
        during.extend(read(root)["stages"])
        raise Stopped

    with pytest.raises(Stopped):
        record.stage("release", call)
    assert (during[0]["state"], during[0]["seconds"] >= 0) == ("stopped", True)


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


def test_a_trouble_has_its_reason_since_when_and_the_next_step_until_it_is_over(root: Root) -> None:
    """A warning without a date, or one whose date moves on with each look, so that each night it is taken for new."""
    times = iter([100.0, 200.0, 300.0, 400.0])
    record = Record(root, "run", wall=lambda: next(times))
    record.trouble("app", "it exited, 1 in a row", "adf-agent logs")
    record.trouble("app", "it exited, 2 in a row", "adf-agent logs")
    record.degrade("no bytes are pinned")
    assert read(root)["troubles"] == [
        {"reason": "it exited, 2 in a row", "since": 200.0, "hint": "adf-agent logs"},
        {"reason": "no bytes are pinned", "since": 300.0, "hint": ""},
    ]
    assert read(root)["degraded"] == ["it exited, 2 in a row", "no bytes are pinned"]
    record.trouble("app", "")
    assert read(root)["degraded"] == ["no bytes are pinned"]
    record.trouble("app", "it exited, 1 in a row")
    assert read(root)["troubles"][1]["since"] == 400.0


def boots(root: Root) -> Any:
    return history.load(root)


def test_each_boot_that_has_ended_is_kept_the_last_ten_and_for_every_user(root: Root) -> None:
    """A boot that got slow some time last week, and nothing is left to compare it with; a disk that fills."""
    for number in range(12):
        record = Record(root, "run")
        record.add(instance={"id": "i-0abc"}, release={"name": f"v{number}"})
        record.stage("settings", lambda: Came("x" * 10_000))
        record.stage("image", lambda: Came("built"))
        record.add(phase="in service")
        record.add(phase="restarting")
        record.add(phase="in service")
    assert [boot["release"]["name"] for boot in boots(root)] == [f"v{number}" for number in range(2, 12)]
    assert all(boot["phase"] == "in service" and boot["seconds"] >= 0 and boot["began"] > 0 for boot in boots(root))
    path = root.var / "boots.json"
    assert path.stat().st_size < 20_000
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_adoption_is_no_boot(root: Root) -> None:
    """Ten crashes of the agent, and nothing is left of how the app was booted."""
    record = Record(root, "run")
    record.stage("settings", lambda: Came("i-0abc"))
    record.add(phase="joining")
    assert boots(root) == []


def test_boots_of_another_instance_are_forgotten_and_a_nameless_one_forgets_none(root: Root) -> None:
    """An image made from a used instance, whose fleet compares its boots with those of one machine long gone."""
    for name in ("i-0old", "i-0new", ""):
        record = Record(root, "run")
        if name:
            record.add(instance={"id": name})
        record.fail(failure())
    assert [boot.get("instance", {}).get("id") for boot in boots(root)] == ["i-0new", None]
    assert "hunter2" not in (root.var / "boots.json").read_text(), "the app's lines are for fewer eyes"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"boots": 7}', b'{"boots": [7, null]}', b"\xff", b"[" * 100_000])
def test_a_history_that_is_none_fails_no_boot(root: Root, content: bytes) -> None:
    """An instance that can't boot for a file that only `analyze` reads."""
    (root.var / "boots.json").write_bytes(content)
    assert boots(root) == []
    Record(root, "boot").fail(failure())
    assert len(boots(root)) == 1


@pytest.fixture
def full(root: Root) -> Iterator[Root]:
    """Folders for status and state on a disk of 64 KiB, that `fill` fills."""
    if os.geteuid() != 0:
        pytest.fail("a disk of its own needs root: sudo make test", pytrace=False)
    for folder in (root.run, root.var):
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    yield root
    for folder in (root.run, root.var):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_on_a_full_disk_the_record_is_written_over_and_no_boot_fails_of_the_history(full: Root) -> None:
    """A status that says `booting` for ever, as nothing could be written; an instance lost to a history's file."""
    record = Record(full, "run")
    fill(full.run)
    fill(full.var)
    record.stage("image", Came)
    record.add(phase="in service")
    assert (read(full)["phase"], read(full)["stages"][0]["state"]) == ("in service", "done")
    record.begin()
    assert read(full)["stages"] == [], "shorter: and nothing of the longer one is left behind"
    assert boots(full) == []


def test_an_agent_starts_though_no_status_can_be_written(full: Root) -> None:
    """An app that runs, and no agent that looks after it until somebody makes room."""
    fill(full.run)
    record = Record(full, "run")
    record.add(phase="in service")
    assert record.phase == "in service"
    assert not full.status.exists()


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
