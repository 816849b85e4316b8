"""Special tokens written inside chat messages, kept apart while a template renders the messages.

They are replaced by marks before rendering and come back afterwards as segments of their own, which
the tokenizer encodes as plain text. Marks are letters and digits, so that templates that trim,
split or test the contents do what they would have done; messages without special tokens, nearly
all, reach the template untouched. If a template mangles a mark, rendering fails rather than
guesses. A special token glued together from two messages, by a template that writes nothing between
them, is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from device_runtime.protocol.errors import BundleError
from device_runtime.protocol.text_codec import Segment


class Marks:
    """Stand-ins for the special tokens in what users wrote, unlike any text for one rendering."""

    def __init__(self, special_strings: Sequence[str], secret: str) -> None:
        """secret: 16 fresh hexadecimal digits, which no message can know."""
        longest_first = sorted(filter(None, special_strings), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._secret = secret
        self._nonce = f"x{self._secret}n"
        self._hidden: list[str] = []

    def hide(self, text: str) -> str:
        """The text with every special token replaced."""
        return self._special.sub(self._hide_one, text)

    def _hide_one(self, match: re.Match[str]) -> str:
        self._hidden.append(match[0])
        return f"{self._nonce}{len(self._hidden) - 1}x"

    def reveal(self, text: str) -> list[Segment]:
        """Segments of a rendered text: the special tokens again, but as the user's words."""
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
