"""Judging a whole batch beforehand gives what judging one by one gives, with few transfers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts, Job
from device_runtime.protocol.grid import GRID
from device_runtime.protocol.judging import Judging, written
from device_runtime.protocol.messages import (
    Begin,
    Ending,
    Flags,
    Hello,
    More,
    Round,
    Verdict,
    decode,
    encode,
)
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Vocabulary
from device_runtime.protocol.tokens import TokenList
from device_runtime.protocol.verify import Judgement, RoundKey
from device_runtime.protocol.wire import BitReader, BitWriter, Writer
from edge_server import foresight
from edge_server.asks import asked_by_message, asked_for_top
from edge_server.completion import token_logprob
from edge_server.engine import TorchEngine
from edge_server.foresight import LogitRows, draw_drafts, foresee
from edge_server.law import LawBatch
from edge_server.residual import OnEdgeHere, scheme_here
from tests.runners import another

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


def rows_of(judging: Judging, number: int, device: str = "cpu") -> LogitRows:
    return LogitRows(logits_of(number)[: judging.num_rows].to(device), VOCAB)


def job_of(judging: Judging) -> Job:
    return Job(judging.tokens, judging.num_rows, judging)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of batches of laws, and how often laws are made."""
    found: list[str] = []
    for name in ("prob", "draw", "draw_above", "coupled", "rows_on_host", "most_probable"):
        original = getattr(LawBatch, name)

        def counted(*args: Any, name: str = name, original: Any = original) -> Any:
            found.append(name)
            return original(*args)

        monkeypatch.setattr(LawBatch, name, counted)
    make = foresight.to_laws  # type: ignore[attr-defined]

    def made(*args: Any) -> LawBatch:
        found.append("laws")
        return make(*args)

    monkeypatch.setattr(foresight, "to_laws", made)
    return found


def told(judging: Judging, judgement: Judgement) -> tuple[object, ...]:
    """What the device hears of it."""
    out = Writer()
    if judgement.rejection is not None:
        judging.scheme.write_rejection(out, judgement.rejection, Vocabulary(VOCAB))
    return judgement.num_accepted, judgement.next_token, out.getvalue()


@pytest.mark.parametrize("device", DEVICES)
def test_all_schemes_judge_as_one_by_one(device: str, calls: list[str]) -> None:
    names = sorted(SCHEMES)
    judgings = [
        judging_of(names[i % len(names)], SAMPLINGS[i % 4], i, skipped=i % 3)
        for i in range(4 * len(names))
    ]
    here = [replace(j, scheme=scheme_here(j.scheme.code)) for j in judgings]
    rows = [rows_of(judging, i, device) for i, judging in enumerate(judgings)]
    foreseen = foresee(rows, [job_of(judging) for judging in here])
    calls.clear()
    outcomes = []
    for i, (judging, ours) in enumerate(zip(judgings, here, strict=True)):
        foretold = told(ours, ours.judge(foreseen[i]))
        assert calls == [], judging.scheme.name  # nothing was asked late
        plain = judging.judge(rows_of(judging, i))
        assert foretold == told(judging, plain), judging.scheme.name
        calls.clear()
        outcomes.append(plain.num_accepted)
    assert len(set(outcomes)) > 2


def test_a_round_takes_few_transfers(calls: list[str]) -> None:
    """However many sessions there are, and whatever becomes of their blocks."""
    for scheme, expected in (
        ("dssd-thinned", ["laws", "prob", "draw", "prob"]),
        ("coupled", ["laws", "prob", "coupled"]),
        ("tk-slt", ["laws", "prob", "draw_above", "draw", "prob"]),
        ("dsd", ["laws", "prob", "draw_above", "draw", "prob"]),
    ):
        judgings = [judging_of(scheme, SAMPLINGS[1], i, skipped=0) for i in range(24)]
        judgings = [replace(j, scheme=scheme_here(j.scheme.code)) for j in judgings]
        calls.clear()
        foresee([rows_of(j, i) for i, j in enumerate(judgings)], [job_of(j) for j in judgings])
        assert calls == expected, scheme


def test_schemes_that_send_rows_fetch_them_together(calls: list[str]) -> None:
    judgings = [judging_of("dssd-packed", SAMPLINGS[1], i, skipped=0) for i in range(24)]
    calls.clear()
    foresee([rows_of(j, i) for i, j in enumerate(judgings)], [job_of(j) for j in judgings])
    assert calls.count("rows_on_host") <= 2


