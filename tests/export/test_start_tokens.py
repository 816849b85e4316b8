"""A bundle's texts begin as transformers has them begin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from device_runtime.tokenizer import Tokenizer
from export import bundle, checkpoint, start_tokens
from export.errors import ExportError
from tests.tiny_models import START_ID, tiny_tokenizer

LLAMA = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": True}


def configured(llama: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(llama, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def prompt(folder: Path, out: Path) -> list[int]:
    """What a device makes of a text with the bundle of this checkpoint."""
    found = checkpoint.read(folder, "it")
    start_tokens.settle(found)
    out.mkdir()
    bundle.write_tokenizer(found, out)
    return Tokenizer.open(out / "tokenizer.json").encode_prompt("hello there")


@pytest.mark.parametrize("add_bos_token", [True, False])
def test_texts_begin_as_tokenizer_config_says(
    llama: Path, tmp_path: Path, add_bos_token: bool
) -> None:
    folder = configured(llama, tmp_path / "m", **{**LLAMA, "add_bos_token": add_bos_token})
    load: Any = AutoTokenizer.from_pretrained
    wanted = load(folder)("hello there").input_ids
    assert (wanted[0] == START_ID) == add_bos_token
    assert prompt(folder, tmp_path / "out") == wanted


def test_only_what_stands_around_a_text_is_changed(llama: Path, tmp_path: Path) -> None:
    folder = configured(llama, tmp_path / "m", **LLAMA)
    prompt(folder, tmp_path / "out")
    before, after = (
        json.loads((place / "tokenizer.json").read_text()) for place in (folder, tmp_path / "out")
    )
    assert before.pop("post_processor") != after.pop("post_processor")
    assert before == after


def test_a_start_token_that_tokenizer_json_lacks_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = configured(llama, tmp_path / "m", **LLAMA, bos_token="<novel>")
    with pytest.raises(ExportError, match=r"makes other tokens of a text.*save_pretrained"):
        prompt(folder, tmp_path / "out")


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_class": "NovelTokenizer"},
        {"tokenizer_class": None, "auto_map": {"AutoTokenizer": ["novel.Slow", "novel.Fast"]}},
        {**LLAMA, "bos_token": None},
        {**LLAMA, "add_prefix_space": True},  # would need tokenizer.model
    ],
)
def test_a_class_that_does_not_load_changes_nothing(
    llama: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = configured(llama, tmp_path / "m", **changes)
    assert prompt(folder, tmp_path / "out") == tiny_tokenizer().encode("hello there").ids
