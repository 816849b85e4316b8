from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.marked import replace_marked
from device_runtime.protocol.errors import TandemError


def test_only_what_stands_between_the_marks_changes(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n")
    for _ in range(2):
        replace_marked(path, "x", "new")
        assert path.read_text() == "before\n<!-- x -->\n\nnew\n\n<!-- end of x -->\nafter\n"


@pytest.mark.parametrize(
    "text",
    ["", "<!-- x -->", "<!-- end of x --><!-- x -->", "<!-- x --><!-- x --><!-- end of x -->"],
)
def test_a_page_without_the_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(TandemError, match="expected one line"):
        replace_marked(path, "x", "new")
    assert path.read_text() == text
