"""The file of measurements: found again, never half written, never trusted blindly."""

from __future__ import annotations

import errno
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from device_runtime.measured_file import (
    MAX_KEPT,
    Memory,
    cache_folder,
    load,
    measured_path,
    save,
)
from tests.device_runtime.test_measured import MEASURED

OTHER = replace(MEASURED, scheme="coupled", draft_s=None)


def test_what_was_added_is_there_in_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "measured.json"
    memory = Memory.open(path)
    assert memory.history == []
    memory.add(MEASURED)
    memory.add(OTHER)
    assert Memory.open(path).history == memory.history == [MEASURED, OTHER]
    assert [entry.name for entry in path.parent.iterdir()] == ["measured.json"]


def test_a_memory_without_a_file_writes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    memory = Memory()
    memory.add(MEASURED)
    assert memory.history == [MEASURED] and list(tmp_path.iterdir()) == []


def test_the_oldest_go_first(tmp_path: Path) -> None:
    memory = Memory(path=tmp_path / "measured.json")
    for number in range(MAX_KEPT + 5):
        memory.add(replace(MEASURED, accepted=number))
    kept = load(tmp_path / "measured.json")
    assert [measured.accepted for measured in kept] == list(range(5, MAX_KEPT + 5))


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"version": 1}',
        b'{"version": 2, "generations": []}', b'{"version": 1, "generations": 7}',
        b'{"version": 1, "generations": [7]}', b'{"version": 1, "generations": [{}]}',
        b"[" * 60_000,
    ],
)  # fmt: skip
def test_a_damaged_file_counts_as_none_and_is_replaced(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "measured.json"
    path.write_bytes(damage)
    memory = Memory.open(path)
    assert memory.history == []
    memory.add(MEASURED)
    assert load(path) == [MEASURED]


def test_every_cut_of_a_file_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    save(path, [MEASURED, OTHER])
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        assert load(path) == []


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"version": 1, "generations": [MEASURED.to_values()] * 1000}))
    assert load(path) == []


def test_a_folder_that_takes_no_files_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    memory = Memory.open(tmp_path / "file" / "measured.json")
    memory.add(MEASURED)
    assert memory.history == [MEASURED]


def test_a_full_disk_keeps_what_was_there_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "measured.json"
    save(path, [MEASURED])

    def write_half(draft: Path, text: str, **_: str) -> None:
        draft.write_bytes(text.encode()[:40])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_half)
    save(path, [MEASURED, OTHER])
    assert load(path) == [MEASURED] and list(tmp_path.iterdir()) == [path]


def test_the_folder_is_the_users_own(tmp_path: Path) -> None:
    save(tmp_path / "tandem" / "measured.json", [MEASURED])
    assert stat.S_IMODE((tmp_path / "tandem").stat().st_mode) == 0o700


def test_edge_and_bundle_have_a_file_each_whose_name_tells_neither() -> None:
    paths = {
        measured_path(Path("/c"), url, {"model.onnx": digest})
        for url in ("http://edge:1", "http://edge:2")
        for digest in ("00", "01")
    }
    assert len(paths) == 4
    assert all("edge" not in path.name and path.parent == Path("/c") for path in paths)
    assert measured_path(Path("/c"), "http://edge:1", {"model.onnx": "00"}) in paths


def test_the_cache_folder_follows_the_users_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/tandem")
    for useless in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert cache_folder().is_relative_to(Path.home())


def test_the_file_holds_numbers_and_names_of_schemes_alone(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    save(path, [MEASURED])
    (values,) = json.loads(path.read_text())["generations"]
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    assert texts == {"scheme": "dssd-thinned", "sampling": "T=0.8 k=0 p=1 m=0"}
