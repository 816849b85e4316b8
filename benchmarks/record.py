"""The one format of results: JSON lines, each with what was measured, how, and on which machine.

Every key is in REGISTRY (`benchmarks.record_keys`) with its unit and its check; a key that is not
there is refused, on writing and on reading. A value that does not apply is left out.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.record_keys import REGISTRY, SECTIONS, Key, Section
from device_runtime.protocol.errors import TandemError

SCHEMA_VERSION = 1
# Schema history. A new key keeps the version; a key that goes or changes its meaning raises it.
#   1 (0.1.0): bench, repeat, is_warmup, machine, settings, results.

RESULTS_FILE = "results.jsonl"
TABLE_FILE = "table.md"
"""In the folder of a bench."""

HEAD: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "bench": (lambda value: isinstance(value, str) and value != "", "a name"),
    "repeat": (lambda value: type(value) is int and value >= 0, "a count from 0"),
    "is_warmup": (lambda value: isinstance(value, bool), "true or false"),
}
"""What a record holds beside its sections: the check, and what is expected in words."""


def results_file(path: Path) -> Path:
    """The file of results that a file, or a bench's folder, stands for."""
    return path / RESULTS_FILE if path.is_dir() else path


class RecordError(TandemError, ValueError):
    """A result breaks the schema, or results of different machines meet; the message says where."""


@dataclass(frozen=True, slots=True)
class Record:
    """One measurement. Every repeat is a record of its own; values are checked when it is made."""

    bench: str
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    results: Mapping[str, Any]
    repeat: int = 0
    is_warmup: bool = False
    """Kept, but outside every summary."""

    def __post_init__(self) -> None:
        for name, (check, expected) in HEAD.items():
            if not check(getattr(self, name)):
                raise RecordError(f"{name} is {getattr(self, name)!r}, expected {expected}")
        for section in SECTIONS:
            checked = _checked(section, getattr(self, section))
            object.__setattr__(self, section, MappingProxyType(checked))

    @classmethod
    def of(
        cls,
        bench: str,
        machine: Mapping[str, Any],
        values: Mapping[str, Any],
        *,
        repeat: int = 0,
        is_warmup: bool = False,
    ) -> Record:
        """Sort settings and results by the registry; None stands for a value that is left out."""
        parts: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for name, value in values.items():
            if value is not None:
                parts[_known(name).section][name] = value
        facts = {**machine, **parts["machine"]}
        return cls(bench, facts, parts["settings"], parts["results"], repeat, is_warmup)

    @classmethod
    def from_line(cls, line: str) -> Record:
        """Parse and check one line of a file."""
        try:
            data = json.loads(line, parse_constant=_no_constant)
        except ValueError as error:
            raise RecordError(f"not JSON ({error}); a line cut off can be deleted") from None
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise RecordError(f"schema version {version}, this program reads {SCHEMA_VERSION}")
        wrong = sorted(data.keys() ^ {"schema_version", *HEAD, *SECTIONS})
        if wrong:
            raise RecordError(f"missing or unknown keys: {', '.join(wrong)}")
        del data["schema_version"]
        return cls(**data)

    def to_line(self) -> str:
        """One line of JSON without its end."""
        head = {name: getattr(self, name) for name in HEAD}
        parts: dict[str, Any] = {section: dict(getattr(self, section)) for section in SECTIONS}
        data = {"schema_version": SCHEMA_VERSION, **head, **parts}
        return json.dumps(data, allow_nan=False)


def _known(name: str) -> Key:
    if name not in REGISTRY:
        raise RecordError(
            f"unknown key {name!r}: it is misspelt, newer than this program, or must be added to "
            "REGISTRY with its unit"
        )
    return REGISTRY[name]


def _checked(section: Section, values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise RecordError(f"{section} is {type(values).__name__}, expected keys with values")
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if _known(name).section != section:
            raise RecordError(f"{name!r} belongs to {REGISTRY[name].section}, not to {section}")
        checked[name] = _value(name, value)
    return checked


def _value(name: str, value: Any) -> Any:
    key = REGISTRY[name]
    if not key.is_series:
        return _scalar(name, key, value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RecordError(f"{name} is {value!r}, expected a list of {key.kind.__name__}")
    return tuple(_scalar(name, key, item) for item in value)


def _scalar(name: str, key: Key, value: Any) -> Any:
    if key.kind is float and type(value) is int:
        value = float(value)  # JSON does not tell 1 from 1.0
    is_flag = isinstance(value, bool)
    if not isinstance(value, key.kind) or is_flag != (key.kind is bool):
        raise RecordError(f"{name} is {value!r}, expected {key.kind.__name__}")
    finite = not isinstance(value, float) or math.isfinite(value)
    if not finite or not key.check(value):
        unit = f" in {key.unit}" if key.unit else ""
        raise RecordError(f"{name} is {value!r}, which is out of range{unit} ({key.meaning})")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def require_same_machine(records: Iterable[Record]) -> None:
    """RecordError where facts differ that decide the figures."""
    deciding = [name for name, key in REGISTRY.items() if key.must_agree]
    for first, second in pairwise(records):
        for name in deciding:
            ours, theirs = first.machine.get(name), second.machine.get(name)
            if ours != theirs:
                raise RecordError(
                    f"{name} differs: {ours!r} and {theirs!r}; results of different machines, "
                    "versions or commits go to files of their own and are compared, not merged"
                )


def merge(*groups: Iterable[Record]) -> list[Record]:
    """All records, in the order given; refused unless they come from the same machine."""
    records = [record for group in groups for record in group]
    require_same_machine(records)
    return records


def read(path: Path) -> list[Record]:
    """All records of a file; RecordError names the file and the line."""
    with path.open(encoding="utf-8") as file:
        return [_parsed(path, number, line) for number, line in enumerate(file, start=1)]


def write(path: Path, records: Iterable[Record]) -> None:
    """Replace the file, whole or not at all."""
    lines = _lines(merge(records))
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(lines, encoding="utf-8")
    draft.replace(path)


def keep(folder: Path, records: Iterable[Record], table: str) -> None:
    """Replace what a bench has found: its records, and its table in Markdown."""
    write(folder / RESULTS_FILE, records)
    (folder / TABLE_FILE).write_text(f"{table}\n", encoding="utf-8")


def append(path: Path, records: Iterable[Record]) -> None:
    """Add to the file or begin it; refused where the file holds another machine's records."""
    records = list(records)
    with path.open("a+", encoding="utf-8") as file:
        # Every line agrees with the first, so the first stands for all.
        file.seek(0)
        start = file.readline()
        earlier = [_parsed(path, 1, start)] if start else []
        require_same_machine([*earlier, *records])
        if start and not _ends_with_newline(path):
            raise RecordError(f"{path}: its last line is cut off; delete that line first")
        file.write(_lines(records))


def without_cut_line(path: Path) -> None:
    """Take away a last line that was cut off when its writer was killed."""
    with path.open("rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def _lines(records: Iterable[Record]) -> str:
    return "".join(f"{record.to_line()}\n" for record in records)


def _parsed(path: Path, number: int, line: str) -> Record:
    try:
        return Record.from_line(line)
    except RecordError as error:
        raise RecordError(f"{path}, line {number}: {error}") from None


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
