"""The files that other projects' runtimes read, from one checkpoint; runs under the peers' Python.

`python -m benchmarks.device.peer_models genai|genai-64|genai-128|gguf CHECKPOINT WEIGHTS OUT`
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np


def write_genai(checkpoint: Path, weights: str, out: Path, block_size: int = 32) -> None:
    """onnxruntime-genai's own model builder for CPUs: symmetric blocks, of 32 unless told, level 4."""
    from onnxruntime_genai.models.builder import create_model

    options: dict[str, Any] = {}
    if weights == "int4":
        options = {
            "int4_accuracy_level": 4, "int4_block_size": block_size, "int4_is_symmetric": True,
        }  # fmt: skip
    with tempfile.TemporaryDirectory() as cache:
        create_model("", str(checkpoint), str(out), weights, "cpu", cache, **options)


def write_gguf(checkpoint: Path, weights: str, out: Path) -> None:
    """A GGUF file with every matrix in Q4_0, Q8_0 or float32, embedding and head included.

    llama.cpp's own tool keeps the embedding of a Q4_0 model at 6 bits; 4 make it faster here.
    """
    import gguf
    from safetensors import safe_open

    config = json.loads((checkpoint / "config.json").read_text())
    kinds = {"fp32": "F32", "int8": "Q8_0", "int4": "Q4_0"}
    kind = gguf.GGMLQuantizationType[kinds[weights]]
    writer = gguf.GGUFWriter(out, config["model_type"])
    _write_head(writer, config)
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[config["model_type"].upper()], config["num_hidden_layers"]
    )
    with safe_open(checkpoint / "model.safetensors", framework="np") as file:
        for name in file.keys():  # noqa: SIM118 -- a safe_open is no mapping
            values = file.get_tensor(name).astype(np.float32)
            target = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if values.ndim == 2:
                packed = gguf.quants.quantize(values, kind)
                writer.add_tensor(target, packed, raw_dtype=kind)
            else:
                writer.add_tensor(target, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_head(writer: Any, config: dict[str, Any]) -> None:
    """Sizes, and no vocabulary: ids go in and logits come out."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")


WRITERS: dict[str, Callable[[Path, str, Path], None]] = {
    "genai": write_genai,
    "genai-64": partial(write_genai, block_size=64),
    "genai-128": partial(write_genai, block_size=128),
    "gguf": write_gguf,
}

if __name__ == "__main__":
    WRITERS[sys.argv[1]](Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
