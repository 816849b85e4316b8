"""What an onnxruntime can do, by its version. Standard library only: `tandem doctor` reads it."""

from __future__ import annotations

import re

FIRST_WITH_INT8_CACHE = (1, 27)
"""The onnxruntime whose GroupQueryAttention reads a cache of 8 bits on CPUs."""


def version_of(onnxruntime: str) -> tuple[int, ...]:
    """(major, minor) of a version in words."""
    return tuple(map(int, re.findall(r"\d+", onnxruntime)[:2]))
