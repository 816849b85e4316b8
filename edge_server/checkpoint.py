"""Open a checkpoint's folder: refuse what is incomplete or cannot be served. No tensor is read here.

`edge_server.loading` loads the weights, and refuses what would run code of its own.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_runtime.protocol import checkpoint_facts
from device_runtime.protocol.checkpoint_facts import refusing_malformed
from device_runtime.protocol.errors import TandemError

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class CheckpointError(TandemError, ValueError):
    """A checkpoint is unsafe, incomplete, or of a kind that cannot be served."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose description was found fit to serve."""

    folder: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read and check the description; CheckpointError says what is wrong with it."""
        if not folder.is_dir():
            raise CheckpointError(
                f"there is no folder {folder}; a model is named by its checkpoint's local folder "
                "(one of a hub must be downloaded first)"
            )
        config = _read_json(folder / "config.json")
        if not config:
            raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json")
        with _refusing_malformed(folder):
            _refuse_other_kinds(config, folder)
        with refusing_malformed(CheckpointError, str(folder), _INDEX):
            _refuse_other_weights(folder)
        return cls(folder, config, _read_json(folder / "generation_config.json"))

    @property
    def name(self) -> str:
        """What clients are told."""
        return self.folder.resolve().name

    @property
    def context_len(self) -> int:
        """Positions the model was made for."""
        with _refusing_malformed(self.folder):
            stated = checkpoint_facts.context_len(self.config)
        if stated is None:
            raise CheckpointError(
                f"{self.folder}/config.json states no context length; add max_position_embeddings"
            )
        return stated

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a text."""
        with _refusing_malformed(self.folder):
            return checkpoint_facts.end_ids(self.generation_config, self.config)


def _refusing_malformed(folder: Path) -> AbstractContextManager[None]:
    return refusing_malformed(CheckpointError, str(folder), "config.json or generation_config.json")


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file."""
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return data


def _refuse_other_kinds(config: dict[str, Any], folder: Path) -> None:
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{folder}/config.json names no model_type; is it a checkpoint's?")
    if config.get("is_encoder_decoder"):
        raise CheckpointError(
            f"{folder} is an encoder-decoder model; serve a causal language model"
        )
    classes = config.get("architectures") or []
    if classes and not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in classes):
        raise CheckpointError(f"{folder} is a {classes[0]}; serve a causal language model")
    if "quantization_config" in config:
        raise CheckpointError(
            f"{folder} holds quantised weights; serve the original checkpoint (fp16, bf16 or fp32)"
        )


def _refuse_other_weights(folder: Path) -> None:
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} is an adapter; merge it into its base model and save that")
    if (folder / _WEIGHTS).is_file():
        return
    if not (folder / _INDEX).is_file():
        if any(path for pattern in _PICKLED for path in folder.glob(pattern)):
            raise CheckpointError(
                f"{folder} has only pickled weights, which can run code when they are read; if you "
                "trust them, convert them to safetensors first: load them with transformers and "
                "call save_pretrained(FOLDER)"
            )
        raise CheckpointError(f"{folder} has no weights: {_WEIGHTS} or {_INDEX} was expected")
    names = sorted(set(_read_json(folder / _INDEX).get("weight_map", {}).values()))
    for name in names:
        # An index can name any file, and transformers would unpickle whatever is no safetensors.
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise CheckpointError(
                f"{folder}/{_INDEX} names {name}; only safetensors beside it will do"
            )
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} lacks {name}, a part of its weights; download it again"
            )
    if not names:
        raise CheckpointError(f"{folder}/{_INDEX} names no weights; download it again")
