"""How a job's rows will be judged, said before they are computed.

It is pure: the same rows always give the same judgement. So it may be judged wherever the rows are, and
an engine with a draft model of its own may add a block to a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from device_runtime.protocol.edge_states import Rows
from device_runtime.protocol.law import Law
from device_runtime.protocol.penalties import counted_tokens
from device_runtime.protocol.randomness import Purpose, edge_streams
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Scheme
from device_runtime.protocol.verify import Judgement, RoundKey, StreamsAt, judge_block


@dataclass(frozen=True, slots=True)
class Judging:
    """A block on top of a text, and everything but p that decides what becomes of it."""

    scheme: Scheme
    sampling: Sampling
    boundary: int
    """Where the generated tokens begin."""
    key: RoundKey
    tokens: tuple[int, ...]
    """All of them, the drafted ones included."""
    block: tuple[Drafted, ...] = ()
    end_ids: frozenset[int] = frozenset()
    ask: Ask = field(default_factory=Ask)
    bonus: bool = True
    skipped: int = 0
    """Rows of the job before the one that judges the first drafted token."""
    gamma: int = 0
    """Tokens that an engine may draft with a model of its own."""
    streams_at: StreamsAt = edge_streams

    @property
    def base(self) -> int:
        """Position of the first drafted token."""
        return len(self.tokens) - len(self.block)

    @property
    def num_rows(self) -> int:
        """Of the job: one more than drafted tokens, and those skipped."""
        return self.skipped + len(self.block) + 1

    def generated(self) -> Sequence[int]:
        """The tokens penalties count, the block included; empty where there are no penalties."""
        return counted_tokens(self.sampling, self.tokens, self.boundary)

    def num_generated(self, i: int) -> int:
        """How many of them stand before the i-th token of the block."""
        return self.base + i - self.boundary

    def judge(self, rows: Rows) -> Judgement:
        """What becomes of the block."""
        generated = self.generated()

        def law_at(i: int) -> Law:
            return rows.law(self.skipped + i, self.sampling, generated[: self.num_generated(i)])

        return judge_block(
            self.scheme, law_at, self.block, self.base, self.key, self.ask, self.end_ids,
            bonus=self.bonus, streams_at=self.streams_at,
        )  # fmt: skip

    def standing(self, judgement: Judgement) -> tuple[int, ...]:
        """The tokens that stand from that of the first row on: skipped, accepted and next ones."""
        end = self.base + judgement.num_accepted
        ids = self.tokens[self.base - self.skipped : end]
        return ids if judgement.next_token is None else (*ids, judgement.next_token)

    @property
    def is_full(self) -> bool:
        """Whether nothing may be drafted after the block."""
        ended = bool(self.block) and self.block[-1].token_id in self.end_ids
        return ended or len(self.block) >= self.gamma

    def drafted(self, q: Law) -> Judging:
        """With one more drafted token; q: the draft model's law after all tokens."""
        position = len(self.tokens)
        streams = self.streams_at(
            self.key.seed, self.key.epoch, self.key.round_number, position
        )  # the coins of drafting share nothing with those of judging
        place = Place(self.key.seed, position)
        # A place that is drafted again, in a later block, stands nearer to that block's beginning, so
        # its coin is another one.
        coins = streams(Purpose.EDGE_DRAFT, len(self.block))
        drafted = self.scheme.draft(q, place, coins)
        tokens = (*self.tokens, drafted.token_id)
        return replace(self, tokens=tokens, block=(*self.block, drafted))


@dataclass(frozen=True, slots=True)
class DraftedRows:
    """Rows of a stream's job to which the engine added a block."""

    rows: Rows
    judging: Judging

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        return self.rows.law(row, sampling, generated)


def judging_of(rows: Rows, judging: Judging) -> Judging:
    """What a stream's rows are judged by: with the block, where the engine added one."""
    return rows.judging if isinstance(rows, DraftedRows) else judging


def written(judging: Judging, rows: Rows) -> tuple[int, ...]:
    """The tokens that a stream's rows give, by a scheme that draws replacements on the edge."""
    judging = judging_of(rows, judging)
    judgement = judging.judge(rows)
    ids = [drafted.token_id for drafted in judging.block[: judgement.num_accepted]]
    last = judgement.rejection if judgement.next_token is None else judgement.next_token
    return tuple(ids) if last is None else (*ids, int(last))
