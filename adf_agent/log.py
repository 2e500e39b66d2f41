"""Operations, not chat: an event and its keys, one JSON object a line, or coloured text on a terminal."""

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import structlog

from adf_agent import mask

Hide = Callable[[str], str]  # what a text is shown as
OURS = {"event", "level", "stage", "timestamp"}  # our own words, by which a log is searched: no secret garbles them


def configure(stream: TextIO, hide: Hide = mask.urls) -> None:
    """Sends every event to *stream*, with what is bound by `structlog.contextvars`: instance, release and stage.

    Each text goes through *hide*, but for our own words.
    """
    render = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if stream.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _stacked,
            lambda _, __, event: {key: value if key in OURS else _masked(value, hide) for key, value in event.items()},
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(stream),
    )


def _stacked(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """An exception as where it came from; its own text may hold anything, a secret too, and stays out."""
    given = event.pop("exc_info", None)
    if error := sys.exc_info()[1] if given is True else given:
        event["exception"] = "\n".join(_chain(error))
    return event


def _chain(error: BaseException | None) -> Iterator[str]:
    """The stack of *error*, and of what led to it; a retry's last error may be its own cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__qualname__}"
        error = error.__cause__ or error.__context__


def _masked(value: Any, hide: Hide) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, dict):
        return {key: _masked(part, hide) for key, part in value.items()}
    return [_masked(part, hide) for part in value] if isinstance(value, list | tuple) else hide(str(value))
