"""Rotary parameters as config.json states them: transformers 4 and 5 write them differently.

transformers 5 puts them all into `rope_parameters`, which transformers 4 reads without a word and
does not use: the model then turns its keys by other angles, and writes another law.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
}
"""What transformers 5 calls it → what a config of transformers 4 does, by its kind."""
_FULL, _SLIDING = "full_attention", "sliding_attention"


def longrope_limit(config: Mapping[str, Any]) -> int | None:
    """Positions up to which a `longrope` model turns by its short factors; None for any other."""
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    rope = rope if isinstance(rope, dict) else {}
    original = config.get("original_max_position_embeddings")
    original = original or rope.get("original_max_position_embeddings")
    if "longrope" in (rope.get("rope_type"), rope.get("type")) and original:
        return int(original)
    return None


def complete(config: Any, stated: Mapping[str, Any], version: str) -> str | None:
    """Write what config.json states as transformers 5 does into a config that transformers 4 made.

    stated: the content of config.json; version: of the transformers that made the config of it. The
    reason, to be read after the checkpoint's name, where it has no place for a parameter; None: the
    config says all.
    """
    if int(version.partition(".")[0]) >= 5:
        return None
    inner = stated.get("text_config")
    parts = [stated, inner] if isinstance(inner, dict) else [stated]
    if not any("rope_parameters" in part for part in parts):
        return None
    told = _translated(stated.get("rope_parameters"), config)
    if told is None:
        return (
            "states its rotary parameters as transformers 5 does (rope_parameters), in a form that "
            "the installed transformers 4 has no words for; install transformers 5 or newer"
        )
    for name, value in told.items():
        setattr(config, name, value)
    return None


def _translated(rope: Any, config: Any) -> dict[str, Any] | None:
    """Names and values as transformers 4 knows them; None where it does not."""
    if not isinstance(rope, dict):
        return None
    told: dict[str, Any] = {}
    if _FULL in rope:  # one set for each kind of layer, as Gemma 3 has them
        sliding = rope.get(_SLIDING, {})
        plain = set(sliding) == {"rope_type", "rope_theta"} and sliding["rope_type"] == "default"
        if set(rope) != {_FULL, _SLIDING} or not plain:
            return None
        if not hasattr(config, "rope_local_base_freq"):
            return None
        told["rope_local_base_freq"] = sliding["rope_theta"]
        rope = rope[_FULL]
    scaling = {key: value for key, value in rope.items() if key not in _NAMES}
    if any(isinstance(value, dict) for value in scaling.values()):
        return None
    for key in rope.keys() & _NAMES.keys():
        names = [name for name in _NAMES[key] if hasattr(config, name)]
        told |= dict.fromkeys(names, rope[key])
        if not names and rope[key] != 1:  # of a factor, as good as none
            return None
    told["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
    if limit := longrope_limit({"rope_parameters": scaling}):
        told["original_max_position_embeddings"] = limit
    return told
