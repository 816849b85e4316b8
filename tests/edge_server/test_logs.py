"""Lines of the log as JSON."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from edge_server.logs import REQUEST, SESSION, JsonLines, use_format

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


def test_text_leaves_the_handlers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    use_format("text")
    assert handler.formatter is None
    use_format("json")
    assert isinstance(handler.formatter, JsonLines)
