"""Lines of the log as JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from edge_server.logs import (
    LOG_FORMATS,
    REQUEST,
    SESSION,
    JsonLines,
    TextLines,
    format_in_use,
    use_format,
)

logger = logging.getLogger("edge_server.try")


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def only_line(out: io.StringIO) -> dict[str, Any]:
    (line,) = out.getvalue().splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_says_when_what_and_whose(out: io.StringIO) -> None:
    request, session = REQUEST.set(12), SESSION.set(3)
    logger.warning("draining %d\n“connections”", 2, extra={"fields": {"seconds": 0.5}})
    REQUEST.reset(request)
    SESSION.reset(session)
    line = only_line(out)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "edge_server.try",
        "message": "draining 2\n“connections”",
        "request": 12,
        "session": 3,
        "seconds": 0.5,
    }


def test_a_line_of_nobody_names_nobody(out: io.StringIO) -> None:
    logger.warning("hello")
    assert {"request", "session"}.isdisjoint(only_line(out))


def test_an_exception_shows_its_kind_and_places_but_not_its_text(out: io.StringIO) -> None:
    try:
        int("what somebody wrote")
    except ValueError:
        logger.exception("failed")
    line = only_line(out)
    assert line["exception"] == "ValueError"
    assert "test_logs.py" in line["places"][0]
    assert "somebody" not in out.getvalue()


def test_so_does_one_in_a_line_of_text(out: io.StringIO) -> None:
    logger.handlers[-1].setFormatter(TextLines())
    try:
        int("what somebody wrote")
    except ValueError:
        logger.exception("failed")
    (line,) = out.getvalue().splitlines()
    assert line.startswith("ERROR edge_server.try: failed: ValueError at ")
    assert "test_logs.py" in line
    assert "somebody" not in line


@pytest.mark.parametrize("name", LOG_FORMATS)
def test_all_handlers_write_the_format_of_that_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = [logging.StreamHandler(io.StringIO()) for _ in range(2)]
    monkeypatch.setattr(logging.getLogger(), "handlers", handlers)
    use_format(name)
    kind = {"text": TextLines, "json": JsonLines}[name]
    assert all(isinstance(handler.formatter, kind) for handler in handlers)
    assert format_in_use() == name
