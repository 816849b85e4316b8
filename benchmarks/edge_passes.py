"""How long single passes of an engine take: no sockets, no protocol, made-up texts.

The texts before the new tokens are not run but taken as read: their keys and values are zeros, which
take as long to attend to as any others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from device_runtime.protocol.edge_states import Job
from edge_server.attention import NAME
from edge_server.engine import Slot, TorchEngine
from edge_server.local_runner import LocalRunner

LOGIT_SPREAD = 5.0
"""Standard deviation of random logits: as in trained models, the likeliest tens of ids then hold
most of the mass. The 1.3 that the weights give by themselves make every nucleus half a vocabulary."""


def random_engine(
    config: dict[str, Any], *, dtype: torch.dtype, device: torch.device, max_blocks: int
) -> TorchEngine:
    """An engine on random weights of this shape (Llama's layout), made where they stay."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = AutoConfig.for_model(**config, bos_token_id=0, eos_token_id=0)
    auto: Any = AutoModelForCausalLM
    torch.manual_seed(0)
    with device:
        model = auto.from_config(settings, dtype=dtype, attn_implementation=NAME).eval()
    scale = settings.initializer_range * settings.hidden_size**0.5
    torch.nn.init.constant_(model.model.norm.weight, LOGIT_SPREAD / scale)
    return TorchEngine(
        LocalRunner(model.to(device)),
        num_ids=config["vocab_size"],
        context_len=config["max_position_embeddings"],
        max_blocks=max_blocks,
    )


def model_of(engine: TorchEngine) -> PreTrainedModel:
    """The model of an engine in this process."""
    assert isinstance(engine.runner, LocalRunner)
    return engine.runner.model


def pretend_read(engine: TorchEngine, num_sessions: int, context: int) -> list[Slot]:
    """Slots whose caches stand for `context` tokens each."""
    slots = [engine.open() for _ in range(num_sessions)]
    batch = [(slot, Job((1,) * context, 0)) for slot in slots]
    engine._reserve(batch, [0] * num_sessions)  # noqa: SLF001 -- as if it had run
    for slot in slots:
        slot.tokens = (1,) * context
    return slots


def pass_s(
    engine: TorchEngine, num_sessions: int, context: int, num_new: int, repeats: int = 5
) -> float:
    """Median seconds of one forward pass with `num_new` tokens for each session, rows of all.

    The model alone, without laws: `benchmarks.edge_replay` times what sessions need.
    """
    slots = pretend_read(engine, num_sessions, context)
    tokens = (1,) * context + tuple(2 + i for i in range(num_new))
    job = Job(tokens, num_new)

    def rewind() -> None:
        for slot in slots:
            slot.tokens = tokens[:context]

    batch = [(slot, job) for slot in slots]
    seconds = timed_s(lambda: engine.logits(batch), repeats, rewind)
    for slot in slots:
        engine.drop(slot)
    return seconds


def timed_s(
    work: Callable[[], object], repeats: int, prepare: Callable[[], object] = lambda: None
) -> float:
    """Median seconds, after one run that does not count; a GPU's work is waited for."""
    times_s = []
    for _ in range(repeats + 1):
        prepare()
        start_s = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - start_s)
    return median(times_s[1:])
