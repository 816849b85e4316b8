"""From a checkpoint to an ONNX file: one table of what can be built, and the loading of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_runtime.protocol.errors import ConfigError
from export.checkpoint import Checkpoint
from export.errors import ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Builder = Callable[[Checkpoint, "PreTrainedModel", Path], None]
"""Writes the ONNX file at the path (and external data beside it, named after it)."""

GRAPHS = ("optimum", "fused")
WEIGHTS = ("fp32", "int8", "int4")


def _optimum_fp32(_checkpoint: Checkpoint, model: PreTrainedModel, path: Path) -> None:
    from export import optimum_graph

    optimum_graph.build(model, path)


BUILDERS: dict[tuple[str, str], Builder] = {("optimum", "fp32"): _optimum_fp32}
"""(graph, weights) → its builder; builders import their libraries when called."""


def builder(graph: str, weights: str) -> Builder:
    """The builder of this choice; ConfigError where it is not available."""
    try:
        return BUILDERS[graph, weights]
    except KeyError:
        works = " or ".join(f"`--graph {g} --weights {w}`" for g, w in BUILDERS)
        raise ConfigError(
            f"`--graph {graph} --weights {weights}` is not available yet; {works} works today"
        ) from None


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
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a config can make transformers raise
        raise ExportError(f"{checkpoint.source} does not load: {_first_line(error)}") from error
    model: PreTrainedModel = loaded[0].eval()
    if missing := sorted(loaded[1]["missing_keys"]):
        raise ExportError(
            f"{checkpoint.source} lacks {len(missing)} of its weights (such as {missing[0]}); "
            "download or save it completely"
        )
    return model


def convert(checkpoint: Checkpoint, model: PreTrainedModel, path: Path, build: Builder) -> None:
    """Build the graph; whatever the exporter raises becomes an ExportError of one line."""
    try:
        build(checkpoint, model, path)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f"{checkpoint.source} ({checkpoint.model_type}) could not be turned into a graph: "
            f"{_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
