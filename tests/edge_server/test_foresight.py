"""Judging a whole batch beforehand gives what judging one by one gives, with few transfers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.judging import Judging
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Vocabulary
from device_runtime.protocol.verify import Judgement, RoundKey
from device_runtime.protocol.wire import BitReader, BitWriter, Writer
from edge_server import foresight
from edge_server.engine import TorchEngine
from edge_server.foresight import LogitRows, foresee
from edge_server.law import LawBatch

VOCAB, GAMMA = 60, 4
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.8, top_p=0.9),
    Sampling(top_k=12, repetition_penalty=1.2, presence_penalty=0.3),
    Sampling(temperature=0.0),
)


def judging_of(scheme: str, sampling: Sampling, number: int, skipped: int) -> Judging:
    """A block drafted from laws near the judge's own, sent through the scheme's codec."""
    rng, how = np.random.default_rng(number), SCHEMES[scheme]
    tokens = tuple(rng.integers(0, VOCAB, 9).tolist())
    block: list[Drafted] = []
    for i in range(GAMMA):
        q = to_law(
            logits_of(number)[skipped + i].numpy() + 0.7 * rng.normal(size=VOCAB), sampling, ()
        )
        block.append(how.draft(q, Place(5, 9 + i), device_coins(number * 10 + i)))
    bits, vocab = BitWriter(), Vocabulary(VOCAB)
    how.write_evidence(bits, block, vocab)
    ids = [drafted.token_id for drafted in block]
    received = how.read_evidence(BitReader(bits.getvalue()), ids, vocab)
    return Judging(
        how, sampling, 3, RoundKey(5, 0, number), (*tokens, *ids), tuple(received),
        frozenset({7}), Ask(20), skipped=skipped,
    )  # fmt: skip


def logits_of(number: int) -> torch.Tensor:
    rng = np.random.default_rng(100 + number)
    return torch.tensor(2 * rng.normal(size=(GAMMA + 3, VOCAB + 4)), dtype=torch.float64)[:, :VOCAB]


def told(judging: Judging, judgement: Judgement) -> tuple[object, ...]:
    """What the device hears of it."""
    out = Writer()
    if judgement.rejection is not None:
        judging.scheme.write_rejection(out, judgement.rejection, Vocabulary(VOCAB))
    return judgement.num_accepted, judgement.next_token, out.getvalue()


@pytest.mark.parametrize("device", DEVICES)
def test_all_schemes_judge_as_one_by_one(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(SCHEMES)
    judgings = [
        judging_of(names[i % len(names)], SAMPLINGS[i % 4], i, skipped=i % 3)
        for i in range(4 * len(names))
    ]
    rows = [
        LogitRows(logits_of(i)[: judging.num_rows].to(device), VOCAB)
        for i, judging in enumerate(judgings)
    ]
    foreseen = foresee(rows, judgings)
    asked_late: list[Any] = []
    monkeypatch.setattr(foresight, "answer_all", lambda _, asked: asked_late.extend(asked))
    outcomes = []
    for i, judging in enumerate(judgings):
        ours = judging.judge(foreseen[i])
        plain = judging.judge(LogitRows(logits_of(i)[: judging.num_rows], VOCAB))
        assert told(judging, ours) == told(judging, plain), judging.scheme.name
        assert asked_late == [], judging.scheme.name
        outcomes.append(ours.num_accepted)
    assert len(set(outcomes)) > 2


def test_a_round_takes_few_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions there are, and whatever becomes of their blocks."""
    calls: list[str] = []
    for name in ("prob", "draw", "coupled"):
        original = getattr(LawBatch, name)

        def counted(*args: Any, name: str = name, original: Any = original) -> Any:
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(LawBatch, name, counted)
    for scheme, expected in (("dssd-thinned", 3), ("coupled", 2)):
        calls.clear()
        judgings = [judging_of(scheme, SAMPLINGS[1], i, skipped=0) for i in range(24)]
        foresee([LogitRows(logits_of(i)[: GAMMA + 1], VOCAB) for i in range(24)], judgings)
        assert len(calls) <= expected + 1, calls


def test_rows_that_no_law_follows_from_harm_only_their_own_session() -> None:
    judgings = [judging_of("coupled", SAMPLINGS[0], i, skipped=0) for i in range(2)]
    bad = torch.full((GAMMA + 1, VOCAB), torch.nan, dtype=torch.float64)
    rows = foresee([LogitRows(bad, VOCAB), LogitRows(logits_of(1)[: GAMMA + 1], VOCAB)], judgings)
    assert judgings[1].judge(rows[1]) is not None
    with pytest.raises(ValueError, match="NaN"):
        judgings[0].judge(rows[0])


def test_other_laws_than_the_judge_s_are_made_when_asked_for() -> None:
    judging = judging_of("dssd-thinned", SAMPLINGS[1], 0, skipped=2)
    logits = logits_of(0)[: judging.num_rows]
    (rows,) = foresee([LogitRows(logits, VOCAB)], [judging])
    ids = np.arange(VOCAB)
    for row in (0, 3):
        expected = to_law(logits[row].numpy(), Sampling(), ()).prob(ids)
        np.testing.assert_allclose(rows.law(row, Sampling(), ()).prob(ids), expected)


def test_an_engine_that_batches_laws_gives_the_same_verdicts(llama: TorchEngine) -> None:
    engine = TorchEngine(llama.model, num_ids=384, context_len=256, max_blocks=40)
    judging = judging_of("dssd-thinned", SAMPLINGS[1], 3, skipped=0)
    job = Job(judging.tokens, judging.num_rows, judging)
    verdicts = []
    for batches_laws in (False, True):
        engine.batches_laws = batches_laws
        slot = engine.open()
        (rows,) = engine.run([(slot, job)])
        verdicts.append(repr(judging.judge(rows)))
        assert isinstance(rows, LogitRows) is not batches_laws
        engine.drop(slot)
    assert verdicts[0] == verdicts[1]
