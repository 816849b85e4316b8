"""The manifest as a stranger may have written it: a good one, or one sentence about what is wrong."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.protocol.errors import BundleError
from device_runtime.protocol.manifest import FORMAT_VERSION, Manifest

HASH = "0123456789abcdef" * 4
GOOD: dict[str, Any] = {
    "format_version": FORMAT_VERSION,
    "source": "owner/name@0123abc",
    "architecture": "llama",
    "graph": "fused",
    "weights": "int4",
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_size": 16,
    "vocab_size": 320,
    "context_len": 64,
    "bos_token_id": None,
    "end_token_ids": [0, 2],
    "cache_dtype": "float32",
    "logits_dtype": "float16",
    "input_ids_name": "input_ids",
    "attention_mask_name": "attention_mask",
    "position_ids_name": None,
    "last_position_name": "last_position",
    "num_positions_name": "num_positions",
    "logits_name": "logits",
    "past_key_pattern": "past_key_values.%d.key",
    "past_value_pattern": "past_key_values.%d.value",
    "present_key_pattern": "present.%d.key",
    "present_value_pattern": "present.%d.value",
    "files": {"model.onnx": HASH, "weights/part-1.bin": HASH},
    "tool_versions": {"torch": "2.6.0"},
}

WRONG: dict[str, list[Any]] = {
    "format_version": [float(FORMAT_VERSION)],
    "source": [None, 3],
    "architecture": ["", 7, "a" * 256, "ll\x1bama"],
    "graph": [None, []],
    "weights": [4],
    "num_layers": [0, -1, 1025, "2", 2.0, True, None],
    "num_heads": [0, 10**9, [4]],
    "num_kv_heads": [0, False],
    "head_size": [0, 16.5],
    "vocab_size": [0, 1 << 25, "320"],
    "context_len": [0, 1, 10**30],
    "bos_token_id": [-1, "0", 1 << 24],
    "end_token_ids": [None, 0, "02", ["0"], [-1], [1.0], {"0": 1}],
    "cache_dtype": ["float64", None, ["float32"]],
    "logits_dtype": ["int8", 32],
    "input_ids_name": [None, "", "\ud800"],
    "attention_mask_name": ["", 1],
    "position_ids_name": [False],
    "last_position_name": [""],
    "num_positions_name": [2],
    "logits_name": [{}],
    "past_key_pattern": ["past", "%d.%d", "%s", "%999999999d", "%%d", "%d%", None, 1],
    "past_value_pattern": ["%(layer)d"],
    "present_key_pattern": [""],
    "present_value_pattern": ["%x.%d"],
    "files": [
        None, [], {"": HASH}, {"../model.onnx": HASH}, {"/model.onnx": HASH}, {"a\0": HASH},
        {"a" * 256: HASH}, {"a\ud800": HASH}, {"model.onnx": HASH[1:]}, {"model.onnx": None},
        {"model.onnx": HASH.upper()}, {"a//b": HASH}, {"a/./b": HASH},
    ],
    "tool_versions": [None, {"torch": 2.6}, {"torch": ""}, "torch"],
}  # fmt: skip


def complaint(data: Any) -> str:
    """The sentence with which this content is refused."""
    with pytest.raises(BundleError) as error:
        Manifest.parse(data, "some/manifest.json")
    return str(error.value)


def is_a_sentence(text: str) -> bool:
    return text.isprintable() and text.isascii() and len(text) < 500


def test_a_good_manifest_comes_back_from_its_text() -> None:
    manifest = Manifest.parse(GOOD, "here")
    assert manifest.end_token_ids == (0, 2)
    assert Manifest.parse(json.loads(manifest.to_json()), "there") == manifest
    assert isinstance(GOOD["end_token_ids"], list)  # what was handed in is as it was


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_value_of_the_wrong_type_or_range_is_named(name: str, value: Any) -> None:
    text = complaint(GOOD | {name: value})
    assert f"gives {name} as " in text
    assert "export the model again" in text
    assert is_a_sentence(text)


def test_every_field_has_its_rule() -> None:
    assert {field.name for field in fields(Manifest)} == GOOD.keys() == WRONG.keys()


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_missing_key_is_named(name: str) -> None:
    text = complaint({key: value for key, value in GOOD.items() if key != name})
    assert name.replace("_", " ") in text.replace("_", " ")


def test_unknown_keys_are_named_but_never_all_of_them() -> None:
    text = complaint(GOOD | {f"key\x1b{i}": 0 for i in range(1000)})
    assert "key\\x1b0" in text
    assert is_a_sentence(text)


@pytest.mark.parametrize("version", [None, 1, True, "2", [[2]], {"a": "\x1b[2J"}])
def test_another_version_is_named(version: Any) -> None:
    text = complaint(GOOD | {"format_version": version})
    assert "format version" in text
    assert is_a_sentence(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(json_values | st.dictionaries(st.sampled_from([*GOOD, "x"]), json_values).map(GOOD.__or__))
def test_any_json_is_a_manifest_or_one_sentence(data: Any) -> None:
    refusal, manifest = None, None
    try:
        manifest = Manifest.parse(data, "here")
    except BundleError as error:
        refusal = str(error)
    if manifest is None:
        assert is_a_sentence(refusal or "")
        return
    # What passed can be used: names fill in, files can be looked for, sizes are no surprise.
    for pattern in (manifest.past_key_pattern, manifest.present_value_pattern):
        assert len(pattern % 0) < 300
    assert not any(Path("nowhere", name).is_file() for name in manifest.files)
    assert manifest.num_layers * manifest.num_kv_heads * manifest.head_size > 0
    assert Manifest.parse(json.loads(json.dumps(data)), "here") == manifest
