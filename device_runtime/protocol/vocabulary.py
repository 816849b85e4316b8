"""The vocabulary as both ends compare it: the string of every token id and whether it is special.

Not files are compared but what they mean: two ends share a vocabulary when the hashes over their
first ids agree, however their tokenizer files are written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from device_runtime.protocol.errors import BundleError

Entry = tuple[str, bool] | None
"""(token string, special), or None for an id that the tokenizer does not define."""

HASH_BYTES = 16
MAX_NUM_IDS = 1 << 22

_HOLE, _PLAIN, _SPECIAL = b"\0", b"\1", b"\2"


def vocabulary_hash(tokens: Sequence[Entry]) -> bytes:
    """BLAKE2b (16 bytes) over the tokens in id order.

    A hole is one byte 0. A token is one byte, 1 or 2 if special, then the length of its UTF-8 as
    four bytes, little-endian, then the UTF-8. No sequence is the start of another one's bytes.
    """
    return _hash_of(tokens).digest()


class VocabularyHashes:
    """`vocabulary_hash` of the first tokens of a list, however many are asked for, in milliseconds.

    Whoever asks chooses the count: an edge must not hash 150,000 tokens for every stranger.
    """

    _STRIDE = 4096

    def __init__(self, tokens: Sequence[Entry]) -> None:
        self._tokens = tokens
        self._hashes = [_hash_of(())]
        """Of the first 0, 4096, 8192, … tokens."""
        for start in range(0, len(tokens) - self._STRIDE + 1, self._STRIDE):
            self._hashes.append(_hash_of(tokens[start : start + self._STRIDE], self._hashes[-1]))

    def __call__(self, count: int) -> bytes:
        """Over the first `count`, which must be at most all of them."""
        nearest = count // self._STRIDE
        rest = self._tokens[nearest * self._STRIDE : count]
        return _hash_of(rest, self._hashes[nearest]).digest()


def _hash_of(tokens: Sequence[Entry], before: hashlib.blake2b | None = None) -> hashlib.blake2b:
    """The hash so far, of these tokens behind those that `before` has seen."""
    parts = []
    for token in tokens:
        if token is None:
            parts.append(_HOLE)
        else:
            text = token[0].encode("utf-8", "surrogatepass")
            parts += (_SPECIAL if token[1] else _PLAIN, len(text).to_bytes(4, "little"), text)
    so_far = before.copy() if before else hashlib.blake2b(digest_size=HASH_BYTES)
    so_far.update(b"".join(parts))
    return so_far


def read_vocabulary(tokenizer_json: bytes) -> list[Entry]:
    """Every id's token out of the content of a tokenizer.json; BundleError if it has none.

    The list ends with the highest defined id. Added tokens override the model's own.
    """
    try:
        data = json.loads(tokenizer_json)
        vocab = data["model"]["vocab"]
        strings = _unigram(vocab) if isinstance(vocab, list) else _by_id(vocab)
        added = {item["id"]: (item["content"], item["special"]) for item in data["added_tokens"]}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BundleError(
            f"tokenizer.json holds no vocabulary this version reads ({error!r}); "
            "export the model again from a checkpoint with a fast tokenizer"
        ) from None
    return _in_order({**{index: (text, False) for index, text in strings.items()}, **added})


def _by_id(vocab: dict[str, int]) -> dict[int, str]:
    return {index: text for text, index in vocab.items()}


def _unigram(vocab: list[list[Any]]) -> dict[int, str]:
    return {index: piece[0] for index, piece in enumerate(vocab)}


def _in_order(entries: dict[Any, Entry]) -> list[Entry]:
    ids_are_good = all(isinstance(index, int) and 0 <= index < MAX_NUM_IDS for index in entries)
    if not entries or not ids_are_good:
        raise BundleError(
            f"tokenizer.json must number its tokens from 0 to {MAX_NUM_IDS - 1}; "
            "export the model again"
        )
    return [entries.get(index) for index in range(max(entries) + 1)]
