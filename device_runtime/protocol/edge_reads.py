"""What a session's jobs read off their rows: the answers, in the bytes that go down."""

from __future__ import annotations

from collections.abc import Sequence

from device_runtime.protocol.edge_codec import to_verdict
from device_runtime.protocol.edge_states import Rows
from device_runtime.protocol.judging import Judging
from device_runtime.protocol.law import log_prob, prob_of
from device_runtime.protocol.messages import Begin, Flags, More, Round, encode
from device_runtime.protocol.penalties import counted_tokens
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes.base import Ask, Scheme, Vocabulary
from device_runtime.protocol.verify import Judgement, RoundKey, StreamsAt, reject_again


def read_round(
    message: Round, generation: Begin, judging: Judging, vocab: Vocabulary, rows: Rows
) -> tuple[Judgement, bytes]:
    """What becomes of a block, and its verdict."""
    judgement = judging.judge(rows)
    wanted = judging.standing(judgement) if Flags.LOGPROBS in message.flags else ()
    verdict = to_verdict(message, judgement, _own_logprobs(rows, wanted), judging.scheme, vocab)
    return judgement, encode(verdict, generation.pad_to_bytes)


def read_more(
    more: More,
    generation: Begin,
    scheme: Scheme,
    tokens: Sequence[int],
    vocab: Vocabulary,
    streams_at: StreamsAt,
    rows: Rows,
) -> bytes:
    """More draws for a rejection at the end of `tokens`; the only row is that of its place."""
    sampling = generation.sampling
    p = rows.law(0, sampling, counted_tokens(sampling, tokens, generation.boundary))
    key = RoundKey(generation.seed, more.epoch, more.round_number)
    ask = Ask(more.num_draws, more.first, more.whole_row)
    rejection = reject_again(scheme, p, more.base, key, ask, streams_at)
    verdict = to_verdict(more, Judgement(0, rejection=rejection), (), scheme, vocab)
    return encode(verdict, generation.pad_to_bytes)


def _own_logprobs(rows: Rows, token_ids: Sequence[int]) -> tuple[float, ...]:
    """ln of the model's own probability (temperature 1, nothing cut) of tokens, from row 0 on."""
    laws = (rows.law(i, Sampling(), ()) for i in range(len(token_ids)))
    probs = (prob_of(law, token_id) for law, token_id in zip(laws, token_ids, strict=True))
    return tuple(log_prob(prob) for prob in probs)
