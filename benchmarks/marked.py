"""A part of a document that a command writes: between two comments that name the command."""

from __future__ import annotations

from pathlib import Path

from device_runtime.protocol.errors import TandemError


def replace_marked(path: Path, mark: str, body: str) -> None:
    """Put `body` between `<!-- mark -->` and `<!-- end of mark -->`."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    text = path.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise TandemError(f"{path}: expected one line {begin!r}, and after it one line {end!r}")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}", encoding="utf-8")
