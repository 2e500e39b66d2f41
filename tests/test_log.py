"""What the log makes of a fault that nobody expected."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from adf_agent import log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What the log is written to."""
    before = structlog.get_config()
    written = io.StringIO()
    log.configure(written)
    yield written
    structlog.configure(**before)


@pytest.mark.parametrize("own_cause", [False, True])
def test_a_fault_is_told_by_its_stack_and_not_by_its_words(stream: io.StringIO, *, own_cause: bool) -> None:
    """A secret in the journal, as an error's text held it; or a log without end, where an error is its own cause."""
    error = RuntimeError("hunter2")
    cause = error if own_cause else ValueError("hunter3")
    try:
        raise error from cause
    except RuntimeError:
        structlog.get_logger().exception("unexpected")
    told = json.loads(stream.getvalue())
    assert "test_log.py" in told["exception"]
    assert told["exception"].splitlines()[-1] == ("RuntimeError" if own_cause else "ValueError")
    assert "hunter" not in stream.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_to_be_hidden_is_hidden_in_whatever_holds_it(*, terminal: bool) -> None:
    """A token in the journal, as a server quoted it in an answer that is tried again; or in color on a terminal."""
    written, before = io.StringIO(), structlog.get_config()
    written.isatty = lambda: terminal  # type: ignore[method-assign]
    log.configure(written, lambda text: text.replace("hunter2", "***"))
    structlog.get_logger().info("retry", reason="hunter2", nested={"deep": ["hunter2", 1]}, seconds=2)
    structlog.configure(**before)
    assert "hunter2" not in written.getvalue()
    assert written.getvalue().count("***") == 2


def test_the_words_that_a_log_is_searched_by_stay_whole() -> None:
    """An alarm on `boot.failed` that never comes, as some app's secret is `fail`."""
    written, before = io.StringIO(), structlog.get_config()
    log.configure(written, lambda text: "".join("*" for _ in text))
    with structlog.contextvars.bound_contextvars(stage="config", release="v1"):
        structlog.get_logger().error("boot.failed")
    structlog.configure(**before)
    told = json.loads(written.getvalue())
    assert (told["event"], told["level"], told["stage"], told["release"]) == ("boot.failed", "error", "config", "**")
    assert re.fullmatch(r"[\d-]+T[\d:.]+Z", told["timestamp"])


def test_what_is_no_text_is_hidden_as_it_is_written(stream: io.StringIO) -> None:
    """A password in the journal, as an event was given an exception or a path and not its text."""
    log.configure(stream, lambda text: text.replace("hunter2", "***"))
    given = {"error": ValueError("hunter2"), "path": Path("/hunter2"), "none": None, "yes": True, "number": 2.5}
    structlog.get_logger().info("x", **given)
    told = json.loads(stream.getvalue())
    assert [told[name] for name in given] == ["***", "/***", None, True, 2.5]
