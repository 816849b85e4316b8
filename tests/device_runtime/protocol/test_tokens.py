"""The token list and its rolling hash."""

from __future__ import annotations

import pytest

from device_runtime.protocol.randomness import stream_key
from device_runtime.protocol.tokens import TokenList


def test_the_hash_of_a_prefix_depends_on_its_tokens_alone() -> None:
    one, other = TokenList([1, 2, 3, 9]), TokenList([1, 2, 3])
    assert one.prefix_hash(3) == other.prefix_hash(3)
    assert one.holds(3, other.prefix_hash(3))
    assert not other.holds(4, one.prefix_hash(4))
    assert TokenList([1, 3, 2]).prefix_hash(3) != one.prefix_hash(3)
    assert TokenList([0]).prefix_hash(1) != TokenList([]).prefix_hash(0)


def test_truncate_and_append_leave_the_hashes_of_a_fresh_list() -> None:
    tokens = TokenList([1, 2, 3, 4, 5])
    tokens.truncate(2)
    tokens.append([8, 9])
    fresh = TokenList([1, 2, 8, 9])
    assert list(tokens.ids) == [1, 2, 8, 9]
    assert [tokens.prefix_hash(n) for n in range(5)] == [fresh.prefix_hash(n) for n in range(5)]


@pytest.mark.parametrize("made_before", [0, 3, 100])
def test_a_hash_is_the_same_whenever_it_is_made(made_before: int) -> None:
    """The values cross the wire: each is the stream key of the one before and the token."""
    tokens, expected = TokenList([7, 1, 2**24 - 1, 0, 0]), 0
    tokens.hash_some(made_before)
    for num_tokens, token_id in enumerate(list(tokens.ids), 1):
        expected = stream_key(expected, token_id)
        assert tokens.prefix_hash(num_tokens) == expected & 0xFFFFFFFF
    assert TokenList([7, 1]).prefix_hash(2) == 0xE48A61EC


def test_hashes_can_be_made_some_at_a_time() -> None:
    tokens = TokenList(range(10))
    assert [tokens.hash_some(4) for _ in range(4)] == [True, True, False, False]
    tokens.truncate(3)
    tokens.append([9] * 4)
    assert [tokens.hash_some(2) for _ in range(3)] == [True, False, False]
    assert tokens.prefix_hash(7) == TokenList([0, 1, 2, 9, 9, 9, 9]).prefix_hash(7)
    assert not TokenList().hash_some(1)


def test_a_copy_stays_as_it_is() -> None:
    tokens = TokenList([1, 2, 3])
    copy = tokens.followed_by(2, [8, 9])
    tokens.truncate(1)
    tokens.append([5])
    assert copy == (1, 2, 8, 9)
