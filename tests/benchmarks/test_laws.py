from __future__ import annotations

import pytest

from benchmarks import laws


def test_every_vocabulary_and_setting_gets_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(laws, "VOCABULARIES", (70, 130))
    assert laws.main(["--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 2 * len(laws.SETTINGS)
    assert all(line.count("/") == 3 for line in lines[1:-1])
