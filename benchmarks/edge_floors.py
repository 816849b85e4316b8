"""`tandem bench edge --gpu-floors`: an 8B shape with random weights on a GPU against its floors.

One verify pass cannot be faster than its matrix products and one reading of the keys and values; both
are timed in the same run, with the same shapes and the same library. Beside it: committed tokens per
GPU second of the arms at a long context, the map, and the engine's logits in bf16 against fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.edge_map import Setting, best, costs, markdown, records, winners
from benchmarks.edge_passes import pass_s, pretend_read, random_engine, timed_s
from benchmarks.machine import collect
from benchmarks.record import Record
from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.errors import ConfigError
from edge_server.cache import num_blocks_for
from edge_server.engine import TorchEngine

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4_096,
    "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 131_072, "rope_theta": 500_000.0,
    "tie_word_embeddings": False,
}  # fmt: skip
"""The shape of Llama-3.1-8B (Meta, model card)."""
LLAMA_1B: dict[str, Any] = LLAMA_8B | {
    "hidden_size": 2_048, "intermediate_size": 8_192, "num_hidden_layers": 16,
    "head_dim": 64, "tie_word_embeddings": True,
}  # fmt: skip
"""The shape of Llama-3.2-1B, its draft model."""

SESSIONS, NEW, CONTEXT = 64, 5, 512
LONG_CONTEXT, LIMIT_S = 8_192, 0.05
MAX_RATIO, MIN_GAIN, MAX_LOGIT_ERROR = 1.35, 2.0, 0.05
"""What must be kept. The error is the largest of a logit, over the logits' standard deviation."""
_SPARE_BYTES = 6 << 30


def run(out: Path, console: Console) -> tuple[list[Record], str]:
    """Measure and compare with the floors; ConfigError without a GPU."""
    if not torch.cuda.is_available():
        raise ConfigError("--gpu-floors needs a CUDA device, and this machine has none")
    device, facts = torch.device("cuda"), collect() | {"board": torch.cuda.get_device_name()}
    block_bytes = 32 * kv_bytes_per_token(LLAMA_8B)
    with console.status("making an 8B and a 1B shape with random weights …"):
        target = random_engine(LLAMA_8B, dtype=torch.bfloat16, device=device, max_blocks=4)
        draft = random_engine(LLAMA_1B, dtype=torch.bfloat16, device=device, max_blocks=4)
    share = block_bytes + 32 * kv_bytes_per_token(LLAMA_1B)
    max_blocks = (torch.cuda.mem_get_info()[0] - _SPARE_BYTES) // share
    target, draft = (_resized(engine, max_blocks) for engine in (target, draft))
    floor, lines = _floor(target, facts)
    error, more = _numerics(device, facts)
    setting = Setting(alpha=0.7)
    contexts = (512, 2_048, LONG_CONTEXT)
    limits_s = (0.01, 0.02, LIMIT_S, 0.1)
    with console.status("timing passes …"):
        found = costs(target, draft, contexts, (1, 4, 16, 32, 64, 128), setting)
    from benchmarks.edge_picture import draw_map

    draw_map(winners(found, contexts, limits_s), contexts, limits_s, out / "map.png")
    text = [lines, more, _gain(found), "", markdown(found, contexts, limits_s, setting)]
    return [floor, error, *records(found, setting, facts)], "\n".join(text)


def kv_bytes_per_token(config: dict[str, Any]) -> int:
    """Keys and values of one token in bf16, over all layers."""
    head_size = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return int(2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_size)


def _resized(engine: TorchEngine, max_blocks: int) -> TorchEngine:
    return TorchEngine(
        engine.model, num_ids=engine.num_ids, context_len=engine.model.config.max_position_embeddings,
        max_blocks=max_blocks,
    )  # fmt: skip


