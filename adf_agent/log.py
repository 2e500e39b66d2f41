"""Operations, not chat: an event and its keys, one JSON object a line, or coloured text on a terminal."""

import logging
from typing import Any, TextIO

import structlog

from adf_agent import mask


def configure(stream: TextIO) -> None:
    """Sends every event to *stream*, with what is bound by `structlog.contextvars`: instance, release and stage."""
    render = (
        structlog.dev.ConsoleRenderer()
        if stream.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _masked,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(stream),
    )


def _masked(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: mask.urls(value) if isinstance(value, str) else value for key, value in event.items()}
