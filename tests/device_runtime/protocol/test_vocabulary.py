from __future__ import annotations

import hashlib
import json

import pytest

from device_runtime.protocol.errors import BundleError
from device_runtime.protocol.vocabulary import (
    Entry,
    VocabularyHashes,
    read_vocabulary,
    vocabulary_hash,
)

BASE: list[Entry] = [("<s>", True), ("a", False), None, ("é", False)]


def test_the_hash_is_blake2b_over_the_documented_bytes() -> None:
    data = b"\2\3\0\0\0<s>" + b"\1\1\0\0\0a" + b"\0" + b"\1\2\0\0\0\xc3\xa9"
    assert vocabulary_hash(BASE) == hashlib.blake2b(data, digest_size=16).digest()


@pytest.mark.parametrize(
    "other",
    [
        BASE[:3],
        [*BASE, None],
        [("<s>", False), *BASE[1:]],
        [BASE[0], ("b", False), *BASE[2:]],
        [BASE[0], None, ("a", False), BASE[3]],
        [*BASE[:2], ("", False), BASE[3]],
        [*BASE[:3], ("e\u0301", False)],
        [("<s>\1\1\0\0\0a", True), *BASE[2:]],
    ],
)
def test_any_difference_changes_the_hash(other: list[Entry]) -> None:
    assert vocabulary_hash(other) != vocabulary_hash(BASE)


def content(vocab: object, *added: tuple[int, str, bool]) -> bytes:
    tokens = [{"id": i, "content": text, "special": special} for i, text, special in added]
    return json.dumps({"model": {"vocab": vocab}, "added_tokens": tokens}).encode()


def test_added_tokens_override_those_of_the_model() -> None:
    read = read_vocabulary(content({"<s>": 0, "a": 1}, (0, "<s>", True), (3, "b", False)))
    assert read == [("<s>", True), ("a", False), None, ("b", False)]


def test_a_unigram_vocabulary_is_numbered_by_its_order() -> None:
    assert read_vocabulary(content([["a", -1.0], ["b", -2.0]])) == [("a", False), ("b", False)]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        content(None),
        content({"a": -1}),
        content({"a": "0"}),
        content({"a": 1 << 40}),
        content({}),
        content([[]]),
        content([1]),
    ],
)
def test_what_is_no_vocabulary_is_refused(broken: bytes) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        read_vocabulary(broken)


@pytest.mark.parametrize("num_tokens", [0, 3, 4095, 4096, 8193])
def test_the_hashes_of_all_beginnings_are_at_hand(num_tokens: int) -> None:
    kinds = [None, ("a", False), ("<s>", True), ("é" * 9, False)]
    tokens = [kinds[(index * index) % 7 % 4] for index in range(num_tokens)]
    hashes = VocabularyHashes(tokens)
    for count in {0, 1, num_tokens // 2, 4095, 4096, 4097, num_tokens - 1, num_tokens}:
        if 0 <= count <= num_tokens:
            assert hashes(count) == vocabulary_hash(tokens[:count])
