"""Which bundles are read on other machines, and in what their tokens must agree with those here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

EXACT = {
    "optimum-fp32": ("--graph", "optimum", "--weights", "fp32"),
    "fp32": ("--graph", "fused", "--weights", "fp32"),
    "int8-level-0": (
        "--graph", "fused", "--weights", "int8", "--accuracy-level", "0", "--cache", "fp32",
    ),
    "int4-level-0": (
        "--graph", "fused", "--weights", "int4", "--accuracy-level", "0", "--cache", "fp32",
    ),
}  # fmt: skip
"""Products of float32: kernels differ by their last bits alone, and greedy text is the same."""
ROUNDED = {
    "fp16": ("--graph", "fused", "--weights", "fp16"),
    "int8": ("--graph", "fused", "--weights", "int8"),
    "int8-dynamic": ("--graph", "fused", "--weights", "int8-dynamic"),
    "int4": ("--graph", "fused", "--weights", "int4"),
    "int8-fp32-cache": ("--graph", "fused", "--weights", "int8", "--cache", "fp32"),
    "int4-fp32-cache": ("--graph", "fused", "--weights", "int4", "--cache", "fp32"),
}
"""Activations are rounded to float16 or to 8 bits, by each CPU's kernels in their own way."""
INT8_CACHE = frozenset(("int8", "int8-dynamic", "int4"))
"""Bundles whose keys and values are stored in 8 bits."""

WINDOW = 32
"""Positions that the windowed bundles see; the probe's texts are longer."""

CLEAR_MARGIN = 0.2
"""Gap of the two best logits, in standard deviations of the row, that rounding must not turn.

Seen to turn at int4, one x86 CPU against ARM's kernels: up to 0.12 with caches of float32 (level 4,
A76), up to 0.18 with caches of 8 bits (A53).
"""
MIN_CLEAR = 20


def require_same_tokens(
    here: Mapping[str, Any], there: Mapping[str, Any], unread: Collection[str] = ()
) -> None:
    """The drafts of two probes: equal text, or equal choices along one text where they are clear.

    unread: bundles that the other machine cannot read.
    """
    assert here.keys() == {*EXACT, *ROUNDED}
    assert there.keys() == here.keys() - unread
    for name in EXACT:
        assert there[name]["tokens"] == here[name]["tokens"], name
        assert there[name]["choices"] == here[name]["choices"], name
    for name in ROUNDED.keys() - unread:
        ours, theirs = here[name]["choices"], there[name]["choices"]
        margins = here[name]["margins"]
        clear = [margin >= CLEAR_MARGIN for margin in margins]
        turned = [m for a, b, m in zip(ours, theirs, margins, strict=True) if a != b]
        print(f"\n{name}: {len(turned)} of {len(ours)} choices differ, at margins {turned}", end="")
        assert sum(clear) >= MIN_CLEAR, name
        assert all(m < CLEAR_MARGIN for m in turned), name
