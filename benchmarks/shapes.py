"""Random checkpoints of well-known shapes: `python -m benchmarks.shapes SHAPE FOLDER`.

Speed and memory depend on the shape of a model and not on what it has learnt, so boards can be
measured where no model hub can be reached. The text such a model writes is noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "model_type": "llama",
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1_536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8_192,
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4_864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
    },
}
"""Configs by the name of the model whose shape they have."""


def write_checkpoint(shape: str, folder: Path, seed: int = 0) -> Path:
    """Random float16 weights, config and a byte-level tokenizer; returns the folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    auto: Any = AutoModelForCausalLM
    config = AutoConfig.for_model(**SHAPES[shape], bos_token_id=0, eos_token_id=0)
    auto.from_config(config, dtype=torch.float16).save_pretrained(folder)
    tokens = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: id_ for id_, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    return folder


def main() -> None:
    """Write one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    write_checkpoint(args.shape, args.folder)


if __name__ == "__main__":
    main()
