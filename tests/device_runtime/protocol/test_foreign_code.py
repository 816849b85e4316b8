"""Which config.json would let code or weights in from elsewhere, and which only looks like it."""

from __future__ import annotations

from typing import Any

import pytest

from device_runtime.protocol.foreign_code import foreign_code

NATIVE = {"phi3", "llama"}
SPARE = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}


def reason(config: dict[str, Any]) -> str:
    return foreign_code(config, NATIVE.__contains__) or "safe"


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "phi3"},
        {"model_type": "phi3", "auto_map": SPARE},
        {"model_type": "phi3", "auto_map": {"AutoTokenizer": ["tokenizer.Slow", None], **SPARE}},
        {"model_type": "llama", "_attn_implementation": "sdpa"},
        {"model_type": "llama", "attn_implementation": None, "rope_scaling": {"type": "linear"}},
    ],
    ids=str,
)
def test_what_the_library_does_without_is_no_reason_to_refuse(config: dict[str, Any]) -> None:
    assert reason(config) == "safe"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "mine", "auto_map": SPARE}, "auto_map"),
        ({"auto_map": SPARE}, "auto_map"),
        ({"model_type": ["phi3"], "auto_map": SPARE}, "auto_map"),
        ({"model_type": "phi3", "auto_map": "modeling.Model"}, "auto_map"),
        ({"model_type": "phi3", "auto_map": {"AutoModelForCausalLM": 7}}, "auto_map"),
        # A part of a config may be made by another route, where its own code would be needed.
        ({"model_type": "phi3", "text_config": {"auto_map": SPARE}}, "auto_map"),
        ({"model_type": "phi3", "parts": [[{"model_type": "phi3", "auto_map": {}}]]}, "auto_map"),
        ({"model_type": "phi3", "auto_map": SPARE, "a": {"auto_map": SPARE}}, "auto_map"),
        ({"_attn_implementation_internal": "evil/kernel"}, "attention kernel"),
        ({"text_config": {"_attn_implementation_internal": "eager"}}, "attention kernel"),
        ({"attn_implementation": "evil/kernel"}, "attention kernel"),
        ({"_attn_implementation": {"": "evil/kernel"}}, "attention kernel"),
        ({"auto_map": SPARE, "model_type": "phi3", "attn_implementation": "a/b"}, "attention"),
        ({"transformers_weights": "pytorch_model.bin"}, "transformers_weights"),
    ],
    ids=str,
)
def test_what_would_let_code_or_weights_in_is_named(config: dict[str, Any], expected: str) -> None:
    assert expected in reason(config)
