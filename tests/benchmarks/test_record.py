"""Results: what is written is read back, and what breaks the schema is refused with its place."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.record import (
    SCHEMA_VERSION,
    Record,
    RecordError,
    append,
    merge,
    read,
    require_same_machine,
    write,
)
from benchmarks.record_keys import REGISTRY, SECTIONS, Key

MACHINE = {"cpu_model": "Cortex-A76", "num_cpus": 4, "git_commit": "0f" * 20, "load_1min": 0.5}
VALUES = {
    "scheme": "dssd-thinned",
    "gamma": 4,
    "temperature": 1.0,
    "token_ids": (5, 0, 17),
    "text": "ein Märchen\nhalf a character: \udc80",
    "alpha": 0.75,
    "ttft_s": 0.25,
}


def record(**changes: Any) -> Record:
    """A good record; a change of None leaves the value out."""
    return Record.of("demo", MACHINE, {**VALUES, **changes})


def broken(change: dict[str, Any]) -> str:
    """The line of a good record with other top-level keys."""
    return json.dumps({**json.loads(record().to_line()), **change})


def test_values_go_to_the_section_that_the_registry_names() -> None:
    made = record(link=None)
    assert made.settings == {"scheme": "dssd-thinned", "gamma": 4, "temperature": 1.0}
    assert set(made.results) == {"token_ids", "text", "alpha", "ttft_s"}
    assert made.machine == MACHINE


def test_a_record_survives_the_file(tmp_path: Path) -> None:
    records = [record(), record(gamma=8, alpha=1), Record("x", {}, {}, {}, repeat=3)]
    path = tmp_path / "results.jsonl"
    append(path, [Record.of("demo", MACHINE, {}, is_warmup=True)])
    append(path, records[:2])
    assert read(path) == [Record.of("demo", MACHINE, {}, is_warmup=True), *records[:2]]
    write(path, records[2:])
    assert read(path) == records[2:]
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]


def test_every_line_stands_alone_and_carries_the_version(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append(path, [record(), record()])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["schema_version"] for line in lines] == [SCHEMA_VERSION] * 2


@given(
    gamma=st.integers(min_value=0),
    wall_s=st.floats(min_value=0, allow_infinity=False),
    text=st.text(),
    repeat=st.integers(min_value=0),
    is_warmup=st.booleans(),
)
def test_any_good_record_equals_its_own_line_read(
    gamma: int, wall_s: float, text: str, repeat: int, is_warmup: bool
) -> None:
    values = {"gamma": gamma, "wall_s": wall_s, "text": text}
    made = Record.of("bench", MACHINE, values, repeat=repeat, is_warmup=is_warmup)
    assert Record.from_line(made.to_line()) == made
    assert "\n" not in made.to_line()


def test_a_whole_number_is_a_good_float() -> None:
    assert record(wall_s=2).results["wall_s"] == 2.0
    assert record(wall_s=np.float64(2)).to_line() == record(wall_s=2).to_line()


def test_a_record_cannot_be_changed() -> None:
    made = record()
    with pytest.raises(TypeError, match="does not support item assignment"):
        made.results["alpha"] = 1.0  # type: ignore[index]
    with pytest.raises(AttributeError):
        made.repeat = 1  # type: ignore[misc]


def test_a_record_does_not_follow_the_mapping_it_was_made_from() -> None:
    results = {"alpha": 0.5}
    made = Record("demo", {}, {}, results)
    results["alpha"] = 7.0
    assert made.results["alpha"] == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tftt_s": 1.0}, "unknown key 'tftt_s'"),
        ({"alpha": 1.01}, "alpha is 1.01, which is out of range in 1"),
        ({"alpha": "0.5"}, "alpha is '0.5', expected float"),
        ({"ttft_s": -0.1}, "ttft_s is -0.1, which is out of range in s"),
        ({"ttft_s": math.nan}, "ttft_s is nan"),
        ({"wall_s": math.inf}, "wall_s is inf"),
        ({"rounds": 1.0}, "rounds is 1.0, expected int"),
        ({"rounds": True}, "rounds is True, expected int"),
        ({"rounds": np.int64(1)}, r"rounds is np.int64\(1\), expected int"),
        ({"lossless": 1}, "lossless is 1, expected bool"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"top_p": -0.5}, "top_p is -0.5"),
        ({"token_ids": 5}, "token_ids is 5, expected a list of int"),
        ({"token_ids": "5"}, "token_ids is '5', expected a list of int"),
        ({"token_ids": [1, -1]}, "token_ids is -1"),
        ({"token_ids": [1, 2.0]}, "token_ids is 2.0, expected int"),
    ],
)
def test_a_bad_value_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=f"^{message}"):
        record(**values)


def test_a_key_in_the_wrong_section_is_refused() -> None:
    with pytest.raises(RecordError, match="'alpha' belongs to results, not to settings"):
        Record("demo", {}, {"alpha": 0.5}, {})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not JSON"),
        ("[1]", "schema version None"),
        (record().to_line()[:-3], "not JSON"),
        (record().to_line().replace("0.25", "NaN"), "not JSON"),
        (broken({"schema_version": SCHEMA_VERSION + 1}), "schema version 2, this program reads 1"),
        (broken({"colour": "red"}), "missing or unknown keys: colour"),
        (broken({"bench": ""}), "bench is '', expected a name"),
        (broken({"repeat": -1}), "repeat is -1, expected a count"),
        (broken({"repeat": True}), "repeat is True, expected a count"),
        (broken({"is_warmup": 0}), "is_warmup is 0, expected true or false"),
        (broken({"machine": []}), "machine is list"),
        (broken({"results": {"colour": 1}}), "unknown key 'colour'"),
    ],
)
def test_a_bad_line_is_refused_with_file_and_number(
    line: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{record().to_line()}\n{line}\n", encoding="utf-8")
    with pytest.raises(RecordError, match=f"results.jsonl, line 2: {message}"):
        read(path)


DECIDING = [
    (name, {str: "other", int: 99, bool: True}[key.kind])
    for name, key in REGISTRY.items()
    if key.must_agree
]


@pytest.mark.parametrize(("name", "other"), DECIDING, ids=[name for name, _ in DECIDING])
def test_results_of_different_machines_do_not_merge(
    name: str, other: object, tmp_path: Path
) -> None:
    here, there = record(), Record.of("demo", {**MACHINE, name: other}, VALUES)
    with pytest.raises(RecordError, match=f"^{name} differs: "):
        merge([here], [here, there])
    path = tmp_path / "results.jsonl"
    append(path, [here])
    with pytest.raises(RecordError, match=f"^{name} differs: "):
        append(path, [there])
    assert read(path) == [here]


def test_results_of_the_same_machine_merge_in_order() -> None:
    busier = Record.of("demo", {**MACHINE, "load_1min": 3.0, "date": "2026-01-01"}, VALUES)
    assert merge([record()], [], [busier]) == [record(), busier]
    require_same_machine([])


def test_nothing_is_added_to_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f"{record().to_line()}\n{record().to_line()}", encoding="utf-8")
    with pytest.raises(RecordError, match="its last line is cut off"):
        append(path, [record()])


RATES = ("1/s", "tokens/s", "bytes/s")
UNIT_MARKS = {"s": "s", "J": "j", "W": "w", "bit/s": "bps", "Hz": "hz"}


@pytest.mark.parametrize(("name", "key"), REGISTRY.items(), ids=list(REGISTRY))
def test_a_key_carries_its_unit_in_its_name(name: str, key: Key) -> None:
    assert key.section in SECTIONS
    assert key.meaning
    assert key.unit in {"", "1", "tokens", "bytes", *RATES, *UNIT_MARKS}
    assert (key.unit in RATES) == name.endswith("_per_s")
    words = name.partition("_per_")[0].split("_")
    if key.unit == "bytes":  # bytes_up, memory_bytes, wire_bytes_per_token
        assert "bytes" in words
    elif key.unit in UNIT_MARKS:
        assert words[-1] == UNIT_MARKS[key.unit]
    is_name = key.kind in (str, bool) or (words[-1] == "ids" and words[0] != "num")
    assert (key.unit == "") == is_name


def test_a_table_is_utf_8_wherever_it_is_written(tmp_path: Path) -> None:
    """Of a locale that has no µ, such as a slim container's, too."""
    code = (
        "from benchmarks.record import keep; from pathlib import Path; "
        "keep(Path(), [], '12 \\u00b5s \\u2265')"
    )
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    root = str(Path(__file__).parents[2])
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**ascii_only, "PYTHONPATH": root},
        check=True,
    )
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == "12 µs ≥\n"
