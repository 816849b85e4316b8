"""What a device makes of a verdict: whether the edge can mean it, and what it says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.messages import Ending, Verdict
from device_runtime.protocol.schemes.base import Drafted, Scheme, Vocabulary
from device_runtime.protocol.wire import Reader, malformed


@dataclass(frozen=True, slots=True)
class Answer:
    """A verdict, decoded: num_accepted stand; then a next token, a rejection, or nothing."""

    num_accepted: int
    next_token: int | None
    rejection: Any
    logprobs: tuple[float, ...]


def check_verdict(
    verdict: Verdict, block: Sequence[Drafted], end_ids: Collection[int], *, wants_bonus: bool
) -> None:
    """RemoteError unless an edge that judges as `verify.judge_block` does can say this of the block."""
    num_accepted, ending = verdict.num_accepted, verdict.ending
    last = block[num_accepted - 1].token_id if 0 < num_accepted <= len(block) else None
    if last in end_ids:
        is_possible = ending is Ending.NOTHING
    elif num_accepted == len(block):
        is_possible = ending is (Ending.TOKEN if wants_bonus else Ending.NOTHING)
    else:
        is_possible = num_accepted < len(block) and ending is Ending.REJECTION
    if not is_possible:
        raise malformed(f"{num_accepted} of {len(block)} tokens stand, then {ending.name}")


def read_answer(verdict: Verdict, scheme: Scheme, vocab: Vocabulary) -> Answer:
    """What a verdict carries; vocab: that of the edge."""
    body = Reader(verdict.body)
    next_token = rejection = None
    if verdict.ending is Ending.TOKEN:
        next_token = body.varint()
        check_ids([next_token], vocab.num_ids)
    elif verdict.ending is Ending.REJECTION:
        rejection = scheme.read_rejection(body, vocab)
    body.finish()
    return Answer(verdict.num_accepted, next_token, rejection, verdict.logprobs)


def check_ids(ids: Sequence[int], num_ids: int) -> None:
    """RemoteError for an id that the edge does not define."""
    if any(token_id >= num_ids for token_id in ids):
        raise RemoteError(ErrorCode.BAD_TOKEN_ID, "the edge sent an id outside its vocabulary")
