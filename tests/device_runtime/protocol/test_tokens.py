"""The token list and its rolling hash."""

from __future__ import annotations

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
