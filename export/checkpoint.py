"""Read a checkpoint's description and refuse, before any heavy work, what cannot be exported.

Nothing here loads weights, runs code that came with a checkpoint, or unpickles; transformers is only
asked for the names of the models it has, where a checkpoint would rather bring a class along.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from device_runtime.protocol import checkpoint_facts
from device_runtime.protocol.checkpoint_facts import refusing_malformed
from device_runtime.protocol.foreign_code import foreign_code
from device_runtime.protocol.start_tokens import TOKENIZER_ADVICE
from export.errors import ExportError

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_ATTENTION_KINDS = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose description was found fit to export."""

    folder: Path
    source: str
    """Folder name, or hub id with its revision."""
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    tokenizer: Tokenizer
    """As tokenizer.json has it; `start_tokens.settle` changes what it puts around a text."""

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """The tokenizer's own first."""
        ids = checkpoint_facts.end_ids(self.generation_config, self.config)
        name = self.tokenizer_config.get("eos_token")
        name = name.get("content") if isinstance(name, dict) else name
        own = self.tokenizer.token_to_id(name) if name else None
        return tuple(sorted(ids, key=lambda id_: id_ != own))

    @property
    def bos_token_id(self) -> int | None:
        return checkpoint_facts.start_id(self.generation_config, self.config)

    @property
    def chat_template(self) -> str | None:
        """chat_template.jinja, else the (default) template in tokenizer_config.json."""
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        template = self.tokenizer_config.get("chat_template")
        if isinstance(template, list):  # several named ones
            template = {entry["name"]: entry["template"] for entry in template}
        if isinstance(template, dict):
            template = template.get("default")
        return template


def read(folder: Path, source: str) -> Checkpoint:
    """Description of the checkpoint in `folder`; ExportError where it is not fit to export."""
    config = _json(folder / "config.json", required=True)
    if not isinstance(config.get("model_type"), str):
        raise ExportError(
            f"{folder}/config.json names no model_type; is this a checkpoint's folder?"
        )
    _refuse_foreign_code(config, source)
    _refuse_other_kinds(config, source)
    if (folder / "adapter_config.json").exists():
        raise ExportError(
            f"{source} is an adapter; merge it into its base model and save that first"
        )
    tokenizer_config = _json(folder / "tokenizer_config.json")
    tokenizer = _tokenizer(folder, tokenizer_config)
    generation_config = _json(folder / "generation_config.json")
    return Checkpoint(folder, source, config, generation_config, tokenizer_config, tokenizer)


def count_parameters(folder: Path) -> int:
    """Number of weights, from the headers of the safetensors files.

    ExportError where the weights are missing, incomplete, damaged or not safetensors.
    """
    total = 0
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118 -- a safe_open is no mapping
                    size = 1
                    for length in file.get_slice(name).get_shape():
                        size *= length
                    total += size
        except (SafetensorError, OSError) as error:
            raise ExportError(f"{path} is damaged ({error}); download or copy it again") from error
    return total


def _weight_files(folder: Path) -> list[Path]:
    """What transformers will load: the index's shards or the single file; safetensors only."""
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not (folder / _INDEX).is_file():
        refuse_other_weights((path.name for path in folder.iterdir()), str(folder))
    with refusing_malformed(ExportError, str(folder), _INDEX):
        names = set(_json(folder / _INDEX).get("weight_map", {}).values())
        for name in names:
            # An index can name any file, and transformers would unpickle whatever is no safetensors.
            if not name.endswith(".safetensors") or Path(name).name != name:
                raise ExportError(
                    f"{folder}/{_INDEX} names {name}; only safetensors beside it will do"
                )
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing or not names:
        raise ExportError(
            f"{folder} lacks {missing[0] if missing else 'all shards'} of its weights "
            f"({len(missing)} of {len(names)} files); download it completely"
        )
    return [folder / name for name in sorted(names)]


def refuse_other_weights(names: Iterable[str], where: str) -> None:
    """ExportError where files of these names hold no safetensors of a whole model."""
    present = set(names)
    if present & {_SINGLE, _INDEX}:
        return
    if any(fnmatch(name, pattern) for name in present for pattern in PICKLED):
        raise ExportError(
            f"{where} has only pickled weights, which can run code when they are read; if you "
            "trust them, convert them first: AutoModelForCausalLM.from_pretrained(...)"
            ".save_pretrained(FOLDER, safe_serialization=True)"
        )
    raise ExportError(f"{where} has no weights: {_SINGLE} or {_INDEX} was expected there")


def _json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """A JSON object; {} where the file is absent and not required."""
    if not path.is_file():
        if required:
            raise ExportError(f"{path.parent} is not a checkpoint: it has no {path.name}")
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(data, dict):
        raise ExportError(f"{path} must hold a JSON object")
    return data


def _refuse_foreign_code(config: dict[str, Any], source: str) -> None:
    reason = foreign_code(config, _is_native)
    if reason is not None:
        raise ExportError(f"{source} {reason}")


def _is_native(model_type: str) -> bool:
    """Whether transformers itself has a causal language model of this kind; seldom asked."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def _refuse_other_kinds(config: dict[str, Any], source: str) -> None:
    """Only causal language models with plain weights and a cache that can be rolled back."""
    classes = config.get("architectures") or []
    if config.get("is_encoder_decoder"):
        raise ExportError(
            f"{source} is an encoder-decoder model; a causal language model is needed"
        )
    if any(c.endswith("ForConditionalGeneration") for c in classes):
        raise ExportError(
            f"{source} is a {classes[0]}, a model that reads more than text; give a checkpoint of text "
            "alone (of Gemma 3 that is 270M and 1B)"
        )
    if classes and not any(c.endswith(("ForCausalLM", "LMHeadModel")) for c in classes):
        raise ExportError(
            f"{source} is a {classes[0]}, not a causal language model; give a decoder checkpoint "
            "such as a Llama, Qwen or GPT-2"
        )
    if "quantization_config" in config:
        raise ExportError(
            f"{source} is already quantised; export the original checkpoint (fp16, bf16 or fp32)"
        )
    if set(config.get("layer_types") or ()) - _ATTENTION_KINDS:
        refuse_hybrid(source, config["model_type"])


def refuse_hybrid(source: str, model_type: str) -> None:
    """Raise for a model whose state cannot be rolled back after a rejected draft."""
    raise ExportError(
        f"{source} ({model_type}) keeps a recurrent state that cannot be rolled back when drafted "
        "tokens are rejected; choose a model with attention in every layer"
    )


def _tokenizer(folder: Path, tokenizer_config: dict[str, Any]) -> Tokenizer:
    """Without truncation and padding: they come from training scripts and would cut prompts unseen."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ExportError(
            f"{folder} has no tokenizer.json (the fast tokenizer); {TOKENIZER_ADVICE}"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 -- tokenizers raises nothing narrower
        raise ExportError(f"{path} cannot be read ({error}); {TOKENIZER_ADVICE}") from None
    for id_, token in tokenizer_config.get("added_tokens_decoder", {}).items():
        if tokenizer.token_to_id(token["content"]) != int(id_):
            raise ExportError(
                f"{path} does not have the token {token['content']} (id {id_}) that "
                f"tokenizer_config.json adds; {TOKENIZER_ADVICE}"
            )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
