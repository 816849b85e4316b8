"""Tokens of the template written inside chat messages, kept apart while it renders the messages.

These are the special ones, and added ones that the template writes, as the roles' tokens are not
special everywhere. What it looks for in a message (`</think>`) it must see, so that stays.

They are replaced by marks before rendering and come back afterwards as segments of their own, which
the tokenizer encodes as plain text. Marks are letters and digits, so that templates that trim,
split or test the contents do what they would have done; messages without such tokens, nearly all,
reach the template untouched. If a template mangles a mark, rendering fails rather than guesses. A
token glued together from two messages, by a template that writes nothing between them, is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from device_runtime.protocol.errors import BundleError
from device_runtime.protocol.text_codec import Segment, TextCodec

_LOOKING = "r?split|r?partition|startswith|endswith|replace|r?find|count|removeprefix|removesuffix"
"""Methods and filters whose argument a template looks for in a message."""


def guarded_strings(codec: TextCodec, template: str) -> tuple[str, ...]:
    """Tokens that nobody but this template (its source) may bring into a chat, as written."""
    special = codec.special_strings
    others = (token for token in codec.added_strings if token not in special)
    return (*special, *(token for token in others if _writes(template, token)))


def _writes(template: str, token: str) -> bool:
    """Whether the token stands in the source, but not as what a message is searched for."""
    if not token.strip() or token not in template:  # some tokenizers add runs of spaces
        return False
    quoted = rf"['\"][^'\"]*{re.escape(token)}[^'\"]*['\"]"
    looked_for = rf"\b(?:{_LOOKING})\(\s*{quoted}|{quoted}\s+(?:not\s+)?in\b"
    return re.search(looked_for, template) is None


class Marks:
    """Stand-ins for guarded tokens in what users wrote, unlike any text for one rendering."""

    def __init__(self, guarded: Sequence[str], secret: str) -> None:
        """guarded: see `guarded_strings`; secret: 16 fresh hex digits, which no message knows."""
        longest_first = sorted(filter(None, guarded), key=len, reverse=True)
        self._guarded = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._secret = secret
        self._nonce = f"x{self._secret}n"
        self._hidden: list[str] = []

    def hide(self, text: str) -> str:
        """The text with every guarded token replaced."""
        return self._guarded.sub(self._hide_one, text)

    def _hide_one(self, match: re.Match[str]) -> str:
        self._hidden.append(match[0])
        return f"{self._nonce}{len(self._hidden) - 1}x"

    def reveal(self, text: str) -> list[Segment]:
        """Segments of a rendered text: the guarded tokens again, but as the user's words."""
        parts = re.split(f"{self._nonce}([0-9]+)x", text)
        segments = [
            Segment(self._hidden[int(part)], trusted=False) if index % 2 else Segment(part, True)
            for index, part in enumerate(parts)
        ]
        pieces = [self._secret[start : start + 8] for start in range(9)]
        shown = "".join(segment.text for segment in segments).lower()
        if self._hidden and any(piece in shown for piece in pieces):
            raise BundleError(
                "the chat template changes messages in a way that hides special tokens; "
                "leave special tokens out of the messages"
            )
        return [segment for segment in segments if segment.text]
