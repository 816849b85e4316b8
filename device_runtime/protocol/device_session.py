"""The device's half of a session: the committed tokens, the numbers of rounds, messages in and out.

No I/O: each method gives the bytes to send, or takes the bytes that came. Answers are checked
against what was asked; a refusal by the edge raises RefusedError, nonsense from it RemoteError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from device_runtime.protocol.device_codec import Answer, check_ids, check_verdict, read_answer
from device_runtime.protocol.errors import (
    ConfigError,
    ErrorCode,
    LocalError,
    RefusedError,
    RemoteError,
)
from device_runtime.protocol.messages import (
    Begin,
    Begun,
    Cancel,
    Close,
    Ending,
    Flags,
    Hello,
    Message,
    More,
    Refusal,
    Round,
    Stream,
    Tokens,
    Verdict,
    Welcome,
    decode,
    encode,
)  # fmt: skip
from device_runtime.protocol.messages.fields import MAX_ROWS
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes.base import Ask, Drafted, Scheme, Vocabulary
from device_runtime.protocol.tokens import TokenList
from device_runtime.protocol.wire import BitWriter, malformed

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Generation:
    """What stays fixed while one answer is written."""

    scheme: Scheme
    sampling: Sampling
    seed: int
    end_ids: tuple[int, ...]
    pad_to_bytes: int = 0
    logprobs: bool = False
    """Whether the LLM's log probabilities of committed tokens are asked for."""


class _InFlight(NamedTuple):
    """The round whose verdict is awaited."""

    key: tuple[int, int]
    """(epoch, round)."""
    wants_bonus: bool


