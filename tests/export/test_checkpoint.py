"""What is refused from a checkpoint's description and files alone, and what is read from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from export import checkpoint
from export.errors import ExportError
from tests.tiny_models import END, END_ID, tiny_tokenizer

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The least that is a checkpoint; each test spoils it in one way."""
    write(tmp_path, "config.json", CONFIG)
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    save_file({"a": np.zeros((3, 5), np.float16)}, tmp_path / "model.safetensors")
    return tmp_path


def write(folder: Path, name: str, data: object) -> None:
    (folder / name).write_text(json.dumps(data))


def refusal(folder: Path) -> str:
    """The one sentence with which the folder is refused."""
    with pytest.raises(ExportError) as caught:
        checkpoint.count_parameters(checkpoint.read(folder, "it").folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_plain_checkpoint_is_read(folder: Path) -> None:
    found = checkpoint.read(folder, "it")
    assert (found.source, found.model_type, found.bos_token_id) == ("it", "llama", 1)
    assert found.end_token_ids == (2,)
    assert found.chat_template is None
    assert checkpoint.count_parameters(folder) == 15


def test_end_tokens_come_from_the_generation_config_first(folder: Path) -> None:
    write(folder, "generation_config.json", {"eos_token_id": [7, 9, 7]})
    assert checkpoint.read(folder, "it").end_token_ids == (7, 9)


def test_the_tokenizers_own_end_token_comes_first(folder: Path) -> None:
    write(folder, "generation_config.json", {"eos_token_id": [7, END_ID]})
    write(folder, "tokenizer_config.json", {"eos_token": {"content": END}})
    assert checkpoint.read(folder, "it").end_token_ids == (END_ID, 7)


def test_a_checkpoint_may_have_no_end_token(folder: Path) -> None:
    write(folder, "config.json", {**CONFIG, "eos_token_id": None})
    assert checkpoint.read(folder, "it").end_token_ids == ()


def test_a_negative_id_stands_for_no_token(folder: Path) -> None:
    write(folder, "config.json", {**CONFIG, "bos_token_id": -1, "eos_token_id": [-1, 7]})
    found = checkpoint.read(folder, "it")
    assert (found.bos_token_id, found.end_token_ids) == (None, (7,))


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("one", "one"),
        ([{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        ([{"name": "tools", "template": "t"}], None),
        ({"tools": "t", "default": "d"}, "d"),
    ],
)
def test_the_chat_template_is_found_in_the_tokenizer_config(
    folder: Path, stated: object, expected: str | None
) -> None:
    write(folder, "tokenizer_config.json", {"chat_template": stated})
    assert checkpoint.read(folder, "it").chat_template == expected


def test_a_chat_template_file_wins(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {"chat_template": "old"})
    (folder / "chat_template.jinja").write_text("neü", encoding="utf-8")
    assert checkpoint.read(folder, "it").chat_template == "neü"


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "is not a checkpoint: it has no config.json" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_broken_config_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json" in refusal(folder)


def test_a_config_without_model_type_is_refused(folder: Path) -> None:
    write(folder, "config.json", {})
    assert "names no model_type" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "auto_map"),
        ({"attn_implementation": "evil/kernel"}, "attention kernel"),
        ({"transformers_weights": "pytorch_model.bin"}, "transformers_weights"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM, not a causal language model"),
        ({"architectures": ["LlamaModel"]}, "LlamaModel, not a causal language model"),
        (
            {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
            "reads more than text; give a checkpoint of text alone (of Gemma 3 that is 270M and 1B)",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantised"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "cannot be rolled back"),
    ],
)
def test_a_config_is_refused_for_what_it_asks(
    folder: Path, change: dict[str, Any], expected: str
) -> None:
    write(folder, "config.json", {**CONFIG, **change})
    assert expected in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"_attn_implementation": "sdpa"},
        {"attn_implementation": None},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"architectures": None},
        {"auto_map": {"AutoConfig": "spare.Config", "AutoModelForCausalLM": "spare.Model"}},
    ],
)
def test_harmless_settings_pass(folder: Path, change: dict[str, Any]) -> None:
    write(folder, "config.json", {**CONFIG, **change})
    checkpoint.read(folder, "it")


def test_an_adapter_is_refused(folder: Path) -> None:
    write(folder, "adapter_config.json", {"base_model_name_or_path": "somewhere/else"})
    assert "merge it into its base model" in refusal(folder)


def test_a_missing_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refusal(folder)


def test_a_broken_tokenizer_is_refused(folder: Path) -> None:
    write(folder, "tokenizer.json", {"model": {}})
    assert "tokenizer.json cannot be read" in refusal(folder)


def test_an_added_token_that_the_fast_tokenizer_lacks_is_refused(folder: Path) -> None:
    added = {"0": {"content": END}, "384": {"content": "<|im_end|>"}}
    write(folder, "tokenizer_config.json", {"added_tokens_decoder": added})
    assert "does not have the token <|im_end|> (id 384)" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_and_never_opened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert "has only pickled weights" in refusal(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)


@pytest.mark.parametrize("shard", ["pytorch_model-00001.bin", "../model.safetensors"])
def test_an_index_may_name_only_safetensors_beside_it(folder: Path, shard: str) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "pytorch_model-00001.bin").write_bytes(b"pickle")
    write(folder, "model.safetensors.index.json", {"weight_map": {"a": shard}})
    assert "only safetensors beside it" in refusal(folder)


@pytest.mark.parametrize("weight_map", [[], None, {"a": 3}, {"a": []}])
def test_a_malformed_index_is_told_as_such(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors").unlink()
    write(folder, "model.safetensors.index.json", {"weight_map": weight_map})
    words = f"{folder} is malformed: model.safetensors.index.json has a value of the wrong kind"
    assert refusal(folder).startswith(words)


def test_a_missing_shard_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    write(folder, "model.safetensors.index.json", {"weight_map": shards})
    assert "lacks model-2.safetensors of its weights (1 of 2 files)" in refusal(folder)


def test_damaged_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert "is damaged" in refusal(folder)
