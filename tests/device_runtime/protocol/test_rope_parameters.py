"""Configs as transformers 5 writes them, read with transformers 4: on the edge and at export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from device_runtime.protocol.rope_parameters import complete, longrope_limit
from edge_server.checkpoint import Checkpoint, CheckpointError
from edge_server.loading import load_model
from export import checkpoint as export_checkpoint
from export import convert
from export.errors import ExportError
from tests.tiny_models import save_checkpoint, tiny_model

pytestmark = pytest.mark.skipif(
    transformers.__version__ >= "5", reason="transformers 5 reads its own configs"
)

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # kind, what transformers 4 writes, what transformers 5 does
    "theta": (
        "llama",
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    "scaled": (
        "llama",
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
    ),
    "partial": (
        "gpt_neox",
        {"rotary_emb_base": 500, "rotary_pct": 0.5},
        {
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 500, "partial_rotary_factor": 0.5,
            }
        },
    ),
    "by layer": (
        "gemma3_text",
        {"rope_theta": 5e5, "rope_local_base_freq": 300.0, "rope_scaling": None},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            }
        },
    ),
}  # fmt: skip
OLD_KEYS = {
    "rope_theta", "rope_scaling", "rotary_emb_base", "rotary_pct", "rope_local_base_freq",
    "partial_rotary_factor",
}  # fmt: skip


def edit(folder: Path, more: dict[str, Any]) -> None:
    path = folder / "config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k not in OLD_KEYS}
    path.write_text(json.dumps(config | more))


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.arange(5, 125)[None]
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


@pytest.mark.parametrize("name", list(CASES))
def test_both_ends_turn_keys_as_the_checkpoint_s_maker_did(name: str, tmp_path: Path) -> None:
    kind, old, new = CASES[name]
    folder = save_checkpoint(tiny_model(kind), tmp_path / "m")
    edit(folder, {})
    load: Any = AutoModelForCausalLM.from_pretrained
    unaware = logits_of(load(folder, dtype=torch.float32, attn_implementation="eager"))
    edit(folder, old)
    wanted = logits_of(load(folder, dtype=torch.float32, attn_implementation="eager"))
    assert not torch.allclose(unaware, wanted, atol=1e-2)
    edit(folder, new)
    on_edge = load_model(Checkpoint.open(folder), torch.float32, torch.device("cpu"))
    on_edge.set_attn_implementation("eager")
    at_export = convert.load_model(export_checkpoint.read(folder, "m"))
    assert torch.equal(logits_of(on_edge), wanted)
    assert torch.equal(logits_of(at_export), wanted)


@pytest.mark.parametrize(
    "rope",
    [
        "default",
        {"full_attention": {"rope_theta": 5e5}, "sliding_attention": {"rope_theta": 1e4}},
        {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
        {"rope_type": "default", "rope_theta": {"deep": 1}, "more": {"a": 1}},
    ],
)
def test_what_the_old_version_has_no_words_for_is_refused(rope: Any, tmp_path: Path) -> None:
    folder = save_checkpoint(tiny_model("llama"), tmp_path / "m")
    edit(folder, {"rope_parameters": rope})
    with pytest.raises(CheckpointError, match=r"rope_parameters.*install transformers 5"):
        load_model(Checkpoint.open(folder), torch.float32, torch.device("cpu"))
    with pytest.raises(ExportError, match=r"^m .*rope_parameters.*install transformers 5"):
        convert.load_model(export_checkpoint.read(folder, "m"))


def test_configs_of_the_old_version_are_left_as_they_are() -> None:
    config = tiny_model("llama").config
    before = config.to_dict()
    assert complete(config, {"rope_theta": 1.0}, transformers.__version__) is None
    assert config.to_dict() == before


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_longrope_ends_where_its_factors_change_however_it_is_written(key: str) -> None:
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 128}
    assert longrope_limit({key: rope}) == 128
    assert longrope_limit({key: {"rope_type": "yarn"}}) is None
    assert longrope_limit({key: "rubbish"}) is None
