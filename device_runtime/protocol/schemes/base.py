"""The interface of a verification scheme: who sends what about q and p, and who draws.

One object holds both halves. The device calls `draft` and `settle`, the edge `accepts`, `reject`
and `next_token`; the four codecs are shared. A scheme sees one position at a time; the loop over a
block is written once, in `verify.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from device_runtime.protocol.law import Law
from device_runtime.protocol.messages.fields import MAX_GAMMA
from device_runtime.protocol.randomness import Coins, Purpose, Streams
from device_runtime.protocol.wire import BitReader, BitWriter, Reader, Writer


class Place(NamedTuple):
    """Where a token stands, and the randomness both ends share there."""

    seed: int
    """The generation's seed: shared, so never used for the device's own coins."""
    position: int
    """Absolute index of the token in the device's list."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the codecs need to know of the ids."""

    num_ids: int

    @property
    def id_bits(self) -> int:
        return max(1, (self.num_ids - 1).bit_length())


class Drafted(NamedTuple):
    """A drafted token and what the scheme sends of q beside it."""

    token_id: int
    evidence: Any = None


class Ask(NamedTuple):
    """How many draws of p the device wants on a rejection, from which draw of the stream on."""

    num_draws: int = 0
    first: int = 0
    whole_row: bool = False
    """After a few failed tries: send everything that is needed at once."""


class Scheme(Protocol):
    """One row of the table in docs/schemes.md."""

    name: str
    code: int
    """What stands for the scheme on the wire."""
    lossless: bool
    """Whether the text follows p exactly; with `dssd`, up to the roundings it states."""

    def max_gamma(self, vocab: Vocabulary) -> int:
        """Longest block that an edge takes: its evidence must fit a message and be read quickly."""
        ...

    def draft(self, q: Law, place: Place, coins: Coins) -> Drafted:
        """Device: a token to propose at this place."""
        ...

    def settle(self, q: Law, drafted: Drafted, rejection: Any, coins: Coins) -> int | None:
        """Device: the token that replaces a rejected one, or None: more draws are needed."""
        ...

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        """Edge: whether the drafted token stands."""
        ...

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        """Edge: what the device needs to replace a rejected token."""
        ...

    def next_token(self, p: Law, place: Place, streams: Streams) -> int:
        """Edge: the token after a block that stands as a whole."""
        ...

    def write_evidence(self, bits: BitWriter, block: Sequence[Drafted], vocab: Vocabulary) -> None:
        """Device: what goes up beside the ids."""
        ...

    def read_evidence(
        self, bits: BitReader, token_ids: Sequence[int], vocab: Vocabulary
    ) -> tuple[Drafted, ...]:
        """Edge: the block again; RemoteError on what no honest device sends."""
        ...

    def write_rejection(self, out: Writer, rejection: Any, vocab: Vocabulary) -> None:
        """Edge: what `reject` gave."""
        ...

    def read_rejection(self, data: Reader, vocab: Vocabulary) -> Any:
        """Device: it again; RemoteError on what no honest edge sends."""
        ...


def draw_from_law(p: Law, streams: Streams) -> int:
    """One token from p with the edge's own coins."""
    return int(streams(Purpose.NEXT_TOKEN, 0).draw(p, 1)[0])


class NoEvidence:
    """Codec of schemes that send nothing of q."""

    def max_gamma(self, vocab: Vocabulary) -> int:
        return MAX_GAMMA

    def write_evidence(self, bits: BitWriter, block: Sequence[Drafted], vocab: Vocabulary) -> None:
        """Ids alone are sent."""

    def read_evidence(
        self, bits: BitReader, token_ids: Sequence[int], vocab: Vocabulary
    ) -> tuple[Drafted, ...]:
        return tuple(Drafted(token_id) for token_id in token_ids)


class TokenReply:
    """Codec and settling of schemes in which the edge draws the replacement: one id."""

    def settle(self, q: Law, drafted: Drafted, rejection: Any, coins: Coins) -> int | None:
        return int(rejection)

    def write_rejection(self, out: Writer, rejection: Any, vocab: Vocabulary) -> None:
        out.varint(rejection)

    def read_rejection(self, data: Reader, vocab: Vocabulary) -> Any:
        return data.varint(vocab.num_ids - 1)
