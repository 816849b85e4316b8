"""Text ↔ token ids, with special tokens only where the program wrote them: both ends do it alike.

The encoder itself, a `tokenizers.Tokenizer`, is handed in, because each end opens its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.pieces import PieceRule, piece_rule
from device_runtime.protocol.vocabulary import Entry, vocabulary_hash

UNDEFINED = "\N{REPLACEMENT CHARACTER}".encode()
"""What an id that the tokenizer does not define looks like in text."""


class Segment(NamedTuple):
    """A stretch of text; in what a user wrote (not trusted) added tokens are plain text.

    Special ones, that is, and those that `tokenizer.json` adds without calling them so.
    """

    text: str
    trusted: bool


class TextCodec:
    """What a tokenizer.json says. Ids run from 0 to num_ids − 1, holes included."""

    def __init__(self, inner: Any) -> None:
        """inner: a `tokenizers.Tokenizer` that nobody else uses; BundleError if it is unknown."""
        self._inner = inner
        self._inner.no_truncation()
        self._inner.no_padding()
        added = self._inner.get_added_tokens_decoder()
        self._added = {index: token.content for index, token in added.items()}
        self._special = {index: token.content for index, token in added.items() if token.special}
        self._rule = _rule(self._inner)
        self._num_ids: int = 1 + max(self._inner.get_vocab(with_added_tokens=True).values())
        self._start = self._start_ids()

    @property
    def num_ids(self) -> int:
        """The highest defined id, plus one."""
        return self._num_ids

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that steer the model and are no text."""
        return frozenset(self._special)

    @property
    def special_strings(self) -> tuple[str, ...]:
        """How special tokens are written."""
        return tuple(self._special.values())

    @property
    def added_strings(self) -> tuple[str, ...]:
        """How added tokens are written: the special ones, and others, from `<think>` to spaces."""
        return tuple(self._added.values())

    def token(self, token_id: int) -> Entry:
        """(string, special) of an id; None where the tokenizer defines none."""
        text = self._inner.id_to_token(token_id) if 0 <= token_id < self._num_ids else None
        return None if text is None else (text, token_id in self._special)

    def vocabulary_hash(self, count: int) -> bytes:
        """Hash over the first `count` ids, as both ends compare it."""
        return vocabulary_hash([self.token(index) for index in range(count)])

    def encode_prompt(self, text: str) -> list[int]:
        """A whole text as the model was trained on: with the start token, if the model has one."""
        return [*self._start, *self.encode_text(text)]

    def encode_text(self, text: str) -> list[int]:
        """A piece of text, taken literally: no special token comes out of what it says."""
        return self._encode_without(self._special, text)

    def _encode_without(self, unwanted: Mapping[int, str], text: str) -> list[int]:
        """The text in other tokens than these (id → string)."""
        ids: list[int] = self._encode(text, specials=False).ids
        leaks = {unwanted[index] for index in ids if index in unwanted}
        written = [token for token in leaks if token in text]
        if not written:
            return ids
        # Some models (unigram) know special tokens as ordinary pieces too, and added tokens that
        # are not special come out of every text. Cut inside each one, so that no part holds it
        # whole. Overlapping ones are found too, hence the lookahead.
        cuts = re.compile(f"(?=({'|'.join(map(re.escape, written))}))")
        edges = [0, *(match.start() + 1 for match in cuts.finditer(text)), len(text)]
        parts = [text[low:high] for low, high in pairwise(edges)]
        return [index for part in parts for index in self._encode(part, specials=False).ids]

    def encode_segments(self, segments: Sequence[Segment]) -> list[int]:
        """Rendered text: added tokens count inside trusted segments, and nowhere else.

        All segments are encoded in one go where that is safe, as pieces encoded apart may differ
        from how the model was trained.
        """
        encoding = self._encode("".join(segment.text for segment in segments), specials=True)
        spans = [
            span
            for index, span in zip(encoding.ids, encoding.offsets, strict=True)
            if index in self._added
        ]
        if not _overlap(spans, _untrusted_spans(segments)):
            ids: list[int] = encoding.ids
            return ids
        return [index for segment in segments for index in self._encode_segment(segment)]

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of ids that stand at the start of a text; special tokens are left out."""
        stream = self.detokenizer()
        return stream.feed(token_ids) + stream.flush()

    def detokenizer(self, context: Iterable[int] = (), stops: Sequence[str] = ()) -> Detokenizer:
        """A streaming decoder of what follows `context`, up to the first of the stop strings.

        context: the text that is being continued. An answer in a chat continues none: it is a text
        of its own, and the space that SentencePiece puts before each text is no part of it.
        """
        at_start = not any(self.token_bytes(index) for index in context)
        return Detokenizer(self.token_bytes, stops, at_start and self._rule.strips_leading_space)

    def token_bytes(self, token_id: int) -> bytes:
        """What an id adds to the text; nothing for a special token."""
        if token_id in self._special:
            return b""
        if token_id in self._added:
            content: str = self._added[token_id]
            return content.encode()
        entry = self.token(token_id)
        return UNDEFINED if entry is None else self._rule.to_bytes(entry[0])

    def _encode_segment(self, segment: Segment) -> list[int]:
        if not segment.trusted:
            return self._encode_without(self._added, segment.text)
        ids: list[int] = self._encode(segment.text, specials=True).ids
        return ids

    def _encode(self, text: str, *, specials: bool) -> Any:
        self._inner.encode_special_tokens = not specials
        # As a batch of one: `encode` keeps the interpreter to itself, seconds for a long text.
        return self._inner.encode_batch([text], add_special_tokens=False)[0]

    def _start_ids(self) -> list[int]:
        """Special tokens that the tokenizer puts before a text. One put after it would end it."""
        encoding = self._inner.encode("a", add_special_tokens=True)
        num_start = [*encoding.special_tokens_mask, 0].index(0)
        ids: list[int] = encoding.ids[:num_start]
        return ids


def _rule(inner: Any) -> PieceRule:
    return piece_rule(json.loads(inner.decoder.__getstate__()) if inner.decoder else {})


def _untrusted_spans(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    spans, at = [], 0
    for segment in segments:
        if not segment.trusted:
            spans.append((at, at + len(segment.text)))
        at += len(segment.text)
    return spans


def _overlap(some: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> bool:
    return any(low < end and start < high for low, high in some for start, end in others)
