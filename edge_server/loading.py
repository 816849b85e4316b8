"""From a checkpoint's folder to an engine that is known to be right.

The engine feeds models in a way of its own (packed tokens, paged cache), which works for every
architecture that leaves positions, masks and attention to `transformers`. Whether this one does is
not looked up in a list but tried: the engine's logits must be those of the plain model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.errors import ConfigError
from edge_server.attention import NAME
from edge_server.cache import num_blocks_for
from edge_server.checkpoint import Checkpoint, CheckpointError
from edge_server.engine import TorchEngine
from edge_server.onednn_linear import onednn_is_faster, use_onednn
from edge_server.runner import LocalRunner, Runner

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICES = ("auto", "cpu", "cuda")

_TRIAL_LEN = 40
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2, torch.bfloat16: 0.3}
"""Largest difference of a logit, over the logits' standard deviation. float64 is not tighter,
because most models compute their norms in float32."""

_CPU_SHARE, _CUDA_SHARE = 0.25, 0.85


def load_engine(
    checkpoint: Checkpoint,
    *,
    num_ids: int,
    device: str = "auto",
    dtype: str = "auto",
    cache_bytes: int | None = None,
    max_blocks: int | None = None,
) -> TorchEngine:
    """An engine whose model is in this process.

    num_ids: ids the tokenizer defines. cache_bytes: memory for keys and values, by default a share
    of what is free after loading; max_blocks: the same in blocks. CheckpointError or ConfigError
    where something does not fit.
    """
    place = resolve_device(device)
    runner = load_runner(
        checkpoint, num_ids=num_ids, device=place, dtype=resolve_dtype(dtype, place)
    )
    return TorchEngine(
        runner,
        num_ids=num_ids,
        context_len=checkpoint.context_len,
        max_blocks=max_blocks or num_blocks_in(cache_bytes or free_bytes(place), [runner]),
    )


def load_runner(
    checkpoint: Checkpoint, *, num_ids: int, device: torch.device, dtype: torch.dtype
) -> LocalRunner:
    """Load the weights and try the model. CheckpointError where it cannot be served."""
    model = checkpoint.load(dtype, device, NAME)
    _check_rows(model, num_ids, checkpoint)
    if onednn_is_faster(model.dtype, device):
        use_onednn(model)
    try_model(model, checkpoint.context_len)
    return LocalRunner(model)


def num_blocks_in(cache_bytes: int, runners: Sequence[Runner]) -> int:
    """Blocks that all of these can hold, ZERO_BLOCK included: a bound, which nobody allocates yet.

    ConfigError where that is not even two for sessions.
    """
    block_bytes = sum(runner.block_bytes for runner in runners)
    num_blocks = cache_bytes // block_bytes
    if num_blocks < 3:
        raise ConfigError(
            f"{cache_bytes / 2**30:.3f} GiB for the cache hold not even two blocks of "
            f"{block_bytes} bytes; give it more memory (--cache-gib)"
        )
    return num_blocks


def _check_rows(model: PreTrainedModel, num_ids: int, checkpoint: Checkpoint) -> None:
    """CheckpointError where a token has no row: it would fail a batch, and on a GPU the process."""
    layers: tuple[Any, ...] = (model.get_input_embeddings(), model.get_output_embeddings())
    rows = [len(layer.weight) for layer in layers if layer is not None]
    if rows and min(rows) < num_ids:
        raise CheckpointError(
            f"the tokenizer of {checkpoint.folder} defines {num_ids} ids, but the model has "
            f"{min(rows)} rows for them; put the tokenizer beside it that it was trained with, or "
            "call resize_token_embeddings and save it again"
        )


def resolve_device(name: str) -> torch.device:
    """The device of a name; `auto` takes a GPU if there is one."""
    if name not in DEVICES:
        raise ConfigError(f"device is {name!r}; choose one of {', '.join(DEVICES)}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device, or this torch was built without CUDA")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    if name not in DTYPES:
        raise ConfigError(f"dtype is {name!r}; choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def try_model(model: PreTrainedModel, context_len: int) -> None:
    """CheckpointError if two texts, run together in pieces, give other logits than each alone."""
    kind = model.config.model_type
    length = min(_TRIAL_LEN, context_len)
    generator = torch.Generator().manual_seed(0)
    texts = [
        torch.randint(model.config.get_text_config().vocab_size, (n,), generator=generator)
        for n in (length, length * 3 // 4)
    ]
    try:
        plain = _plain_logits(model, texts)
    except Exception as error:
        raise CheckpointError(
            f"models of the kind {kind} cannot run in {model.dtype} on {model.device.type} "
            f"({type(error).__name__}: {error}); try another --dtype"
        ) from error
    try:
        deviation = _deviation(_batched_logits(model, texts), plain)
    except Exception as error:
        raise CheckpointError(
            f"models of the kind {kind} do not work with a batched cache ({type(error).__name__}: "
            f"{error}); serve one whose layers all use transformers' attention interface"
        ) from error
    if not deviation <= TOLERANCE[model.dtype]:
        raise CheckpointError(
            f"models of the kind {kind} give other logits in a batch than alone, by "
            f"{deviation:.2g} standard deviations where {TOLERANCE[model.dtype]:g} would be "
            f"rounding in {model.dtype}; serve another architecture"
        )


def _deviation(logits: list[Tensor], plain: list[Tensor]) -> float:
    """Largest difference of a logit, over the standard deviation of the plain ones."""
    pairs = zip(logits, plain, strict=True)
    return max(float((ours - alone).abs().max() / alone.std()) for ours, alone in pairs)


def _batched_logits(model: PreTrainedModel, texts: list[Tensor]) -> list[Tensor]:
    """Logits (n, vocab) of each text, computed together in two uneven pieces."""
    engine = TorchEngine(
        LocalRunner(model),
        num_ids=0,
        context_len=_TRIAL_LEN,
        max_blocks=4 + num_blocks_for(_TRIAL_LEN),
    )
    ids = [tuple(text.tolist()) for text in texts]
    cuts = [len(text) // (2 + i) for i, text in enumerate(texts)]
    slots = [engine.open() for _ in texts]
    early = [Job(text[:cut], cut) for text, cut in zip(ids, cuts, strict=True)]
    late = [Job(text, len(text) - cut) for text, cut in zip(ids, cuts, strict=True)]
    parts = [engine.logits(list(zip(slots, jobs, strict=True))) for jobs in (early, late)]
    return [torch.cat(pair) for pair in zip(*parts, strict=True)]


@torch.inference_mode()
def _plain_logits(model: PreTrainedModel, texts: list[Tensor]) -> list[Tensor]:
    """Logits (n, vocab) of each text alone, by the model's own attention."""
    model.set_attn_implementation("eager")
    try:
        runs = [model(input_ids=text[None].to(model.device), use_cache=False) for text in texts]
    finally:
        model.set_attn_implementation(NAME)
    return [run.logits[0].to(torch.promote_types(model.dtype, torch.float32)) for run in runs]


def free_bytes(device: torch.device) -> int:
    """Memory that caches may grow to, in all."""
    if device.type == "cuda":
        return int(_CUDA_SHARE * torch.cuda.mem_get_info(device)[0])
    return int(_CPU_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
