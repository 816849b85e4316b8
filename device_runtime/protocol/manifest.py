"""What a bundle says about its model: written by export, read by the runtimes, checked by both."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from device_runtime.protocol.errors import BundleError
from device_runtime.protocol.sampling import MAX_TOKEN_ID

FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True)
class Manifest:
    """Facts of one exported model. Tensor name patterns hold `%d` for the layer."""

    format_version: int
    source: str
    """Folder name or hub id of the checkpoint, with its revision if it has one."""
    architecture: str
    """`model_type` of the checkpoint's config."""
    graph: str
    """`optimum` (cache grows by concatenation) or `fused` (one shared past/present buffer)."""
    weights: str
    """`fp32`, `fp16`, `int8`, `int8-dynamic` or `int4`."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    """Columns of the logits, padding included."""
    context_len: int
    """Positions the model was made for; a drafter goes on with half of them when they are full."""
    bos_token_id: int | None
    end_token_ids: tuple[int, ...]
    cache_dtype: str
    """`float32`, `float16` or `int8`."""
    logits_dtype: str
    input_ids_name: str
    attention_mask_name: str | None
    position_ids_name: str | None
    last_position_name: str | None
    """Of the newest token, from 0: int32 (1,)."""
    num_positions_name: str | None
    """How many there are with the new tokens: int32, a scalar."""
    logits_name: str
    past_key_pattern: str
    past_value_pattern: str
    present_key_pattern: str
    present_value_pattern: str
    files: dict[str, str]
    """Every other file of the bundle → its SHA-256."""
    tool_versions: dict[str, str]

    def to_json(self) -> str:
        """As it stands in the bundle's manifest.json; `parse` reads it again."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def parse(cls, data: Any, where: str) -> Manifest:
        """Check version, keys and types."""
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{where} has format version {_short(version)}, this runtime reads {FORMAT_VERSION}; "
                "export the model again with this version of Tandem"
            )
        if wrong := sorted(data.keys() ^ _RULES.keys()):
            raise BundleError(
                f"{where} has missing or unknown keys: {', '.join(map(_short, wrong[:5]))}; "
                "export the model again"
            )
        if (wrong_value := unfit(data)) is not None:
            raise BundleError(f"{where} gives {wrong_value}; export the model again")
        return cls(**{**data, "end_token_ids": tuple(data["end_token_ids"])})


def unfit(values: Mapping[str, Any]) -> str | None:
    """The first of a manifest's values that breaks its rule, in words; None where all are fit."""
    for name, value in values.items():
        rule = _RULES[name]
        if not rule.holds(value):
            return f"{name} as {_short(value)}, where {rule.expected} is expected"
    return None


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a value must be: in words, and as a test."""

    expected: str
    holds: Callable[[Any], bool]


def _whole(low: int, high: int) -> _Rule:
    def holds(value: Any) -> bool:
        return type(value) is int and low <= value <= high

    return _Rule(f"a whole number from {low} to {high}", holds)


def _one_of(*names: str) -> _Rule:
    return _Rule(" or ".join(names), lambda value: value in names)


def _or_null(rule: _Rule) -> _Rule:
    return _Rule(f"{rule.expected}, or null,", lambda value: value is None or rule.holds(value))


def _table(what: str, key: _Rule, entry: _Rule) -> _Rule:
    def holds(value: Any) -> bool:
        pairs = value.items() if isinstance(value, dict) else ((None, None),)
        return all(key.holds(k) and entry.holds(v) for k, v in pairs)

    return _Rule(what, holds)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT_LEN and value.isprintable()


def _is_pattern(value: Any) -> bool:
    return _is_text(value) and value.count("%") == value.count("%d") == 1


def _is_file_name(value: Any) -> bool:
    return _is_text(value) and _FILE_NAME.fullmatch(value) is not None


def _short(value: Any) -> str:
    """A value out of a stranger's file, as it may stand in a sentence on a terminal."""
    return reprlib.repr(value).encode("ascii", "backslashreplace").decode()


_MAX_TEXT_LEN = 255
_DIGEST = re.compile("[0-9a-f]{64}")
_FILE_NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)*", re.ASCII)
_TEXT = _Rule(f"a text of 1 to {_MAX_TEXT_LEN} characters", _is_text)
_PATTERN = _Rule("a name with one %d for the layer", _is_pattern)
_HASH = _Rule("a SHA-256", lambda value: _is_text(value) and bool(_DIGEST.fullmatch(value)))
_TOKEN_ID = _whole(0, MAX_TOKEN_ID)
_FLOATS = ("float32", "float16")

_RULES = {
    "format_version": _whole(FORMAT_VERSION, FORMAT_VERSION),
    "source": _Rule("a text", lambda value: isinstance(value, str)),
    "architecture": _TEXT,
    "graph": _TEXT,
    "weights": _TEXT,
    "num_layers": _whole(1, 1024),
    "num_heads": _whole(1, 4096),
    "num_kv_heads": _whole(1, 4096),
    "head_size": _whole(1, 4096),
    "vocab_size": _whole(1, MAX_TOKEN_ID + 1),
    "context_len": _whole(2, 1 << 31),
    "bos_token_id": _or_null(_TOKEN_ID),
    "end_token_ids": _Rule(
        "a list of token ids",
        lambda value: isinstance(value, (list, tuple)) and all(map(_TOKEN_ID.holds, value)),
    ),
    "cache_dtype": _one_of(*_FLOATS, "int8"),
    "logits_dtype": _one_of(*_FLOATS),
    "input_ids_name": _TEXT,
    "attention_mask_name": _or_null(_TEXT),
    "position_ids_name": _or_null(_TEXT),
    "last_position_name": _or_null(_TEXT),
    "num_positions_name": _or_null(_TEXT),
    "logits_name": _TEXT,
    "past_key_pattern": _PATTERN,
    "past_value_pattern": _PATTERN,
    "present_key_pattern": _PATTERN,
    "present_value_pattern": _PATTERN,
    "files": _table("names of files with their SHA-256", _Rule("", _is_file_name), _HASH),
    "tool_versions": _table("names with versions", _TEXT, _TEXT),
}
