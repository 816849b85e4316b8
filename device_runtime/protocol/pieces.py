"""What bytes a token's string stands for: the two rules that decoder-only models use.

Byte-level tokenizers (GPT-2, Llama 3, Qwen, Pythia, OPT) write each byte as one printable letter.
SentencePiece-like ones (Llama 2, TinyLlama, Phi-3, Mistral, Gemma) write a space as `▁`, and bytes
outside their alphabet as `<0xE2>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device_runtime.protocol.errors import BundleError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, slots=True)
class PieceRule:
    """How token strings become bytes."""

    byte_level: bool
    space: str = " "
    """Written for a space."""
    byte_fallback: bool = False
    """Whether `<0x0A>` stands for one byte."""
    strips_leading_space: bool = False
    """Whether one space at the very start of a text belongs to the tokenizer, not to the text."""

    def to_bytes(self, piece: str) -> bytes:
        """The bytes that a token adds to the text."""
        if self.byte_level:
            # A token with letters outside the byte alphabet stands for itself.
            known = all(letter in _BYTE_OF_LETTER for letter in piece)
            return bytes(_BYTE_OF_LETTER[letter] for letter in piece) if known else piece.encode()
        if self.byte_fallback and (match := _BYTE_TOKEN.fullmatch(piece)):
            return bytes([int(match[1], 16)])
        return piece.replace(self.space, " ").encode()


def piece_rule(decoder: Mapping[str, Any]) -> PieceRule:
    """The rule that the `decoder` part of a tokenizer.json describes; BundleError if unknown."""
    steps = decoder.get("decoders", [decoder])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return PieceRule(byte_level=True)
    if kinds == ["Metaspace"]:
        strips = steps[0].get("prepend_scheme") != "never"
        return PieceRule(False, steps[0]["replacement"], strips_leading_space=strips)
    by_kind = dict(zip(kinds, steps, strict=True))
    replace, strip = by_kind.get("Replace", {}), by_kind.get("Strip", {})
    simple = len(by_kind) == len(steps) and by_kind.keys() <= {
        "Replace",
        "ByteFallback",
        "Fuse",
        "Strip",
    }
    if not simple or replace.get("content") != " " or strip.get("content", " ") != " ":
        raise BundleError(
            f"tokenizer.json decodes by {', '.join(map(str, kinds))}, which this version cannot "
            "stream; it knows byte-level and SentencePiece-like tokenizers"
        )
    space, strips = replace["pattern"]["String"], strip.get("start", 0) > 0
    return PieceRule(False, space, "ByteFallback" in by_kind, strips)


def _byte_letters() -> dict[str, int]:
    """The letters of byte-level tokenizers: printable Latin-1 as it is, the rest from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()
