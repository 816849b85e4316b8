"""From a checkpoint's folder to an engine that is known to be right.

Safetensors only; no code that came with a checkpoint is run, and nothing is fetched from a network.

The engine feeds models in a way of its own (packed tokens, paged cache), which works for every
architecture that leaves positions, masks and attention to `transformers`. Whether this one does is
not looked up in a list but tried: the engine's logits must be those of the plain model.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from device_runtime.protocol import rope_parameters
from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.foreign_code import foreign_code
from edge_server.attention import NAME
from edge_server.blocks import num_blocks_for
from edge_server.checkpoint import Checkpoint, CheckpointError
from edge_server.engine import TorchEngine
from edge_server.hardware import free_bytes, resolve_device, resolve_dtype
from edge_server.local_runner import LocalRunner
from edge_server.onednn_linear import onednn_is_faster, use_onednn
from edge_server.runner import num_blocks_in

logger = logging.getLogger(__name__)

_TRIAL_LEN = 40
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-2, torch.bfloat16: 0.3}
"""Largest difference of a logit, over the logits' standard deviation. float64 is not tighter,
because most models compute their norms in float32."""


def load_engine(
    checkpoint: Checkpoint,
    *,
    num_ids: int,
    device: str = "auto",
    dtype: str = "auto",
    cache_bytes: int | None = None,
) -> TorchEngine:
    """An engine whose model is in this process.

    num_ids: ids the tokenizer defines. cache_bytes: memory for keys and values, by default a share
    of what is free after loading. CheckpointError or ConfigError where something does not fit.
    """
    place = resolve_device(device)
    runner = load_runner(
        checkpoint, num_ids=num_ids, device=place, dtype=resolve_dtype(dtype, place)
    )
    return TorchEngine(
        runner,
        num_ids=num_ids,
        context_len=checkpoint.context_len,
        max_blocks=num_blocks_in(cache_bytes or free_bytes(place), [runner]),
    )


def load_runner(
    checkpoint: Checkpoint, *, num_ids: int, device: torch.device, dtype: torch.dtype
) -> LocalRunner:
    """Load the weights and try the model. CheckpointError where it cannot be served."""
    model = load_model(checkpoint, dtype, device)
    _check_rows(model, num_ids, checkpoint)
    if onednn_is_faster(model.dtype, device):
        use_onednn(model)
    try_model(model, checkpoint.context_len)
    return LocalRunner(model)


def load_model(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """The model, in eval mode, that attends to this package's cache."""
    folder = checkpoint.folder
    _refuse_foreign_code(checkpoint.config, folder)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, report = load(
            folder,
            config=_config(checkpoint),
            dtype=dtype,
            attn_implementation=NAME,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except CheckpointError:
        raise
    except Exception as error:  # whatever a config can make transformers raise
        if isinstance(error, KeyError) and error.args == (NAME,):
            raise CheckpointError(
                f"models of the kind {checkpoint.config['model_type']} choose their attention by "
                f"themselves ({error}); serve one that uses transformers' attention interface"
            ) from error
        raise CheckpointError(
            f"{folder} cannot be loaded as a causal language model ({_first_line(error)})"
        ) from error
    lacking = sorted(report["missing_keys"]) + [str(k) for k in report["mismatched_keys"]]
    if lacking:
        raise CheckpointError(
            f"{folder} lacks {len(lacking)} of the model's weights, or has them in "
            f"another shape (first: {lacking[0]}); download or save it again"
        )
    loaded: PreTrainedModel = model.to(device).eval().requires_grad_(requires_grad=False)
    return loaded


def _config(checkpoint: Checkpoint) -> PretrainedConfig:
    """As transformers reads it, with what the installed version would leave out."""
    load: Any = AutoConfig.from_pretrained
    config: PretrainedConfig = load(
        checkpoint.folder, trust_remote_code=False, local_files_only=True
    )
    reason = rope_parameters.complete(config, checkpoint.config, transformers.__version__)
    if reason is not None:
        raise CheckpointError(f"{checkpoint.folder} {reason}")
    return config


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _refuse_foreign_code(config: dict[str, Any], folder: Path) -> None:
    reason = foreign_code(config, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.__contains__)
    if reason is not None:
        raise CheckpointError(f"{folder} {reason}")
    if "auto_map" in config:
        logger.warning(
            "%s brings code of its own, which is not run: transformers' class for %s is used",
            folder.name, config["model_type"],
        )  # fmt: skip


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
