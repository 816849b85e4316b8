"""From a checkpoint to an ONNX file: one table of what can be built, and the loading of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.protocol import rope_parameters
from export.checkpoint import Checkpoint
from export.choose import Choice
from export.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

Builder = Callable[["PreTrainedModel", Path, Choice, Sequence["Tensor"]], None]
"""Writes the ONNX file at the path (and external data beside it, named after it)."""


def _fused(model: PreTrainedModel, path: Path, choice: Choice, texts: Sequence[Tensor]) -> None:
    from export import decoder_families, fused_graph
    from export.cache_scales import cache_scales

    decoder = decoder_families.read_decoder(model, choice.context_len)
    num_rotated = 2 * decoder.rotary.cos.shape[1]
    scales = cache_scales(model, texts, num_rotated) if choice.cache == "int8" else None
    fused_graph.write(decoder, path, choice.weights, choice.accuracy_level, scales)


def _optimum(model: PreTrainedModel, path: Path, choice: Choice, _: Sequence[Tensor]) -> None:
    from export import optimum_graph, quantised_optimum

    optimum_graph.build(model, path)
    if choice.weights != "fp32":
        vocab_size: int = model.config.vocab_size
        quantised_optimum.quantise(path, choice.weights, choice.accuracy_level, vocab_size)


BUILDERS: dict[str, Builder] = {"fused": _fused, "optimum": _optimum}
"""graph → its builder; builders import their libraries when called."""


def load_model(checkpoint: Checkpoint) -> PreTrainedModel:
    """The checkpoint in float32 on the CPU, from safetensors only, without any code of its own.

    Eager attention: it is the one implementation that honours everything a config can ask for
    (SDPA drops the soft cap of Gemma 2).
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            config=_config(checkpoint),
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except ExportError:
        raise
    except Exception as error:  # whatever a config can make transformers raise
        raise ExportError(f"{checkpoint.source} does not load: {_first_line(error)}") from error
    model: PreTrainedModel = loaded[0].eval()
    if missing := sorted(loaded[1]["missing_keys"]):
        raise ExportError(
            f"{checkpoint.source} lacks {len(missing)} of its weights (such as {missing[0]}); "
            "download or save it completely"
        )
    _refuse_infinite(model, checkpoint.source)
    return model


def _refuse_infinite(model: PreTrainedModel, source: str) -> None:
    """ExportError where a weight is no number: rounding and parity check would blame something else."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ExportError(
                f"{source} has weights that are not finite (NaN or infinity, first in {name}); "
                "download it again, or take a checkpoint from before its training failed"
            )


def _config(checkpoint: Checkpoint) -> PretrainedConfig:
    """As transformers reads it, with what the installed version would leave out."""
    import transformers

    load: Any = transformers.AutoConfig.from_pretrained
    config: PretrainedConfig = load(
        checkpoint.folder, trust_remote_code=False, local_files_only=True
    )
    reason = rope_parameters.complete(config, checkpoint.config, transformers.__version__)
    if reason is not None:
        raise ExportError(f"{checkpoint.source} {reason}")
    return config


def convert(
    checkpoint: Checkpoint,
    model: PreTrainedModel,
    path: Path,
    choice: Choice,
    texts: Sequence[Tensor],
) -> None:
    """Build the graph of a model whose weights were rounded to `choice.weights` before.

    texts: batches of ids (texts, tokens) that a cache of 8 bits is scaled by.
    Whatever the exporter raises becomes an ExportError of one line, but for what the system tells.
    """
    try:
        BUILDERS[choice.graph](model, path, choice, texts)
    except (ExportError, OSError):
        raise
    except Exception as error:
        raise ExportError(
            f"{checkpoint.source} ({checkpoint.model_type}) could not be turned into a graph: "
            f"{_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
