"""What in a checkpoint's config.json could make code that came with it run, or other weights load.

Checkpoints are always loaded without trust in their code. Even so some entries are followed: kernels
named by a config were (CVE-2026-4372). So they are refused before anything else reads the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

_PLAIN_ATTENTION = (None, "eager", "sdpa", "flash_attention_2")


def foreign_code(config: dict[str, Any], is_native: Callable[[str], bool]) -> str | None:
    """Why this config.json is refused, to be read after the checkpoint's name; None: it is safe.

    is_native: whether the library itself has a causal language model of this `model_type`. Then
    code that the checkpoint brings along (`auto_map`) is ignored, and no reason to refuse it.
    """
    in_parts = any(key == "auto_map" for part in config.values() for key, _ in _items(part))
    if in_parts or ("auto_map" in config and not _is_spare(config, is_native)):
        return (
            "asks to run code of its own (auto_map), which Tandem never does; take a model of a "
            "kind that the installed transformers has itself"
        )
    for key, value in _items(config):
        attention = key in ("attn_implementation", "_attn_implementation")
        if key == "_attn_implementation_internal" or (attention and value not in _PLAIN_ATTENTION):
            return (
                f"names an attention kernel in its config ({key}), which can make code load from "
                "elsewhere; remove that line from config.json if you trust the rest"
            )
        if key == "transformers_weights":
            return (
                "points to other weights (transformers_weights); remove that line from config.json "
                "and name the weights model.safetensors"
            )
    return None


def _is_spare(config: dict[str, Any], is_native: Callable[[str], bool]) -> bool:
    """Whether the library does without the code that the config names."""
    classes, model_type = config["auto_map"], config.get("model_type")
    names = classes.values() if isinstance(classes, dict) else [None]
    well_formed = all(isinstance(name, (str, list)) for name in names)
    return well_formed and isinstance(model_type, str) and is_native(model_type)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of a JSON value, at any depth."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield key, inner
        yield from _items(inner)
    for inner in value if isinstance(value, list) else ():
        yield from _items(inner)
