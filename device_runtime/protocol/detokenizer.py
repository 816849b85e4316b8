"""Token ids in, text out, as they come: what may still change is held back.

Everything happens on bytes, as a stop string or a character may begin and end inside tokens:

    tokens → bytes → [ held: may begin a stop string ] → [ held: half a character ] → text

A stop string ends the text as soon as it is complete; of several that are complete at the same
byte, the longest counts. So the text does not depend on how it was cut into tokens. The tokens that
stand are those that lie wholly before the stop string: their text never passes it, but may lack the
last characters given out, where a token reaches from there into the stop string.
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
        self._num_released_bytes = 0
        self._ends: list[int] = []  # of every token, in bytes from the start of the text
        self._stop: str | None = None

    @property
    def stop(self) -> str | None:
        """The stop string that was found."""
        return self._stop

    @property
    def num_tokens(self) -> int:
        """How many of the tokens fed stand."""
        return len(self._ends)

    @property
    def num_settled(self) -> int:
        """How many of the tokens fed no stop string can take back any more."""
        return bisect_right(self._ends, self._num_released_bytes)

    def feed(self, token_ids: Iterable[int]) -> str:
        """Take more ids; the text that is certain now. Ids after a stop string are ignored."""
        text = ""
        for token_id in token_ids:
            if self._stop is not None:
                break
            text += self._take(token_id)
        return text

    def flush(self) -> str:
        """The text still held back, half a character as U+FFFD. Nothing may be fed after it."""
        held, self._held = self._held, b""
        self._num_released_bytes += len(held)
        return self._characters.decode(held, final=True)

    def _take(self, token_id: int) -> str:
        piece = self._token_bytes(token_id)
        if self._strip and piece:
            piece, self._strip = piece.removeprefix(b" "), False
        self._held += piece
        self._ends.append(self._num_released_bytes + len(self._held))
        found = self._find()
        if found is not None:
            return self._end_at(*found)
        size = len(self._held) - self._num_suspect()
        released, self._held = self._held[:size], self._held[size:]
        self._num_released_bytes += size
        return self._characters.decode(released)

    def _find(self) -> tuple[int, bytes] | None:
        """Where in the held bytes the first complete stop string starts, and which it is."""
        found = [
            (at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0
        ]
        return min(found)[1:] if found else None

    def _num_suspect(self) -> int:
        """Length of the longest end of the held bytes that may begin a stop string."""
        for size in range(min(self._longest - 1, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0

    def _end_at(self, start: int, stop: bytes) -> str:
        """Give out what stands before the stop string, and drop the tokens that reach into it."""
        self._stop = self._stops[stop]
        before, self._held = self._held[:start], b""
        self._num_released_bytes += start
        del self._ends[self.num_settled :]
        return self._characters.decode(before, final=True)
