"""How the edge logs: one line an event, as text or as JSON, with the number of the request.

Lines name requests and sessions by number. They never hold prompts, answers or bearer tokens.
"""

from __future__ import annotations

import json
import logging
import traceback
from contextvars import ContextVar
from datetime import datetime, timezone

from edge_server.failures import describe

LOG_FORMATS = ("text", "json")

REQUEST: ContextVar[int] = ContextVar("request", default=0)
"""Number of the HTTP request, which may have become a WebSocket, that a line belongs to."""
SESSION: ContextVar[int] = ContextVar("session", default=0)
"""Number of the device's session; 0 if it belongs to none."""


class TextLines(logging.Formatter):
    """Level, logger and message.

    Of an exception its type and places are given, not its text, which may hold what a client sent: a
    header that aiohttp cannot read, say, with the bearer token in it.
    """

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        line = super().formatMessage(record)
        error = record.exc_info[1] if record.exc_info else None
        return line if error is None else f"{line}: {describe(error)}"

    def formatException(self, ei: object) -> str:  # noqa: N802 -- logging's name
        return ""  # the line has it


class JsonLines(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, message, request, session.

    Of an exception as in `TextLines`.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        numbers = {"request": REQUEST.get(), "session": SESSION.get()}
        line |= {name: number for name, number in numbers.items() if number}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = type(record.exc_info[1]).__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["places"] = [f"{frame.filename}:{frame.lineno}" for frame in frames]
        return json.dumps(line, ensure_ascii=False)


def format_in_use() -> str:
    """Of the root logger's handlers, as `use_format` takes it."""
    handlers = logging.getLogger().handlers
    return "json" if any(isinstance(h.formatter, JsonLines) for h in handlers) else "text"


def use_format(name: str) -> None:
    """Let all handlers of the root logger write this format."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines() if name == "json" else TextLines())
