"""`tandem bench edge --gpu-floors`: an 8B shape with random weights on a GPU against its floors.

One verify pass cannot be faster than its matrix products and one reading of the keys and values; both
are timed in the same run, with the same shapes and the same library. Beside it: committed tokens per
GPU second of the arms at a long context, the map, and the engine's logits in bf16 against fp32. The
command fails where a floor is missed.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.edge_map import Cost, Setting, best, costs, markdown, records, winners
from benchmarks.edge_passes import model_of, pass_s, pretend_read, random_engine, timed_s
from benchmarks.edge_replay import verify_s
from benchmarks.machine import collect
from benchmarks.record import Record
from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.errors import ConfigError
from edge_server.blocks import num_blocks_for
from edge_server.edge_draft import DraftingEngine
from edge_server.engine import TorchEngine
from edge_server.loading import TOLERANCE
from edge_server.local_runner import LocalRunner

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

MAX_RATIO, MIN_GAIN = 1.35, 2.0
"""What must be kept, beside `edge_server.loading.TOLERANCE` of logits in bf16."""
SETTING = Setting(alpha=0.7, gamma=4, think_s=0.08)
"""Four drafts of 15 ms, as an Orin Nano's CPU makes them with a 135M model, and a round trip of 20 ms.
With α 0.7 a round commits 2.77 tokens: at 50 ms each it may take 139 ms, so 59 ms are left to the
edge. (The map's usual 140 ms would leave it nothing.)"""


@dataclass(frozen=True)
class Plan:
    """Sizes of all that is timed; those of the floors unless a test tries the code."""

    target: dict[str, Any]
    draft: dict[str, Any]
    sessions: int = 64
    new: int = 5
    context: int = 512
    contexts: tuple[int, ...] = (512, 2_048, 8_192)
    counts: tuple[int, ...] = (1, 4, 8, 16, 24, 32, 48, 64, 96, 128)
    limits_s: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1)
    gain_context: int = 8_192
    gain_limit_s: float = 0.05
    numerics_layers: int = 4
    repeats: int = 5
    spare_bytes: int = 10 << 30
    """For activations, logits and laws: half a gigabyte for each float64 copy of 128 · 5 rows."""


FLOORS = Plan(LLAMA_8B, LLAMA_1B)


@dataclass(frozen=True)
class Floor:
    """One thing that must be kept."""

    text: str
    is_kept: bool

    @classmethod
    def of(cls, text: str, value: float, relation: str, limit: float) -> Floor:
        """relation: ≤ or ≥; what is no number misses."""
        is_kept = {"≤": operator.le, "≥": operator.ge}[relation](value, limit)
        return cls(f"{text}; {'keeps' if is_kept else 'MISSES'} {relation} {limit:g}", is_kept)


def run(
    out: Path, console: Console, plan: Plan = FLOORS, device: torch.device | None = None
) -> tuple[list[Record], str, bool]:
    """Measure and compare; whether all floors are kept. ConfigError without a GPU."""
    if device is None:
        if not torch.cuda.is_available():
            raise ConfigError("--gpu-floors needs a CUDA device, and this machine has none")
        device = torch.device("cuda")
    out.mkdir(parents=True, exist_ok=True)
    facts = collect()
    if device.type == "cuda":
        facts |= {"board": torch.cuda.get_device_name()}
    with console.status("making an 8B and a 1B shape with random weights …"):
        engine = _engines(plan, device)
    with console.status("timing a pass and its parts …"):
        ratio, first = pass_floor(engine.target, plan, facts)
        error, second = numerics_floor(plan, device, facts)
    with console.status("timing batches …"):
        found = costs(engine, plan.contexts, plan.counts, SETTING, repeats=plan.repeats)
    third = gain_floor(found, plan)
    from benchmarks.edge_picture import draw_map

    map_ = winners(found, plan.contexts, plan.limits_s)
    draw_map(map_, plan.contexts, plan.limits_s, out / "map.png")
    floors = (first, second, third)
    num_missed = sum(not floor.is_kept for floor in floors)
    lines = [floor.text for floor in floors]
    lines += [f"floors missed: {num_missed} of {len(floors)}", ""]
    text = "\n".join([*lines, markdown(found, plan.contexts, plan.limits_s, SETTING)])
    return [ratio, error, *records(found, SETTING, facts)], text, num_missed == 0


def _engines(plan: Plan, device: torch.device) -> DraftingEngine:
    """Both models, and a cache as large as the memory that is left."""
    engines = [
        random_engine(shape, dtype=torch.bfloat16, device=device, max_blocks=4)
        for shape in (plan.target, plan.draft)
    ]
    block_bytes = num_blocks_for(1) * 32 * sum(map(kv_bytes_per_token, (plan.target, plan.draft)))
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else plan.spare_bytes + (1 << 28)
    max_blocks = (free - plan.spare_bytes) // block_bytes
    return DraftingEngine(*(_resized(engine, max_blocks) for engine in engines))


def kv_bytes_per_token(config: dict[str, Any]) -> int:
    """Keys and values of one token in bf16, over all layers."""
    head_size = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return int(2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_size)


