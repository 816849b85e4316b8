"""The widened pair: its own ids as they were, the further ones rarer variants, both models alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import wide_pair
from benchmarks.demo import PAIR
from benchmarks.prompts import PROMPTS
from device_runtime.protocol.errors import TandemError
from edge_server.facts import read_tokens

NUM_IDS, OWN_IDS = 9000, 8192


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both models, widened once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wide_pair, "CACHE", tmp_path_factory.mktemp("wide"))
        patch.setattr(wide_pair, "FITTED_TOKENS", 12)
        patch.setattr(wide_pair, "PROMPTS", PROMPTS[:6])
        return {name: wide_pair.wide_checkpoint(name, NUM_IDS) for name in ("llm", "slm")}


@torch.no_grad()
def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows: torch.Tensor = model(input_ids=torch.tensor([ids])).logits[0]
    return rows


def test_own_ids_keep_their_logits_and_further_ones_are_rarer(folders: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(PAIR / "llm")
    ids = tokenizer.encode("Once upon a time there was a king who had three daughters")
    for name, folder in folders.items():
        wide, own = logits(folder, ids), logits(PAIR / name, ids)
        torch.testing.assert_close(wide[:, :OWN_IDS], own)
        mass = wide.softmax(-1)[:, OWN_IDS:].sum(-1)
        assert (mass > 0).all() and (mass < 0.3).all()


def test_both_models_widen_the_same_parents(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
        table = model.get_input_embeddings().weight
        parents = [(table[:OWN_IDS] == row).all(-1).nonzero()[0, 0].item() for row in table[-5:]]
        if name == "llm":
            expected = parents
    assert parents == expected


def test_the_tokenizer_names_every_id(folders: dict[str, Path]) -> None:
    tokens = {name: read_tokens(folder) for name, folder in folders.items()}
    assert len(tokens["llm"]) == NUM_IDS
    assert tokens["llm"] == tokens["slm"]
    assert tokens["llm"][:OWN_IDS] == read_tokens(PAIR / "llm")


def test_fewer_ids_than_the_pair_has_are_refused() -> None:
    with pytest.raises(TandemError, match="the demo pair has 8192 already"):
        wide_pair.wide_checkpoint("llm", 8000)
