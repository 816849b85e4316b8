"""The edge's half of a session: bytes in; a job for the engine, or bytes out. No I/O, no tensors.

    step = session.receive(data)          # plan: decode, check, say what must be computed
    while step.job is not None:
        rows = engine.run(step.job)       # run: the only part that touches a model
        step = session.commit(rows)       # commit: judge, advance, encode

A message that breaks a rule raises RemoteError and leaves the session as it was. The device's token
list is the truth: this side only mirrors it, so any edge can go on after a `Begin` with all tokens.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from device_runtime.protocol import messages
from device_runtime.protocol.edge_codec import own_logprobs, read_block, to_verdict
from device_runtime.protocol.edge_states import ALLOWED, EdgeFacts, Job, Rows, State, Step
from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.law import Law
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
    Welcome,
    encode,
    pad_verdict,
)  # fmt: skip
from device_runtime.protocol.randomness import edge_streams
from device_runtime.protocol.schemes import scheme_coded
from device_runtime.protocol.schemes.base import Ask, Drafted, Scheme, TokenReply, Vocabulary
from device_runtime.protocol.tokens import TokenList
from device_runtime.protocol.verify import Judgement, RoundKey, StreamsAt, judge_block, reject_again

NUM_STORED_VERDICTS = 4
"""Answers kept for rounds that come again after a lost connection."""


@dataclass(frozen=True, slots=True)
class _PendingRound:
    message: Round
    block: tuple[Drafted, ...]
    digest: bytes


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
        self._vocab = Vocabulary(facts.num_ids)
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

    def commit(self, rows: Rows) -> Step:
        """Take the rows of the last job."""
        pending, self._pending = self._pending, None
        if self.state is State.STREAMING:
            return self._stream_token(rows)
        if isinstance(pending, _PendingRound):
            return Step(self._judge(pending, rows))
        if isinstance(pending, More):
            return Step(self._judge_more(pending, rows))
        return Step(encode(Begun(len(self.tokens))))

    def resume(self) -> None:
        """A new connection takes the session over: what was in flight is asked for again."""
        self.state = State.NEW
        self._pending = None

    def _hello(self, hello: Hello) -> Step:
        resumed = hello.resume_token == self.resume_token
        self._vocab = Vocabulary(min(hello.num_ids, self.facts.num_ids))
        self.state = State.READY if resumed and self._generation else State.OPEN
        welcome = Welcome(
            model=self.facts.model,
            resume_token=self.resume_token,
            resumed=resumed,
            num_ids=self.facts.num_ids,
            vocabulary_hash=self.facts.vocabulary_hash(self._vocab.num_ids),
            context_len=self.facts.context_len,
            max_gamma=self.facts.max_gamma,
            end_ids=self.facts.end_ids,
        )
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
        return Step(job=Job(tuple(self.tokens.ids), 0))

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
        if message.gamma > self.facts.max_gamma:
            raise RemoteError(ErrorCode.TOO_LARGE, f"gamma {message.gamma}")
        if num_tokens + message.gamma > self.facts.context_len:
            raise RemoteError(ErrorCode.CONTEXT_FULL, f"context {self.facts.context_len}")
        block = read_block(message, scheme, self._vocab)
        self._pending = _PendingRound(message, block, digest)
        tokens = (
            *self.tokens.ids[: message.base],
            *message.appended,
            *(drafted.token_id for drafted in block),
        )
        num_rows = message.gamma + 1
        if Flags.LOGPROBS in message.flags:
            num_rows += len(message.appended)
        return Step(job=Job(tokens, num_rows))

    def _more(self, more: More) -> Step:
        if isinstance(self._scheme, TokenReply):
            raise RemoteError(ErrorCode.UNEXPECTED_MESSAGE, "the replacement has been sent")
        if self._expected != (more.epoch + 1, 0):
            raise RemoteError(ErrorCode.WRONG_ROUND, "no rejection of that round is open")
        if more.base != len(self.tokens) or not self.tokens.holds(more.base, more.prefix_hash):
            raise RemoteError(ErrorCode.WRONG_PREFIX, f"more draws at position {more.base}")
        self._pending = more
        return Step(job=Job(tuple(self.tokens.ids), 1))

    def _check_tokens(self, base: int, prefix_hash: int, appended: Sequence[int]) -> None:
        if not self.tokens.holds(base, prefix_hash):
            raise RemoteError(ErrorCode.WRONG_PREFIX, f"this side has {len(self.tokens)} tokens")
        if any(token_id >= self.facts.num_ids for token_id in appended):
            raise RemoteError(ErrorCode.BAD_TOKEN_ID, f"ids must be below {self.facts.num_ids}")

    def _judge(self, pending: _PendingRound, rows: Rows) -> bytes:
        message, (generation, scheme) = pending.message, self._in_force()
        context = [*self.tokens.ids[: message.base], *message.appended]
        context += [drafted.token_id for drafted in pending.block]
        num_tokens = message.base + len(message.appended)
        skipped = len(message.appended) if Flags.LOGPROBS in message.flags else 0

        def law_at(i: int) -> Law:
            generated = context[generation.boundary : num_tokens + i]
            return rows.law(skipped + i, generation.sampling, generated)

        judgement = judge_block(
            scheme, law_at, pending.block, num_tokens,
            RoundKey(generation.seed, message.epoch, message.round_number),
            Ask(message.num_draws), frozenset(generation.end_ids),
            bonus=Flags.NO_BONUS not in message.flags, streams_at=self._streams_at,
        )  # fmt: skip
        self._advance(message, pending.block, judgement)
        new_ids = self.tokens.ids[message.base :]
        logprobs = own_logprobs(rows, new_ids) if Flags.LOGPROBS in message.flags else ()
        verdict = self._encode(message, judgement, logprobs)
        self._verdicts[message.epoch, message.round_number] = (pending.digest, verdict)
        while len(self._verdicts) > NUM_STORED_VERDICTS:
            self._verdicts.popitem(last=False)
        return verdict

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

    def _judge_more(self, more: More, rows: Rows) -> bytes:
        generation, scheme = self._in_force()
        p = rows.law(0, generation.sampling, self.tokens.ids[generation.boundary :])
        key = RoundKey(generation.seed, more.epoch, more.round_number)
        ask = Ask(more.num_draws, more.first, more.whole_row)
        rejection = reject_again(scheme, p, more.base, key, ask, self._streams_at)
        return self._encode(more, Judgement(0, rejection=rejection), ())

    def _encode(
        self, message: Round | More, judgement: Judgement, logprobs: tuple[float, ...]
    ) -> bytes:
        generation, scheme = self._in_force()
        vocab = Vocabulary(self.facts.num_ids)
        verdict = to_verdict(message, judgement, logprobs, scheme, vocab)
        return encode(pad_verdict(verdict, generation.pad_to_bytes))

    def _in_force(self) -> tuple[Begin, Scheme]:
        assert self._generation is not None
        assert self._scheme is not None
        return self._generation, self._scheme

    def _stream(self, stream: Stream) -> Step:
        self.state = State.STREAMING
        self._stream_left = stream.max_tokens
        return self._next_of_stream(())

    def _cancel(self) -> Step:
        """The job in hand still gives its token; that one closes the stream."""
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
            return Step(encode(Tokens(ids, last=True)))
        reply = encode(Tokens(ids, last=False)) if ids else None
        return Step(reply, Job(tuple(self.tokens.ids), 1))

    def _stream_token(self, rows: Rows) -> Step:
        generation, scheme = self._in_force()
        generated = self.tokens.ids[generation.boundary :]

        def law_at(_: int) -> Law:
            return rows.law(0, generation.sampling, generated)

        key = RoundKey(generation.seed, *self._expected)
        judgement = judge_block(
            scheme, law_at, (), len(self.tokens), key, Ask(), frozenset(),
            streams_at=self._streams_at,
        )  # fmt: skip
        assert judgement.next_token is not None
        self.tokens.append([judgement.next_token])
        self._stream_left = max(0, self._stream_left - 1)
        return self._next_of_stream((judgement.next_token,))