def _resized(engine: TorchEngine, max_blocks: int) -> TorchEngine:
    model = model_of(engine)
    return TorchEngine(
        LocalRunner(model), num_ids=engine.num_ids,
        context_len=model.config.max_position_embeddings, max_blocks=max_blocks,
    )  # fmt: skip


def pass_floor(engine: TorchEngine, plan: Plan, facts: dict[str, Any]) -> tuple[Record, Floor]:
    """A verify pass beside its products and its reading; and what laws and judging add to it."""
    repeats = 4 * plan.repeats
    verify_pass_s = pass_s(engine, plan.sessions, plan.context, plan.new, repeats)
    gemm_s = gemms_s(model_of(engine), plan.sessions * plan.new)
    read_s = kv_read_s(engine, plan.sessions, plan.context + plan.new)
    gamma = plan.new - 1
    judged_s = verify_s(engine, plan.sessions, plan.context, gamma, SETTING.alpha, repeats).seconds
    ratio = verify_pass_s / (gemm_s + read_s)
    values = {
        "arm": "split", "sessions": plan.sessions, "context_tokens": plan.context, "gamma": gamma,
        "dtype": "bfloat16", "pass_s": verify_pass_s, "gemm_s": gemm_s, "kv_read_s": read_s,
        "verify_p50_s": judged_s, "ratio": ratio,
    }  # fmt: skip
    text = (
        f"verify pass, {plan.sessions} sessions × {plan.new} tokens at context {plan.context}: "
        f"{verify_pass_s * 1e3:.2f} ms = {ratio:.2f} × (products {gemm_s * 1e3:.2f} ms + reading keys "
        f"and values {read_s * 1e3:.2f} ms); with laws and judging {judged_s * 1e3:.2f} ms"
    )
    return Record.of("edge-floors", facts, values), Floor.of(text, ratio, "≤", MAX_RATIO)


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
    """Reading as many bytes as the keys and values of the sessions have, once, by a maximum."""
    slots = pretend_read(engine, num_sessions, context)
    num_bytes = num_sessions * num_blocks_for(context) * engine.runner.block_bytes
    for slot in slots:
        engine.drop(slot)
    data = torch.ones(num_bytes // 2, dtype=torch.bfloat16, device=engine.runner.device)
    return timed_s(lambda: data.view(torch.int16).max(), 20)


def numerics_floor(plan: Plan, device: torch.device, facts: dict[str, Any]) -> tuple[Record, Floor]:
    """A shallower model in bf16 beside itself in fp32, both through the engine."""
    config = plan.target | {"num_hidden_layers": plan.numerics_layers}
    generator = torch.Generator().manual_seed(1)
    texts = [
        tuple(torch.randint(config["vocab_size"], (n,), generator=generator).tolist())
        for n in (40, 200, 511)
    ]
    single = random_engine(config, dtype=torch.float32, device=device, max_blocks=64)
    rows = _last_rows(single, texts)
    for weights in model_of(single).parameters():
        # Not the model's `.to`: it would round the rotary frequencies, too, as loading never does.
        weights.data = weights.data.to(torch.bfloat16)
    error = max(
        float((a - b).abs().max() / a.std())
        for a, b in zip(rows, _last_rows(_resized(single, 64), texts), strict=True)
    )
    values = {"arm": "split", "sessions": len(texts), "dtype": "bfloat16", "logit_error": error}
    text = f"logits in bf16 against fp32: {error:.3f} standard deviations at most"
    return (
        Record.of("edge-floors", facts, values),
        Floor.of(text, error, "≤", TOLERANCE[torch.bfloat16]),
    )


def _last_rows(engine: TorchEngine, texts: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    return engine.logits([(engine.open(), Job(text, 5)) for text in texts])


def gain_floor(found: Sequence[Cost], plan: Plan) -> Floor:
    """Committed tokens per GPU second of both arms, each with as many sessions as suit it."""
    limit_s, context = plan.gain_limit_s, plan.gain_context
    ours, theirs = (best(found, arm, context, limit_s) for arm in ("split", "edge"))
    head = (
        f"committed tokens per GPU second at context {context}, alpha {SETTING.alpha:g}, gamma "
        f"{SETTING.gamma}, {SETTING.think_s * 1e3:g} ms of device and link a round, "
        f"{limit_s * 1e3:g} ms a token"
    )
    if ours is None or theirs is None:
        missing = [name for name, one in (("split", ours), ("edge only", theirs)) if one is None]
        text = f"{head}: {' and '.join(missing)} cannot keep the limit"
        return Floor.of(text, float("nan"), "≥", MIN_GAIN)
    gain = theirs.engine_s_per_token / ours.engine_s_per_token
    text = (
        f"{head}: split {1 / ours.engine_s_per_token:.0f} ({ours.sessions} sessions), edge only "
        f"{1 / theirs.engine_s_per_token:.0f} ({theirs.sessions} sessions), {gain:.2f} ×"
    )
    return Floor.of(text, gain, "≥", MIN_GAIN)
