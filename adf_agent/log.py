"""Operations, not chat: an event and its keys, one JSON object a line, or coloured text on a terminal."""

import logging
from typing import TextIO

import structlog


def configure(stream: TextIO) -> None:
    """Sends every event to *stream*. Instance, release and stage are bound once, with `structlog.contextvars`."""
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
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(stream),
    )
