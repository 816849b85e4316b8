"""Which architectures the exporter knows, and what it must know of one beyond its config."""

from __future__ import annotations

import transformers
from optimum.exporters.onnx import model_configs  # noqa: F401 -- fills the table of TasksManager
from optimum.exporters.tasks import TasksManager
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from device_runtime.protocol import checkpoint_facts
from export.checkpoint import Checkpoint, refuse_hybrid
from export.errors import ExportError

TASK = "text-generation-with-past"
_RECURRENT = ("lfm2", "lfm2_moe", "minimax", "nemotron_h", "recurrent_gemma")
"""Beside those that transformers marks itself."""


def supported() -> list[str]:
    """`model_type`s that optimum exports as causal language models, sorted."""
    known = TasksManager.get_supported_model_type_for_task(TASK, "onnx")
    seq2seq = set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    return sorted(set(known) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - seq2seq)


def check(checkpoint: Checkpoint) -> None:
    """ExportError where no exporter knows the checkpoint's architecture."""
    kind = checkpoint.model_type
    model_class = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, ""), None)
    if getattr(model_class, "_is_stateful", False) or kind in _RECURRENT:
        refuse_hybrid(checkpoint.source, kind)
    if kind in supported():
        return
    for family, members in (
        ("encoder-decoder", MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
        ("encoder", MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    ):
        if kind in members:
            raise ExportError(
                f"{checkpoint.source} is an {family} ({kind}), not a causal language model; give a "
                "decoder checkpoint such as a Llama, Qwen or GPT-2"
            )
    raise ExportError(
        f"{checkpoint.source} has the architecture {kind}, which cannot be exported; these can: "
        f"{', '.join(supported())}"
    )


def context_len(checkpoint: Checkpoint) -> int:
    """Positions the exported graph is right for; ExportError where the config does not say."""
    stated = checkpoint_facts.context_len(checkpoint.config)
    if stated is None:
        raise ExportError(
            f"{checkpoint.source}/config.json states no context length; add max_position_embeddings"
        )
    return stated
