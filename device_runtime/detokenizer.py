"""Token ids in, text out, as they come: what may still change is held back.

Everything happens on bytes, as a stop string or a character may begin and end inside tokens:

    tokens → bytes → [ held: may begin a stop string ] → [ held: half a character ] → text

A stop string ends the text as soon as it is complete; of several that are complete at the same byte,
the longest counts. Both do not depend on how the text was cut into tokens. The tokens that stand are
those that lie wholly before the stop string, so their text never passes it; it may lack a few
characters of the text that was given out, where a token reaches from there into the stop string.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from device_runtime.protocol.errors import ConfigError


class Detokenizer:
    """Feed ids, show what comes back; at the end flush, unless a stop string was found."""

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        stops: Sequence[str] = (),
        strip_leading_space: bool = False,
    ) -> None:
        """token_bytes: what an id adds to the text. One leading space is dropped if asked for."""
        if "" in stops:
            raise ConfigError("a stop string is empty; give at least one character")
        self._token_bytes = token_bytes
        self._stops = {stop.encode(): stop for stop in stops}
        self._longest = max(map(len, self._stops), default=0)
        self._strip = strip_leading_space
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""
        self._ends: list[int] = []  # of every token, in bytes from the start of the text
        self._num_dropped = 0
        self._stop: str | None = None

    @property
    def stop(self) -> str | None:
        """The stop string that was found."""
        return self._stop

    @property
    def num_tokens(self) -> int:
        """How many of the tokens fed stand."""
        return len(self._ends)

    def feed(self, token_ids: Iterable[int]) -> str:
        """Take more ids; the text that is certain now. Ids after a stop string are ignored."""
        text = ""
        for token_id in token_ids:
            if self._stop is not None:
                break
            text += self._take(token_id)
        return text

    def flush(self) -> str:
        """The text still held back; half a character becomes U+FFFD. Nothing may be fed after it."""
        held, self._held = self._held, b""
        return self._characters.decode(held, final=True)

    def _take(self, token_id: int) -> str:
        piece = self._token_bytes(token_id)
        if self._strip and piece:
            piece, self._strip = piece.removeprefix(b" "), False
        self._ends.append(self._num_bytes + len(piece))
        self._held += piece
        found = self._find()
        if found is not None:
            start, stop = found
            return self._end_at(start, stop)
        return self._release(len(self._held) - self._num_suspect())
