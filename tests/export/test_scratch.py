"""What a killed export leaves behind goes with the next one; what another one holds stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from export.scratch import scratch

EXPORT = """
import sys
from pathlib import Path
from export.scratch import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "new" / "model.onnx").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


def beside(out: Path) -> list[Path]:
    return sorted(out.parent.iterdir())


def start(out: Path) -> tuple[subprocess.Popen[str], Path]:
    """An export to `out` that has begun; its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_folder_is_gone_at_the_end(tmp_path: Path) -> None:
    with scratch(tmp_path / "deep" / "out") as folder:
        assert [path.name for path in folder.iterdir()] == ["new"]
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_export_removes_what_a_killed_one_left_but_not_what_another_holds(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    with start(out)[0] as process:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (abandoned,) = beside(out)
    process, held = start(out)
    with process:
        assert not abandoned.exists()
        with scratch(out) as folder:
            assert beside(out) == sorted([held, folder])
        assert (held / "new" / "model.onnx").exists()
        process.communicate("")
    assert beside(out) == []


@pytest.mark.parametrize(
    ("name", "content", "goes"),
    [
        (".out.export-abcdefgh", ["new"], True),
        (".out.export-abcdefgh", ["old"], True),
        (".out.export-abcdefgh", ["new", "old"], False),  # neither was in its place
        (".out.export-abcdefgh", [], False),  # another export that has just begun
        (".out.export-abcdefgh", ["thesis"], False),
        (".other.export-abcdefgh", ["new"], False),
        (".out.abcdefgh", ["new"], False),
    ],
)
def test_only_what_is_surely_of_a_dead_export_goes(
    tmp_path: Path, name: str, content: list[str], goes: bool
) -> None:
    for part in content:
        (tmp_path / name / part).mkdir(parents=True)
    (tmp_path / name).mkdir(exist_ok=True)
    with scratch(tmp_path / "out"):
        assert (tmp_path / name).exists() != goes


def test_a_file_system_that_cannot_hold_folders_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: object) -> None:
        raise OSError(9, os.strerror(9))

    monkeypatch.setattr("fcntl.flock", refusing)
    (tmp_path / ".out.export-abcdefgh" / "new").mkdir(parents=True)
    with scratch(tmp_path / "out") as folder:
        assert beside(tmp_path / "out") == sorted([folder, tmp_path / ".out.export-abcdefgh"])
