"""One text written by the LLM alone, for an HTTP client: the session that a device would stream.

The same `EdgeSession` and the same scheduler serve it, so it shares batches with the rounds, and
the same seed gives the same text as `tandem run --edge-only --seed`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts, Job, Rows
from device_runtime.protocol.errors import TandemError
from device_runtime.protocol.messages import Begin, Hello, Message, Stream, encode
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SEEDED_SCHEME, scheme_named
from edge_server.auth import Identity
from edge_server.front import PACE_S, Front
from edge_server.logprobs import TokenLogprob, token_logprob
from edge_server.metrics import Usage
from edge_server.tally import Tally

S = TypeVar("S")

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be written."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    seed: int
    """64 bits."""
    max_tokens: int
    num_top: int | None
    """So many likely tokens are named beside each one written; None asks for no logprobs."""


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that is certain now, and the tokens that certainly stand."""

    text: str
    tokens: tuple[TokenLogprob, ...]
    """Empty unless logprobs were asked for."""


class CutError(TandemError):
    """The server ended the completion before it was whole, because it shuts down."""


class Completion(Generic[S]):
    """Iterate over `deltas` once; then `finish_reason` and `usage` tell how it went."""

    def __init__(
        self,
        front: Front[S],
        facts: EdgeFacts,
        identity: Identity,
        wish: Wish,
        detokenizer: Detokenizer,
    ) -> None:
        self.identity = identity
        self.finish_reason: FinishReason | None = None
        """None as long as it runs."""
        self.num_written = 0
        """Tokens the model gave, those of a stop string and the end token included."""
        self._front = front
        self._facts = facts
        self._wish = wish
        self._detokenizer = detokenizer
        self._tally = Tally()
        self._pending: list[TokenLogprob] = []
        """Tokens whose text is still held back."""
        self._num_given = 0
        self._is_cut = False
        self._times_s = [time.monotonic()]
        """Of the beginning, the first token, the last token."""

    @property
    def usage(self) -> Usage:
        """So far."""
        start_s, *token_times_s = self._times_s
        end_s = token_times_s[-1] if token_times_s else time.monotonic()
        per_token_s = None
        if self.num_written > 1:
            per_token_s = (end_s - token_times_s[0]) / (self.num_written - 1)
        return Usage(
            prompt_tokens=len(self._wish.prompt_ids),
            written_tokens=self.num_written,
            seconds=end_s - start_s,
            first_token_s=token_times_s[0] - start_s if token_times_s else None,
            per_token_s=per_token_s,
        )

    def cut(self) -> None:
        """End it at its next token: `deltas` raises CutError there."""
        self._is_cut = True

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """The text bit by bit. Cancelling, or closing the iterator, takes its job back."""
        replicas = self._front.replicas
        place = replicas.open(self.identity)
        try:
            session = self._session()
            step = session.receive(encode(self._begin()))
            assert step.job is not None
            session.commit((await self._front.run(place, step.job, self.identity))())
            step = session.receive(encode(Stream(self._wish.max_tokens)))
            while step.job is not None and self.finish_reason is None:
                await self._pace()
                result = await self._front.run(place, self._with_logprobs(step.job), self.identity)
                if self._is_cut:
                    raise CutError
                written, logprobs = result()
                del result  # it may hold the rows of the batch, and a slow reader keep this waiting
                step = session.commit(written)
                self._front.answered(self._tally, step.outcome)
                self._pending += logprobs
                *others, last = written
                for token_id in others:  # several at a time where the edge drafts
                    yield self._take(token_id, is_last=False)
                    if self._is_over:
                        return
                yield self._take(last, is_last=step.job is None)
        finally:
            replicas.close(place)

    async def _pace(self) -> None:
        """A client in debt is written for at its rate."""
        while wait_s := self._front.debt_s(self.identity):
            if self._is_cut:
                raise CutError
            await asyncio.sleep(min(wait_s, PACE_S))

    @property
    def _is_over(self) -> bool:
        return self.finish_reason is not None

    def _with_logprobs(self, job: Job) -> Job:
        """The job that reads, beside the tokens, what the model says of each; nothing if not asked."""
        num_ids, num_top = self._facts.num_ids, self._wish.num_top

        def read(rows: Rows) -> tuple[tuple[int, ...], list[TokenLogprob]]:
            ids = job.read(rows)
            if num_top is None:
                return ids, []
            return ids, [token_logprob(rows, token_id, num_ids, num_top) for token_id in ids]

        return replace(job, read=read)

    def _session(self) -> EdgeSession:
        wants_rows = self._wish.num_top is not None  # of every token: no drafts
        facts = replace(self._facts, edge_gamma=0) if wants_rows else self._facts
        session = EdgeSession(facts, resume_token=b"")
        session.receive(encode(Hello("http", self._facts.num_ids)))
        return session

    def _begin(self) -> Message:
        wish = self._wish
        return Begin(
            base=0,
            prefix_hash=0,
            appended=wish.prompt_ids,
            boundary=len(wish.prompt_ids),
            scheme_code=scheme_named(SEEDED_SCHEME).code,
            sampling=wish.sampling,
            seed=wish.seed,
            end_ids=self._facts.end_ids,
        )

    def _take(self, token_id: int, *, is_last: bool) -> Delta:
        """One token more."""
        self.num_written += 1
        self._times_s[1:] = [*self._times_s[1:2], time.monotonic()]
        ended = token_id in self._facts.end_ids
        text = "" if ended else self._detokenizer.feed([token_id])
        if ended or self._detokenizer.stop is not None:
            self.finish_reason = "stop"
        elif is_last:
            self.finish_reason = "length"
        if self.finish_reason is not None:
            text += self._detokenizer.flush()
        return Delta(text, self._settled())

    def _settled(self) -> tuple[TokenLogprob, ...]:
        """Tokens that no stop string can take back; the end token has no text and is none."""
        count = self._detokenizer.num_settled - self._num_given
        given, self._pending = self._pending[:count], self._pending[count:]
        self._num_given += len(given)
        return tuple(given)