def test_rows_that_no_law_follows_from_harm_only_their_own_session(calls: list[str]) -> None:
    """The others' answers are there all the same, and are not fetched one by one."""
    tried = [judging_of("coupled", SAMPLINGS[0], i, skipped=0) for i in range(30)]
    stops = next(
        i for i in range(3, 30) if tried[i].judge(rows_of(tried[i], i)).num_accepted < GAMMA
    )
    judgings = [*tried[:3], tried[stops]]
    rows = [rows_of(judging, i) for judging, i in zip(judgings, (0, 1, 2, stops), strict=True)]
    rows[2] = LogitRows(torch.full((GAMMA + 1, VOCAB), torch.nan, dtype=torch.float64), VOCAB)
    rows[3].logits[GAMMA] = torch.nan  # judged only if the whole block stands
    foreseen = foresee(rows, [job_of(judging) for judging in judgings])
    calls.clear()
    for i in (0, 1):
        plain = judgings[i].judge(rows_of(judgings[i], i))
        assert told(judgings[i], judgings[i].judge(foreseen[i])) == told(judgings[i], plain)
    assert judgings[3].judge(foreseen[3]).num_accepted < GAMMA
    assert calls == []
    with pytest.raises(ValueError, match="NaN"):
        judgings[2].judge(foreseen[2])


def test_other_laws_than_the_judge_s_are_made_when_asked_for() -> None:
    judging = judging_of("dssd-thinned", SAMPLINGS[1], 0, skipped=2)
    logits = logits_of(0)[: judging.num_rows]
    (rows,) = foresee([LogitRows(logits, VOCAB)], [job_of(judging)])
    ids = np.arange(VOCAB)
    for row in (0, 3):
        expected = to_law(logits[row].numpy(), Sampling(), ()).prob(ids)
        np.testing.assert_allclose(rows.law(row, Sampling(), ()).prob(ids), expected)


def test_an_engine_that_batches_laws_gives_the_same_verdicts(llama: TorchEngine) -> None:
    engine = TorchEngine(another(llama), num_ids=384, context_len=256, max_blocks=40)
    judging = judging_of("dssd-thinned", SAMPLINGS[1], 3, skipped=0)
    verdicts = []
    for batches_laws in (False, True):
        engine.batches_laws = batches_laws
        slot = engine.open()
        (rows,) = engine.run([(slot, job_of(judging))])
        verdicts.append(repr(judging.judge(rows)))
        assert isinstance(rows, LogitRows) is not batches_laws
        engine.drop(slot)
    assert verdicts[0] == verdicts[1]


# drafts of the edge's own


@pytest.mark.parametrize("scheme", [OnEdgeHere(), SCHEMES["coupled"], SCHEMES["greedy-draft"]])
def test_drafts_are_made_for_all_sessions_at_once_and_judged_without_asking_again(
    scheme: Any, calls: list[str]
) -> None:
    num_accepted = []
    blocks = [
        Judging(scheme, SAMPLINGS[i % 3], 3, RoundKey(5, 0, i), tuple(range(3 + i)), gamma=GAMMA)
        for i in range(12)
    ]
    plain = list(blocks)
    for step in range(GAMMA):
        logits = [logits_of(i)[step : step + 1] + 0.7 * logits_of(50 + i)[:1] for i in range(12)]
        calls.clear()
        blocks = draw_drafts([LogitRows(row, VOCAB) for row in logits], blocks)
        assert calls.count("laws") == 1 and len(calls) <= 3, calls
        plain = [
            judging.drafted(to_law(row[0].numpy(), judging.sampling, judging.generated(), VOCAB))
            for row, judging in zip(logits, plain, strict=True)
        ]
    assert [block.tokens for block in blocks] == [block.tokens for block in plain]
    rows = [rows_of(block, i) for i, block in enumerate(blocks)]
    calls.clear()
    foreseen = foresee(rows, [job_of(block) for block in blocks])
    assert len(calls) <= 6 and "rows_on_host" not in calls, calls
    calls.clear()
    judged = [block.judge(own) for block, own in zip(blocks, foreseen, strict=True)]
    assert calls == []
    for i, (block, judgement) in enumerate(zip(plain, judged, strict=True)):
        assert told(block, judgement) == told(block, block.judge(rows_of(block, i)))
        num_accepted.append(judgement.num_accepted)
    assert len(set(num_accepted)) > 1


def test_a_draft_law_that_does_not_exist_fails() -> None:
    judging = Judging(OnEdgeHere(), SAMPLINGS[0], 3, RoundKey(5, 0, 0), (1, 2, 3), gamma=2)
    bad = torch.full((1, VOCAB), torch.nan, dtype=torch.float64)
    with pytest.raises(ValueError, match="NaN"):
        draw_drafts([LogitRows(bad, VOCAB)], [judging])


