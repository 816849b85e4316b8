"""What only a session that knows the scheme can read and write: blocks and verdicts."""

from __future__ import annotations

from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.messages import Ending, More, Round, Verdict
from device_runtime.protocol.schemes.base import Drafted, Scheme, Vocabulary
from device_runtime.protocol.verify import Judgement
from device_runtime.protocol.wire import BitReader, Writer


def read_block(message: Round, scheme: Scheme, vocab: Vocabulary) -> tuple[Drafted, ...]:
    """The drafted tokens of a round; RemoteError on ids or evidence out of range."""
    bits, id_bits = BitReader(message.block), vocab.id_bits
    ids = [bits.take(id_bits) for _ in range(message.gamma)]
    if any(token_id >= vocab.num_ids for token_id in ids):
        raise RemoteError(ErrorCode.BAD_TOKEN_ID, f"ids must be below {vocab.num_ids}")
    block = scheme.read_evidence(bits, ids, vocab)
    bits.finish(padded=True)
    return block


def to_verdict(
    message: Round | More,
    judgement: Judgement,
    logprobs: tuple[float, ...],
    scheme: Scheme,
    vocab: Vocabulary,
) -> Verdict:
    """The answer to a round, or to a request for more."""
    body = Writer()
    ending = Ending.NOTHING
    if judgement.rejection is not None:
        ending = Ending.REJECTION
        scheme.write_rejection(body, judgement.rejection, vocab)
    elif judgement.next_token is not None:
        ending = Ending.TOKEN
        body.varint(judgement.next_token)
    key = (message.epoch, message.round_number)
    return Verdict(*key, judgement.num_accepted, ending, body.getvalue(), logprobs)