def _floor(engine: TorchEngine, facts: dict[str, Any]) -> tuple[Record, str]:
    verify_s = pass_s(engine, SESSIONS, CONTEXT, NEW, repeats=20)
    gemm_s = gemms_s(engine.model, SESSIONS * NEW)
    read_s = kv_read_s(engine, SESSIONS, CONTEXT + NEW)
    ratio = verify_s / (gemm_s + read_s)
    values = {
        "arm": "split", "sessions": SESSIONS, "context_tokens": CONTEXT, "gamma": NEW - 1,
        "dtype": "bfloat16", "pass_s": verify_s, "gemm_s": gemm_s, "kv_read_s": read_s,
        "ratio": ratio,
    }  # fmt: skip
    return Record.of("edge-floors", facts, values), (
        f"verify pass, {SESSIONS} sessions × {NEW} tokens at context {CONTEXT}: "
        f"{verify_s * 1e3:.2f} ms = {ratio:.2f} × (products {gemm_s * 1e3:.2f} ms + reading keys and "
        f"values {read_s * 1e3:.2f} ms); {_verdict(ratio <= MAX_RATIO)} ≤ {MAX_RATIO}"
    )


@torch.inference_mode()
def gemms_s(model: torch.nn.Module, num_tokens: int) -> float:
    """All linear layers one after the other on inputs of the pass's shape, nothing in between."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    inputs = {
        layer.in_features: layer.weight.new_ones(num_tokens, layer.in_features) for layer in layers
    }
    return timed_s(lambda: [layer(inputs[layer.in_features]) for layer in layers], 20)


@torch.inference_mode()
def kv_read_s(engine: TorchEngine, num_sessions: int, context: int) -> float:
    """Reading as many bytes as the keys and values of the sessions have, once, by a sum."""
    slots = pretend_read(engine, num_sessions, context)
    num_bytes = num_sessions * num_blocks_for(context) * engine.block_bytes
    for slot in slots:
        engine.drop(slot)
    data = torch.ones(num_bytes // 2, dtype=torch.bfloat16, device=engine.model.device)
    return timed_s(lambda: data.view(torch.int16).max(), 20)


def _numerics(device: torch.device, facts: dict[str, Any]) -> tuple[Record, str]:
    """A shallower model in bf16 beside itself in fp32: 4 layers of the 8B shape."""
    config = LLAMA_8B | {"num_hidden_layers": 4, "max_position_embeddings": 1_024}
    generator = torch.Generator().manual_seed(1)
    texts = [
        tuple(torch.randint(config["vocab_size"], (n,), generator=generator).tolist())
        for n in (40, 200, 511)
    ]
    single = random_engine(config, dtype=torch.float32, device=device, max_blocks=64)
    rows = single.logits([(single.open(), Job(text, 5)) for text in texts])
    rounded_model: Any = single.model
    half = TorchEngine(
        rounded_model.to(torch.bfloat16), num_ids=single.num_ids, context_len=1_024, max_blocks=64
    )
    rounded = half.logits([(half.open(), Job(text, 5)) for text in texts])
    error = max(float((a - b).abs().max() / a.std()) for a, b in zip(rows, rounded, strict=True))
    values = {"arm": "split", "sessions": len(texts), "dtype": "bfloat16", "logit_error": error}
    return Record.of("edge-floors", facts, values), (
        f"logits in bf16 against fp32: {error:.3f} standard deviations at most; "
        f"{_verdict(error <= MAX_LOGIT_ERROR)} ≤ {MAX_LOGIT_ERROR}"
    )


def _gain(found: list[Any]) -> str:
    ours, theirs = (best(found, arm, LONG_CONTEXT, LIMIT_S) for arm in ("split", "edge"))
    if ours is None or theirs is None:
        return f"at context {LONG_CONTEXT} not both arms keep {LIMIT_S * 1e3:g} ms a token"
    gain = theirs.engine_s_per_token / ours.engine_s_per_token
    return (
        f"committed tokens per GPU second at context {LONG_CONTEXT}, alpha 0.7, gamma 4, "
        f"{LIMIT_S * 1e3:g} ms a token: split {1 / ours.engine_s_per_token:.0f}, edge only "
        f"{1 / theirs.engine_s_per_token:.0f}, {gain:.2f} ×; {_verdict(gain >= MIN_GAIN)} ≥ {MIN_GAIN}"
    )


def _verdict(is_kept: bool) -> str:
    return "keeps" if is_kept else "MISSES"
