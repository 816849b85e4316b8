"""The list of committed tokens, the one truth of a session, with a rolling hash of every prefix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from device_runtime.protocol.randomness import stream_key

_HASH_MASK = (1 << 32) - 1


class TokenList:
    """Ids that may be truncated and appended to. `prefix_hash(n)` stands for the first n."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._ids: list[int] = []
        self._hashes = [0]
        self.append(ids)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> Sequence[int]:
        """The tokens; a view, not to be changed."""
        return self._ids

    def prefix_hash(self, num_tokens: int) -> int:
        """32 bits of the hash of the first tokens."""
        return self._hashes[num_tokens] & _HASH_MASK

    def append(self, ids: Iterable[int]) -> None:
        """Add tokens at the end."""
        for token_id in ids:
            self._ids.append(token_id)
            self._hashes.append(stream_key(self._hashes[-1], token_id))

    def truncate(self, num_tokens: int) -> None:
        """Forget all tokens from num_tokens on."""
        del self._ids[num_tokens:]
        del self._hashes[num_tokens + 1 :]

    def holds(self, num_tokens: int, prefix_hash: int) -> bool:
        """Whether the first num_tokens are here and hash to prefix_hash."""
        return num_tokens <= len(self) and self.prefix_hash(num_tokens) == prefix_hash
