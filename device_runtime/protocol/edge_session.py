"""The edge's half of a session: bytes in; a job for the engine, or bytes out. No I/O, no tensors.

    step = session.receive(data)          # plan: decode, check, say what must be computed
    while step.job is not None:
        result = engine.run(step.job)     # run: the only part that touches a model
        step = session.commit(result())   # commit: advance, answer

What becomes of a job's rows is said by its `read`, which judges and encodes, and changes nothing. A
message that breaks a rule raises RemoteError and leaves the session as it was. The device's token
list is the truth: this side only mirrors it, so any edge can go on after a `Begin` with all tokens.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from device_runtime.protocol import messages
from device_runtime.protocol.edge_codec import read_block
from device_runtime.protocol.edge_reads import read_more, read_round
from device_runtime.protocol.edge_states import ALLOWED, EdgeFacts, Job, Outcome, State, Step
from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.judging import Judging, written
from device_runtime.protocol.messages import (
    Begin,
    Begun,
    Cancel,
    Flags,
    Hello,
    More,
    Round,
    Stream,
    Tokens,
    encode,
)  # fmt: skip
from device_runtime.protocol.messages.fields import MAX_ROWS
from device_runtime.protocol.randomness import edge_streams
from device_runtime.protocol.schemes import scheme_coded
from device_runtime.protocol.schemes.base import Ask, Drafted, Scheme, TokenReply, Vocabulary
from device_runtime.protocol.schemes.on_edge import scheme_on_edge
from device_runtime.protocol.tokens import TokenList
from device_runtime.protocol.verify import Judgement, RoundKey, StreamsAt

NUM_STORED_VERDICTS = 4
"""Answers kept for rounds that come again after a lost connection."""


@dataclass(frozen=True, slots=True)
class _PendingRound:
    message: Round
    digest: bytes
    block: tuple[Drafted, ...]


class EdgeSession:
    """One device's session on this edge."""

    def __init__(
        self,
        facts: EdgeFacts,
        resume_token: bytes,
        streams_at: StreamsAt = edge_streams,
        scheme_of: Callable[[int], Scheme] = scheme_coded,
    ) -> None:
        """streams_at and scheme_of: where coins and schemes come from; tests and benches differ."""
        self.facts = facts
        self._scheme_of = scheme_of
        self._streams_at = streams_at
        self.resume_token = resume_token
        self.state = State.NEW
        self.tokens = TokenList()
        self._vocab = self._own_vocab = Vocabulary(facts.num_ids)
        self._expected = (0, 0)
        self._generation: Begin | None = None
        self._scheme: Scheme | None = None
        self._verdicts: OrderedDict[tuple[int, int], tuple[bytes, bytes]] = OrderedDict()
        self._pending: _PendingRound | More | Begin | None = None
        self._stream_left = 0

    def receive(self, data: bytes) -> Step:
        """Take a message. RemoteError: refused, nothing has changed."""
        message = messages.decode(data)
        if not isinstance(message, ALLOWED[self.state]):
            raise RemoteError(
                ErrorCode.UNEXPECTED_MESSAGE, f"{type(message).__name__} while {self.state.name}"
            )
        match message:
            case Hello():
                step = self._hello(message)
            case Begin():
                step = self._begin(message)
            case Round():
                step = self._round(message, data)
            case More():
                step = self._more(message)
            case Stream():
                step = self._stream(message)
            case Cancel():
                step = self._cancel()
            case _:
                step = self._close()
        return step

    def commit(self, result: Any) -> Step:
        """Take what was read off the last job's rows."""
        pending, self._pending = self._pending, None
        if self.state is State.STREAMING:
            return self._streamed(result)
        if isinstance(pending, _PendingRound):
            return self._judged(pending, *result)
        if isinstance(pending, More):
            return Step(result)
        return Step(self._reply(Begun(len(self.tokens))))

    def resume(self) -> None:
        """A new connection takes the session over: what was in flight is asked for again."""
        self.state = State.NEW
        self._pending = None

    def _hello(self, hello: Hello) -> Step:
        resumed = hello.resume_token == self.resume_token
        self._vocab = Vocabulary(min(hello.num_ids, self.facts.num_ids))
        self.state = State.READY if resumed and self._generation else State.OPEN
        welcome = self.facts.welcome(self.resume_token, resumed, self._vocab.num_ids)
        return Step(encode(welcome))

    def _begin(self, begin: Begin) -> Step:
        scheme = self._scheme_of(begin.scheme_code)
        self._check_tokens(begin.base, begin.prefix_hash, begin.appended)
        num_tokens = begin.base + len(begin.appended)
        if not 1 <= begin.boundary <= num_tokens:
            raise RemoteError(ErrorCode.MALFORMED, "the boundary lies outside the tokens")
        if num_tokens >= self.facts.context_len:
            raise RemoteError(
                ErrorCode.CONTEXT_FULL, f"{num_tokens} tokens, context {self.facts.context_len}"
            )
        self.tokens.truncate(begin.base)
        self.tokens.append(begin.appended)
        self._verdicts.clear()
        self._generation, self._scheme = begin, scheme
        self._expected = (begin.epoch, begin.round_number)
        self._pending = begin
        self.state = State.READY
        return Step(job=Job(self._all_tokens(), num_rows=0))

    def _round(self, message: Round, data: bytes) -> Step:
        key = (message.epoch, message.round_number)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if key in self._verdicts:
            stored_digest, verdict = self._verdicts[key]
            if stored_digest == digest:
                return Step(verdict)
            raise RemoteError(ErrorCode.WRONG_ROUND, f"other bytes for round {key}")
        if key != self._expected:
            raise RemoteError(ErrorCode.WRONG_ROUND, f"got {key}, expected {self._expected}")
        generation, scheme = self._in_force()
        self._check_tokens(message.base, message.prefix_hash, message.appended)
        num_tokens = message.base + len(message.appended)
        if message.base < generation.boundary:
            raise RemoteError(ErrorCode.WRONG_PREFIX, "a round reaches into the prompt")
        if message.gamma > min(self.facts.max_gamma, scheme.max_gamma(self._vocab)):
            raise RemoteError(ErrorCode.TOO_LARGE, f"gamma {message.gamma}")
        if num_tokens + message.gamma > self.facts.context_len:
            raise RemoteError(ErrorCode.CONTEXT_FULL, f"context {self.facts.context_len}")
        num_rows = message.gamma + 1
        if Flags.LOGPROBS in message.flags:
            num_rows += len(message.appended)
        if num_rows > MAX_ROWS:
            raise RemoteError(ErrorCode.TOO_LARGE, f"{num_rows} rows of logits")
        block = read_block(message, scheme, self._vocab)
        drafted_ids = [drafted.token_id for drafted in block]
        tokens = self.tokens.followed_by(message.base, (*message.appended, *drafted_ids))
        judging = Judging(
            scheme, generation.sampling, generation.boundary,
            RoundKey(generation.seed, message.epoch, message.round_number),
            tokens, block, frozenset(generation.end_ids), Ask(message.num_draws),
            bonus=Flags.NO_BONUS not in message.flags,
            skipped=num_rows - message.gamma - 1, streams_at=self._streams_at,
        )  # fmt: skip
        self._pending = _PendingRound(message, digest, block)
        read = partial(read_round, message, generation, judging, self._own_vocab)
        return Step(job=Job(tokens, num_rows, read))

    def _more(self, more: More) -> Step:
        if isinstance(self._scheme, TokenReply):
            raise RemoteError(ErrorCode.UNEXPECTED_MESSAGE, "the replacement has been sent")
        if self._expected != (more.epoch + 1, 0):
            raise RemoteError(ErrorCode.WRONG_ROUND, "no rejection of that round is open")
        if more.base != len(self.tokens) or not self.tokens.holds(more.base, more.prefix_hash):
            raise RemoteError(ErrorCode.WRONG_PREFIX, f"more draws at position {more.base}")
        self._pending = more
        tokens = self._all_tokens()
        read = partial(
            read_more, more, *self._in_force(), tokens, self._own_vocab, self._streams_at
        )
        return Step(job=Job(tokens, num_rows=1, read=read))

    def _check_tokens(self, base: int, prefix_hash: int, appended: Sequence[int]) -> None:
        if not self.tokens.holds(base, prefix_hash):
            raise RemoteError(ErrorCode.WRONG_PREFIX, f"this side has {len(self.tokens)} tokens")
        if max(appended, default=0) >= self.facts.num_ids:
            raise RemoteError(ErrorCode.BAD_TOKEN_ID, f"ids must be below {self.facts.num_ids}")

    def _all_tokens(self) -> tuple[int, ...]:
        return self.tokens.followed_by(len(self.tokens))

    def _judged(self, pending: _PendingRound, judgement: Judgement, verdict: bytes) -> Step:
        message = pending.message
        self._advance(message, pending.block, judgement)
        self._verdicts[message.epoch, message.round_number] = (pending.digest, verdict)
        while len(self._verdicts) > NUM_STORED_VERDICTS:
            self._verdicts.popitem(last=False)
        rejected, bonus = judgement.rejection is not None, judgement.next_token is not None
        outcome = Outcome(message.gamma, judgement.num_accepted, rejected, bonus)
        return Step(verdict, outcome=outcome)

    def _advance(self, message: Round, block: Sequence[Drafted], judgement: Judgement) -> None:
        self.tokens.truncate(message.base)
        self.tokens.append(message.appended)
        self.tokens.append(drafted.token_id for drafted in block[: judgement.num_accepted])
        if judgement.next_token is not None:
            self.tokens.append([judgement.next_token])
        if judgement.rejection is None:
            self._expected = (message.epoch, message.round_number + 1)
        else:
            self._expected = (message.epoch + 1, 0)

    def _reply(self, message: Begun | Tokens) -> bytes:
        return encode(message, self._in_force()[0].pad_to_bytes)

    def _in_force(self) -> tuple[Begin, Scheme]:
        assert self._generation is not None
        assert self._scheme is not None
        return self._generation, self._scheme

    def _stream(self, stream: Stream) -> Step:
        self.state = State.STREAMING
        self._stream_left = stream.max_tokens
        return self._next_of_stream(())

    def _cancel(self) -> Step:
        """The job in hand still gives its token; that one closes the stream, if there is one."""
        if self.state is State.STREAMING:
            self._stream_left = 0
        return Step()

    def _close(self) -> Step:
        self.state = State.CLOSED
        return Step()

    def _next_of_stream(self, ids: tuple[int, ...]) -> Step:
        """Send what there is; go on while tokens are left and the context has room."""
        generation, _ = self._in_force()
        ended = bool(ids) and ids[-1] in generation.end_ids
        full = len(self.tokens) >= self.facts.context_len
        if ended or full or self._stream_left == 0:
            self.state = State.OPEN
            return Step(self._reply(Tokens(ids, last=True)))
        reply = self._reply(Tokens(ids, last=False)) if ids else None
        return Step(reply, self._stream_job())

    def _stream_job(self) -> Job:
        """One token, or several where the edge drafts: never more than there is room for."""
        generation, scheme = self._in_force()
        room = min(self._stream_left, self.facts.context_len - len(self.tokens))
        judging = Judging(
            scheme_on_edge(scheme) if self.facts.edge_gamma else scheme,
            generation.sampling, generation.boundary, RoundKey(generation.seed, *self._expected),
            self._all_tokens(), end_ids=frozenset(generation.end_ids),
            gamma=min(self.facts.edge_gamma, room - 1), streams_at=self._streams_at,
        )  # fmt: skip
        return Job(judging.tokens, 1, partial(written, judging), judging)

    def _streamed(self, ids: tuple[int, ...]) -> Step:
        self.tokens.append(ids)
        self._stream_left = max(0, self._stream_left - len(ids))
        step = self._next_of_stream(ids)
        return replace(step, outcome=Outcome(num_streamed=len(ids), is_round=False))