# what is asked beside the judging


def a_session(scheme: str, sampling: Sampling) -> EdgeSession:
    """With a prompt of three tokens, before its first round."""
    facts = EdgeFacts("test", VOCAB, lambda _: bytes(16), 256, ())
    session = EdgeSession(facts, bytes(16), scheme_of=scheme_here)
    session.receive(encode(Hello("test", VOCAB)))
    begin = Begin(0, 0, (1, 2, 3), 3, SCHEMES[scheme].code, sampling, 7, ())
    session.receive(encode(begin))
    session.commit(LogitRows(torch.empty(0, VOCAB), VOCAB))
    return session


def answer(session: EdgeSession, data: bytes, number: int, *, foresees: bool) -> bytes:
    step = session.receive(data)
    assert step.job is not None
    job = asked_by_message(step.job, data, session) if foresees else step.job
    rows: Any = LogitRows(logits_of(number)[: job.num_rows], VOCAB)
    if foresees:
        (rows,) = foresee([rows], [job])
    reply = session.commit(rows).reply
    assert reply is not None
    return reply


def _likely(number: int, row: int = 0) -> int:
    """What the judge itself thinks likely: it stands if its evidence is small."""
    return int(logits_of(number)[2 + row].argmax())


@pytest.mark.parametrize("sampling", SAMPLINGS[:2])
def test_more_draws_and_log_probabilities_are_foreseen(
    sampling: Sampling, calls: list[str]
) -> None:
    seen = []
    for number in range(6):
        replies = []
        for foresees in (False, True):
            session = a_session("dssd-thinned", sampling)
            device = TokenList((1, 2, 3))
            bits = BitWriter()
            last = (1, GRID.num_levels - 1)[number % 2]
            block = [Drafted(_likely(number), 1), Drafted(_likely(number, 1), last)]
            for drafted in block:
                bits.put(drafted.token_id, Vocabulary(VOCAB).id_bits)
            SCHEMES["dssd-thinned"].write_evidence(bits, block, Vocabulary(VOCAB))
            data = encode(
                Round(0, 0, 3, device.prefix_hash(3), (4, 5), 2, 6, bits.getvalue(), Flags.LOGPROBS)
            )
            answers = [answer(session, data, number, foresees=foresees)]
            verdict = decode(answers[0])
            assert isinstance(verdict, Verdict)
            if verdict.ending is Ending.REJECTION:
                end = len(session.tokens)
                for whole_row in (False, True):
                    more = More(0, 0, end, session.tokens.prefix_hash(end), 3, 6, whole_row)
                    calls.clear()
                    answers.append(answer(session, encode(more), number, foresees=foresees))
            replies.append(answers)
        assert replies[0] == replies[1]
        seen.append(len(replies[0]))
    assert set(seen) == {1, 3}


def test_what_is_foreseen_is_not_asked_late(calls: list[str]) -> None:
    session = a_session("dssd-thinned", SAMPLINGS[1])
    data = encode(Round(0, 0, 3, session.tokens.prefix_hash(3), (4, 5), 0, 6, b"", Flags.LOGPROBS))
    step = session.receive(data)
    assert step.job is not None
    job = asked_by_message(step.job, data, session)
    (rows,) = foresee([LogitRows(logits_of(1)[: job.num_rows], VOCAB)], [job])
    calls.clear()
    session.commit(rows)
    assert calls == []


@pytest.mark.parametrize("num_top", [0, 4])
def test_the_log_probabilities_of_a_completion_are_foreseen(num_top: int, calls: list[str]) -> None:
    facts = EdgeFacts("test", VOCAB, lambda _: bytes(16), 256, ())
    judging = Judging(SCHEMES["coupled"], SAMPLINGS[1], 3, RoundKey(5, 0, 0), (1, 2, 3))
    plain = LogitRows(logits_of(1)[:1], VOCAB)
    (rows,) = foresee([plain], [asked_for_top(job_of(judging), VOCAB, num_top)])
    assert "rows_on_host" not in calls
    calls.clear()
    (token_id,) = written(judging, judging.judge(rows))
    ours = token_logprob(rows, token_id, facts, num_top)
    assert calls == []
    theirs = token_logprob(plain, token_id, facts, num_top)
    assert [index for index, _ in ours.top] == [index for index, _ in theirs.top]
    np.testing.assert_allclose([p for _, p in ours.top], [p for _, p in theirs.top])
    assert ours.logprob == pytest.approx(theirs.logprob)
