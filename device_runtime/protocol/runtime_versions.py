"""What an onnxruntime can do, by its version. Standard library only: `tandem doctor` reads it."""

from __future__ import annotations

import re

Version = tuple[int, ...]

FIRST_WITH_RIGHT_WINDOWS: Version = (1, 24)
"""An older one lets a sliding window see one position more."""
WINDOW_KEY = "tandem.attention_window"
"""In the metadata of a fused graph: how many positions its shortest window sees."""
FIRST_WITH_INT8_CACHE: Version = (1, 27)
"""An older one's GroupQueryAttention reads no cache of 8 bits on CPUs."""


def version_of(words: str) -> Version:
    """The first three numbers of a version in words; compare it with the above."""
    return tuple(map(int, re.findall(r"\d+", words)[:3]))


def in_words(version: Version) -> str:
    """As people write it."""
    return ".".join(map(str, version))
