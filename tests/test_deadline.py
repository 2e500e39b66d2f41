"""Every wait ends: at its deadline, with the stop event, or when another task of the boot has failed."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import structlog

from adf_agent.background import Task, settle
from adf_agent.deadline import Deadline
from adf_agent.errors import AgentError, ConfigError, DockerError, ReleaseError, Stopped


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def within(seconds: float, stop: threading.Event | None = None) -> Deadline:
    return Deadline(seconds, stop or threading.Event())


def passing(sentence: str = "busy") -> ReleaseError:
    return ReleaseError(sentence, transient=True)


# What is left


@pytest.mark.parametrize(
    ("made", "left"),
    [
        (lambda whole: whole, 60.0),
        (lambda whole: whole.within(10), 10.0),
        (lambda whole: whole.within(600), 60.0),
        (lambda whole: whole.within(600).within(600), 60.0),
        (lambda whole: whole.lasting(900), 860.0),
        (lambda whole: whole.lasting(50), 10.0),
        (lambda whole: whole.lasting(30), 0.0),
        (lambda whole: whole.lasting(900).within(600), 600.0),
    ],
)
def test_a_deadline_made_of_another_never_starts_its_time_anew(
    made: Callable[[Deadline], Deadline], left: float
) -> None:
    """A boot of 15 minutes that takes 15 in each of its stages."""
    clock = Clock()
    whole = Deadline(100, threading.Event(), clock)
    clock.now += 40
    deadline = made(whole)
    assert deadline.remaining() == left
    assert deadline.expired() == (left == 0)
    clock.now += left
    assert deadline.expired()
    clock.now += 1000
    assert deadline.remaining() == 0
    whole.stop.set()
    with pytest.raises(Stopped):
        deadline.check()


# Waiting


WAITS: dict[str, Callable[[Deadline], object]] = {
    "wait": lambda deadline: deadline.wait(60),
    "wait within": lambda deadline: deadline.within(60).wait(60),
    "wait lasting": lambda deadline: deadline.lasting(600).wait(60),
    "task": lambda deadline: Task(lambda: threading.Event().wait(30)).result(deadline),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_the_stop_event_ends_a_wait_at_once(wait: Callable[[Deadline], object]) -> None:
    """SIGTERM that is heard at the end of a pause, when systemd has killed the agent already."""
    stop, looked = threading.Event(), threading.Event()

    def clock() -> float:
        looked.set()
        return time.monotonic()

    deadline = Deadline(60, stop, clock)
    looked.clear()
    waiting = Task(lambda: wait(deadline))
    assert looked.wait(10)
    before = time.monotonic()
    assert not waiting.done()
    stop.set()
    with pytest.raises(Stopped):
        waiting.result(within(10))
    assert time.monotonic() - before < 1


@pytest.mark.parametrize(("seconds", "deadline", "waited"), [(0.1, 60, 0.1), (60, 0.1, 0.1), (60, 0, 0)])
def test_a_wait_is_no_longer_than_what_is_left(seconds: float, deadline: float, waited: float) -> None:
    """A pause of ten seconds begun one second before the end."""
    before = time.monotonic()
    within(deadline).wait(seconds)
    assert waited <= time.monotonic() - before < waited + 1


# Trying again


def raising(*errors: Exception) -> tuple[Callable[[], str], Iterator[Exception]]:
    """A call that raises *errors* in turn and answers then; and those that it has not raised yet."""
    rest = iter(errors)

    def call() -> str:
        for error in rest:
            raise error
        return "answer"

    return call, rest


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_fault_that_passes_is_tried_again_and_said(times: int) -> None:
    """An instance lost to a throttled call; or minutes of silence in the journal while it waits."""
    call, rest = raising(*[passing(f"busy {number}") for number in range(times)])
    with structlog.testing.capture_logs() as logs:
        assert within(20).retry(call) == "answer"
    assert list(rest) == []
    assert [(line["event"], line["reason"]) for line in logs] == [("retry", f"busy {n}") for n in range(times)]


@pytest.mark.parametrize("error", [ReleaseError("404"), Stopped(), ValueError("a bug")])
def test_what_does_not_pass_is_raised_at_once(error: Exception) -> None:
    """A typo in RELEASE_URL, tried for a quarter of an hour by each instance of the fleet."""
    call, rest = raising(passing(), error, passing())
    with pytest.raises(type(error)) as caught:
        within(20).retry(call)
    assert caught.value is error
    assert len(list(rest)) == 1


def test_at_the_deadline_the_last_fault_is_raised() -> None:
    """A boot that runs out of time and says so, and not what it was waiting for."""
    before = time.monotonic()

    def call() -> None:
        raise passing("the table is throttled")

    with pytest.raises(ReleaseError, match="the table is throttled") as caught:
        within(1).retry(call)
    assert caught.value.exit_code == 75
    assert time.monotonic() - before < 1.5


@pytest.mark.parametrize("last", [passing("not in time"), ReleaseError("aborted")])
def test_what_stood_in_the_way_until_then_outweighs_a_call_that_time_ran_out_on(last: AgentError) -> None:
    """An instance whose server answered 500 all along, and whose status says nothing but that time ran out."""
    deadline = within(1)
    first = iter([passing("answers 500")])

    def call() -> None:
        for error in first:
            raise error
        threading.Event().wait(deadline.remaining())
        raise last

    with pytest.raises(ReleaseError, match="answers 500") as caught:
        deadline.retry(call)
    assert caught.value.__cause__ is last


def test_a_call_that_takes_all_the_time_is_what_is_raised() -> None:
    """A boot that ends without any error, as none came before the deadline."""
    clock = Clock()

    def call() -> None:
        clock.now += 100
        raise ReleaseError("not in time")

    with pytest.raises(ReleaseError, match="not in time"):
        Deadline(60, threading.Event(), clock).retry(call)


def test_an_expired_deadline_still_tries_once_and_a_stop_event_never() -> None:
    """A stage with no time left that fails without a reason; one that begins after SIGTERM."""
    call, rest = raising(passing("busy"), passing("busy"))
    with pytest.raises(ReleaseError, match="busy"):
        within(0).retry(call)
    stopped = within(60)
    stopped.stop.set()
    with pytest.raises(Stopped):
        stopped.retry(call)
    assert len(list(rest)) == 1


@pytest.mark.parametrize("error", [passing(), ReleaseError("aborted")])
def test_a_call_that_the_stop_event_ended_has_not_failed(error: ReleaseError) -> None:
    """A failed boot reported, and the instance replaced, as somebody stopped the agent."""
    stop = threading.Event()
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        stop.set()
        raise error

    with pytest.raises(Stopped):
        within(60, stop).retry(call)
    assert calls == 1


# Tasks


def test_a_task_answers_with_what_the_call_did() -> None:
    """An error of a thread that nobody hears of: the boot goes on without its config."""
    answered = Task(lambda: 7)
    assert answered.result(within(10)) == 7
    assert answered.done()
    assert answered.value == 7
    error = ConfigError("denied")

    def fail() -> None:
        raise error

    failed = Task(fail)
    with pytest.raises(ConfigError) as caught:
        failed.result(within(10))
    assert caught.value is error
    with pytest.raises(ConfigError):
        _ = failed.value


def test_a_task_is_left_behind_at_the_deadline_and_its_late_answer_taken() -> None:
    """A hung Docker call that hangs the whole boot."""
    late = threading.Event()
    task = Task(lambda: late.wait(30))
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        task.result(within(0.1))
    assert 0.1 <= time.monotonic() - before < 1
    assert not task.done()
    with pytest.raises(TimeoutError):
        _ = task.value
    late.set()
    assert task.result(within(10)) is True


def test_a_task_logs_what_was_bound_where_it_began() -> None:
    """Lines in the journal that name no stage, as they came from a thread."""
    with structlog.contextvars.bound_contextvars(stage="release"):
        task = Task(structlog.contextvars.get_contextvars)
    assert task.result(within(10)) == {"stage": "release"}


def test_a_task_that_hangs_does_not_hold_up_the_exit() -> None:
    """An agent that has failed its boot and never exits, so that systemd never starts it again."""
    program = "import threading\nfrom adf_agent.background import Task\nTask(threading.Event().wait)\nprint('over')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert (ended.stdout, ended.stderr) == ("over\n", "")


def test_tasks_that_end_well_are_all_waited_for() -> None:
    """A container started before its config was there."""
    first = Task(lambda: 1)
    second = Task(lambda: first.result(within(10)) + 1)
    stop = threading.Event()
    settle([second, first], Deadline(60, stop))
    settle([], Deadline(60, stop))
    assert (first.value, second.value) == (1, 2)
    assert not stop.is_set()


def test_the_first_failure_stops_the_others_and_is_the_one_raised() -> None:
    """A boot that downloads 2 GB before it says that the config table is missing."""
    stop = threading.Event()
    download = Task(lambda: within(60, stop).wait(60))
    error = DockerError("Docker does not answer")

    def fail() -> None:
        raise error

    before = time.monotonic()
    with pytest.raises(DockerError) as caught:
        settle([download, Task(fail)], Deadline(60, stop))
    assert caught.value is error
    assert stop.is_set()
    assert time.monotonic() - before < 1
    with pytest.raises(Stopped):
        download.result(within(10))


def test_tasks_that_were_stopped_have_not_failed() -> None:
    """SIGTERM in the middle of a boot, reported as a failure of whatever stage it was in."""
    stop = threading.Event()
    tasks = [Task(lambda: within(60, stop).wait(60)) for _ in range(3)]
    stop.set()
    with pytest.raises(Stopped):
        settle(tasks, Deadline(60, stop))


def test_a_failure_outweighs_those_that_it_stopped() -> None:
    """A boot reported as stopped by somebody, when Docker's failure had stopped it."""
    stop = threading.Event()
    stop.set()

    def fail() -> None:
        raise DockerError("Docker does not answer")

    tasks = [Task(stopped) for stopped in (within(60, stop).check, fail, within(60, stop).check)]
    with pytest.raises(DockerError):
        settle(tasks, Deadline(60, stop))


def test_a_task_that_is_stopped_has_time_to_clear_up() -> None:
    """Half a release on the disk of each instance whose config could not be read."""
    stop = threading.Event()
    cleared: list[str] = []

    def download() -> None:
        try:
            within(60, stop).wait(60)
        finally:
            threading.Event().wait(0.2)
            cleared.append("the file")

    def fail() -> None:
        raise ConfigError("denied")

    with pytest.raises(ConfigError):
        settle([Task(download), Task(fail)], Deadline(60, stop))
    assert cleared == ["the file"]