class DeviceSession:
    """One session with one edge."""

    def __init__(self, num_ids: int, vocabulary_hash: Callable[[int], bytes], client: str) -> None:
        """num_ids: ids this tokenizer defines; vocabulary_hash(count) over the first ones."""
        self.tokens = TokenList()
        self.welcome: Welcome | None = None
        self._num_ids = num_ids
        self._vocabulary_hash = vocabulary_hash
        self._client = client
        self._num_shared = 0
        """Tokens that the edge has, too; what follows rides up with the next message."""
        self._generation: Generation | None = None
        self._is_forgotten = False
        """Whether the edge may not know the generation in force, or stand elsewhere in it."""
        self._is_streaming = False
        self._boundary = 0
        self._next = (0, 0)
        self._in_flight: _InFlight | None = None
        self._rejected_round = 0

    @property
    def facts(self) -> Welcome:
        """The edge's facts and limits."""
        if self.welcome is None:
            raise LocalError(ErrorCode.UNEXPECTED_MESSAGE, "no session has been opened")
        return self.welcome

    @property
    def shared(self) -> Vocabulary:
        """The ids both sides define: drafts come from these."""
        return Vocabulary(min(self._num_ids, self.facts.num_ids))

    @property
    def boundary(self) -> int:
        """Where the generated tokens begin."""
        return self._boundary

    def hello(self) -> bytes:
        """Open the session, or resume the one that was open."""
        token = self.welcome.resume_token if self.welcome else b""
        return encode(Hello(self._client, self._num_ids, token))

    def receive_welcome(self, data: bytes) -> Welcome:
        """The edge's facts; refused where the two vocabularies differ."""
        welcome = self._expect(Welcome, data)
        earlier, count = self.welcome, min(self._num_ids, welcome.num_ids)
        if earlier and earlier.num_ids == welcome.num_ids:
            own = earlier.vocabulary_hash  # the same count; hashing anew takes a board a while
        else:
            own = self._vocabulary_hash(count)
        if welcome.vocabulary_hash != own:
            raise LocalError(
                ErrorCode.VOCABULARY_MISMATCH,
                f"the first {count} tokens of this bundle and of {welcome.model} differ; "
                "export an SLM of the LLM's family",
            )
        if earlier and (earlier.model, earlier.num_ids) != (welcome.model, welcome.num_ids):
            raise ConfigError(
                f"this text was begun with {earlier.model} ({earlier.num_ids} ids), and an edge with "
                f"{welcome.model} ({welcome.num_ids} ids) answers now; begin it anew"
            )
        if not welcome.resumed:
            self.forget_edge()
        elif self._is_streaming:
            self._is_forgotten = True  # no stream goes on, and the edge may be further in the text
        self.welcome = welcome
        return welcome

    @property
    def must_restate(self) -> bool:
        """Whether the edge must be told again of the generation in force before anything else."""
        return self._is_forgotten and self._generation is not None

    def append(self, token_ids: Sequence[int]) -> None:
        """Tokens this side adds by itself (a prompt, a settled token); they ride up next."""
        self.tokens.append(token_ids)

    def truncate(self, num_tokens: int) -> None:
        """Forget committed tokens from num_tokens on: stop strings, edited turns."""
        self.tokens.truncate(num_tokens)
        self._num_shared = min(self._num_shared, num_tokens)

    def begin(self, generation: Generation) -> bytes:
        """Start a generation after all tokens committed so far."""
        self._generation, self._boundary = generation, len(self.tokens)
        self._next, self._in_flight = (0, 0), None
        self._is_forgotten = False  # the message tells all there is
        return self.begin_again()

    def begin_again(self) -> bytes:
        """Restate the generation in force: to an edge that lost it, or never had it."""
        generation = self._in_force()
        base, appended = self._unshared()
        epoch, round_number = self._in_flight.key if self._in_flight else self._next
        return self._padded(
            Begin(
                base, self.tokens.prefix_hash(base), appended, self._boundary,
                generation.scheme.code, generation.sampling, generation.seed, generation.end_ids,
                epoch, round_number, generation.pad_to_bytes,
            )
        )  # fmt: skip

    def receive_begun(self, data: bytes) -> None:
        """The edge has the prompt in its cache."""
        begun = self._expect(Begun, data)
        if begun.num_tokens != len(self.tokens):
            raise malformed(f"the edge has {begun.num_tokens} tokens, not {len(self.tokens)}")
        self._num_shared, self._is_forgotten, self._is_streaming = len(self.tokens), False, False

    def forget_edge(self) -> None:
        """The edge has other tokens than this side believed: all of them must be sent."""
        self._num_shared, self._is_forgotten = 0, True

    def round(self, block: Sequence[Drafted], ask: Ask, bonus: bool = True) -> bytes:
        """Ask for a verdict on a block that follows the committed tokens."""
        generation = self._in_force()
        bits = BitWriter()
        for drafted in block:
            bits.put(drafted.token_id, self.shared.id_bits)
        generation.scheme.write_evidence(bits, block, self.shared)
        base, appended = self._unshared()
        flags = Flags(0) if bonus else Flags.NO_BONUS
        # After more tokens of its own than an edge gives rows for, the device does without.
        if generation.logprobs and len(appended) + len(block) < MAX_ROWS:
            flags |= Flags.LOGPROBS
        message = Round(
            *self._next, base, self.tokens.prefix_hash(base), appended, len(block),
            ask.num_draws, bits.getvalue(), flags,
        )  # fmt: skip
        self._in_flight = _InFlight(self._next, bonus)
        return self._padded(message)

    def receive_verdict(self, data: bytes, block: Sequence[Drafted]) -> Answer:
        """The verdict on the round in flight; the accepted tokens are committed here."""
        if self._in_flight is None:
            raise LocalError(ErrorCode.UNEXPECTED_MESSAGE, "no round is in flight")
        epoch, round_number = self._in_flight.key
        verdict = self._verdict_of(data, epoch, round_number)
        end_ids = self._in_force().end_ids
        check_verdict(verdict, block, end_ids, wants_bonus=self._in_flight.wants_bonus)
        answer = self._read(verdict)
        self.tokens.append(drafted.token_id for drafted in block[: answer.num_accepted])
        if answer.next_token is not None:
            self.tokens.append([answer.next_token])
        self._num_shared = len(self.tokens)
        rejected = verdict.ending is Ending.REJECTION
        self._next = (epoch + 1, 0) if rejected else (epoch, round_number + 1)
        self._in_flight = None
        return answer

    def more(self, ask: Ask) -> bytes:
        """Ask for more of what the last rejection sent."""
        position = len(self.tokens)
        epoch = self._next[0] - 1
        if self._next[1] != 0 or epoch < 0:
            raise LocalError(ErrorCode.UNEXPECTED_MESSAGE, "the last round rejected nothing")
        more = More(
            epoch, self._rejected_round, position, self.tokens.prefix_hash(position),
            ask.first, ask.num_draws, ask.whole_row,
        )  # fmt: skip
        return self._padded(more)

    def receive_more(self, data: bytes) -> Any:
        """The rejection once more, from later draws."""
        verdict = self._verdict_of(data, self._next[0] - 1, self._rejected_round)
        if verdict.ending is not Ending.REJECTION or verdict.num_accepted:
            raise malformed("draws were asked for, another verdict came")
        return self._read(verdict).rejection

    def stream(self, max_tokens: int) -> bytes:
        """Ask the LLM alone to go on."""
        self._is_streaming = True
        return self._padded(Stream(max_tokens))

    def receive_tokens(self, data: bytes) -> Tokens:
        """Tokens of a stream, committed. The last ones end the generation on the edge."""
        tokens = self._expect(Tokens, data)
        check_ids(tokens.ids, self.facts.num_ids)
        self._is_forgotten = tokens.last
        self.tokens.append(tokens.ids)
        self._num_shared = len(self.tokens)
        return tokens

    def cancel(self) -> bytes:
        """End the stream."""
        return self._padded(Cancel())

    @staticmethod
    def close() -> bytes:
        """End the session for good."""
        return encode(Close())

    def _unshared(self) -> tuple[int, tuple[int, ...]]:
        return self._num_shared, tuple(self.tokens.ids[self._num_shared :])

    def _padded(self, message: Begin | Round | More | Stream | Cancel) -> bytes:
        return encode(message, self._generation.pad_to_bytes if self._generation else 0)

    def _in_force(self) -> Generation:
        if self._generation is None:
            raise LocalError(ErrorCode.UNEXPECTED_MESSAGE, "no generation has begun")
        return self._generation

    def _verdict_of(self, data: bytes, epoch: int, round_number: int) -> Verdict:
        verdict = self._expect(Verdict, data)
        got = (verdict.epoch, verdict.round_number)
        if got != (epoch, round_number):
            raise RemoteError(ErrorCode.WRONG_ROUND, f"got {got}, want {(epoch, round_number)}")
        self._rejected_round = round_number
        return verdict

    def _read(self, verdict: Verdict) -> Answer:
        return read_answer(verdict, self._in_force().scheme, Vocabulary(self.facts.num_ids))

    @staticmethod
    def _expect(kind: type[M], data: bytes) -> M:
        message = decode(data)
        if isinstance(message, Refusal):
            raise RefusedError(message.code, retry_after_s=message.retry_after_s)
        if not isinstance(message, kind):
            raise RemoteError(
                ErrorCode.UNEXPECTED_MESSAGE,
                f"got {type(message).__name__}, expected {kind.__name__}",
            )
        return message
