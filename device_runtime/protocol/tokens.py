"""The list of committed tokens, the one truth of a session, with a rolling hash of every prefix.

Each hash builds on the one before, so that a long prompt takes a while. Hashes are therefore made when
somebody asks for them; a server makes those of a long prompt beforehand, some at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from device_runtime.protocol.randomness import stream_key

_HASH_MASK = (1 << 32) - 1


class TokenList:
    """Ids that may be truncated and appended to. `prefix_hash(n)` stands for the first n."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._ids: list[int] = []
        self._hashes = array("Q", [0])
        """Of the first 0, 1, 2, … tokens, as far as they were asked for."""
        self.append(ids)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> Sequence[int]:
        """The tokens; a view, not to be changed."""
        return self._ids

    def followed_by(self, num_tokens: int, more: Iterable[int] = ()) -> tuple[int, ...]:
        """The first num_tokens tokens and `more` after them: a copy that stays as it is."""
        return (*self._ids[:num_tokens], *more)

    def prefix_hash(self, num_tokens: int) -> int:
        """32 bits of the hash of the first tokens."""
        self._hash_up_to(num_tokens)
        return self._hashes[num_tokens] & _HASH_MASK

    def hash_some(self, count: int) -> bool:
        """Hash `count` tokens that have not been hashed yet; whether any are left."""
        self._hash_up_to(min(len(self), len(self._hashes) - 1 + count))
        return len(self._hashes) <= len(self)

    def append(self, ids: Iterable[int]) -> None:
        """Add tokens at the end."""
        self._ids.extend(ids)

    def truncate(self, num_tokens: int) -> None:
        """Forget all tokens from num_tokens on."""
        del self._ids[num_tokens:]
        del self._hashes[num_tokens + 1 :]

    def holds(self, num_tokens: int, prefix_hash: int) -> bool:
        """Whether the first num_tokens are here and hash to prefix_hash."""
        return num_tokens <= len(self) and self.prefix_hash(num_tokens) == prefix_hash

    def _hash_up_to(self, num_tokens: int) -> None:
        last = self._hashes[-1]
        for token_id in self._ids[len(self._hashes) - 1 : num_tokens]:
            last = stream_key(last, token_id)
            self._hashes.append(last)
