"""What the log makes of a fault that nobody expected."""

import io
import json
from collections.abc import Iterator

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
