"""What will be asked of a job's rows beside its judging, for engines that fetch answers in batches.

Without it the answers are right all the same, but each waits for the GPU, on the event loop.
"""

from __future__ import annotations

from copy import copy
from functools import partial

import numpy as np

from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import Job, Rows
from device_runtime.protocol.judging import Judging, written
from device_runtime.protocol.law import Floats, Ids, Law, all_ids, prob_of
from device_runtime.protocol.messages import Flags, Kind, Round, decode
from device_runtime.protocol.sampling import Sampling
from edge_server.answers import MissingError
from edge_server.foresight import AskingJob
from edge_server.law import TorchLaw


def asked_by_message(job: Job, data: bytes, session: EdgeSession) -> Job:
    """The job of a message that the session has just taken, with all that its answer needs."""
    if data[1] == Kind.MORE:
        # Answering it changes nothing but what is pending, so a copy may try.
        return AskingJob(job.tokens, job.num_rows, None, copy(session).commit)
    if data[1] == Kind.ROUND and job.judging is not None:
        message = decode(data)
        if isinstance(message, Round) and Flags.LOGPROBS in message.flags:
            asks = partial(_own_logprobs, job.judging)
            return AskingJob(job.tokens, job.num_rows, job.judging, asks)
    return job


def asked_for_top(job: Job, num_ids: int, num_top: int) -> Job:
    """A stream's job whose token is named with its probability and those of others."""
    judging = job.judging
    assert judging is not None

    def asks(rows: Rows) -> None:
        for token_id in written(judging, judging.judge(rows)):
            own_prob(rows, token_id, num_ids, num_top)

    return AskingJob(job.tokens, job.num_rows, judging, asks)


def own_prob(rows: Rows, token_id: int, num_ids: int, num_top: int) -> tuple[float, Ids, Floats]:
    """A token's probability by the only row, and the most likely ids with theirs, best first.

    All of the model itself: temperature 1, nothing cut or penalised. Of equals the lower id is first.
    """
    law = rows.law(0, Sampling(), ())
    ids, probs = _most_probable(law, num_ids, num_top)
    order = np.lexsort((ids, -probs))
    return prob_of(law, token_id), ids[order], probs[order]


def _most_probable(law: Law, num_ids: int, count: int) -> tuple[Ids, Floats]:
    if not count:
        return np.empty(0, np.int64), np.empty(0)
    if isinstance(law, TorchLaw):
        return law.most_probable(count)
    probs = law.prob(all_ids(num_ids))
    best = np.argpartition(probs, -count)[-count:]
    return best, probs[best]


def _own_logprobs(judging: Judging, rows: Rows) -> None:
    """Ask for the laws and probabilities of the tokens that will stand, all of them at once."""
    num_missing = 0
    for row, token_id in enumerate(judging.standing(judging.judge(rows))):
        try:
            prob_of(rows.law(row, Sampling(), ()), token_id)
        except MissingError:
            num_missing += 1
    if num_missing:
        raise MissingError
