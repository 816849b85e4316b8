"""Reading the rows of a batch together gives what reading one by one gives, with few transfers."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts, Job, Result, Rows
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
from edge_server import reads
from edge_server.engine import TorchEngine
from edge_server.law import LawBatch
from edge_server.logprobs import TokenLogprob, token_logprob
from edge_server.reads import BatchRows, read_rows
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
        frozenset({7}), Ask((3, 20)[number % 2]), skipped=skipped,
    )  # fmt: skip


def logits_of(number: int) -> torch.Tensor:
    rng = np.random.default_rng(100 + number)
    return torch.tensor(2 * rng.normal(size=(GAMMA + 3, VOCAB + 4)), dtype=torch.float64)[:, :VOCAB]


def job_of(judging: Judging) -> Job:
    return Job(judging.tokens, judging.num_rows, partial(told, judging), judging)


def together(jobs: Sequence[Job], logits: Sequence[torch.Tensor]) -> list[Result]:
    own = [rows[: job.num_rows] for job, rows in zip(jobs, logits, strict=True)]
    return read_rows(own, jobs, VOCAB, together=True)


def one_by_one(jobs: Sequence[Job], logits: Sequence[torch.Tensor]) -> list[Any]:
    own = [rows[: job.num_rows].cpu() for job, rows in zip(jobs, logits, strict=True)]
    return [result() for result in read_rows(own, jobs, VOCAB, together=False)]


def told(judging: Judging, rows: Rows) -> tuple[object, ...]:
    """What the device hears of a block."""
    judgement, out = judging.judge(rows), Writer()
    if judgement.rejection is not None:
        judging.scheme.write_rejection(out, judgement.rejection, Vocabulary(VOCAB))
    return judgement.num_accepted, judgement.next_token, out.getvalue()


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
    make = reads.to_laws  # type: ignore[attr-defined]

    def made(*args: Any) -> LawBatch:
        found.append("laws")
        return make(*args)

    monkeypatch.setattr(reads, "to_laws", made)
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_all_schemes_judge_as_one_by_one(device: str) -> None:
    names = sorted(SCHEMES)
    judgings = [
        judging_of(names[i % len(names)], SAMPLINGS[i % 4], i, skipped=i % 3)
        for i in range(4 * len(names))
    ]
    here = [replace(j, scheme=scheme_here(j.scheme.code)) for j in judgings]
    logits = [logits_of(i).to(device) for i in range(len(judgings))]
    found = [result() for result in together(list(map(job_of, here)), logits)]
    plain = one_by_one(list(map(job_of, judgings)), logits)
    for judging, ours, theirs in zip(judgings, found, plain, strict=True):
        assert ours == theirs, judging.scheme.name
    assert len({num_accepted for num_accepted, *_ in plain}) > 2


def test_a_round_takes_few_transfers(calls: list[str]) -> None:
    """However many sessions there are, and whatever becomes of their blocks."""
    for scheme, expected in (
        ("dssd-thinned", ["laws", "prob", "draw"]),
        ("coupled", ["laws", "prob", "coupled"]),
        ("tk-slt", ["laws", "prob", "draw_above", "draw"]),
        ("dsd", ["laws", "prob", "draw_above", "draw"]),
    ):
        judgings = [judging_of(scheme, SAMPLINGS[1], i, skipped=i % 3) for i in range(24)]
        jobs = [job_of(replace(j, scheme=scheme_here(j.scheme.code))) for j in judgings]
        calls.clear()
        together(jobs, [logits_of(i) for i in range(24)])
        assert sorted(calls) == sorted(expected), scheme


def test_each_session_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []
    original = Judging.judge

    def judge(judging: Judging, rows: Rows) -> Judgement:
        judged.append(judging.key.round_number)
        return original(judging, rows)

    monkeypatch.setattr(Judging, "judge", judge)
    jobs = [job_of(judging_of("dssd-thinned", SAMPLINGS[1], i, skipped=0)) for i in range(24)]
    for result in together(jobs, [logits_of(i) for i in range(24)]):
        result()
    assert judged == list(range(24))


def test_schemes_that_send_rows_fetch_them_together(calls: list[str]) -> None:
    jobs = [job_of(judging_of("dssd-packed", SAMPLINGS[1], i, skipped=0)) for i in range(24)]
    calls.clear()
    together(jobs, [logits_of(i) for i in range(24)])
    assert calls.count("rows_on_host") <= 2


def test_rows_that_no_law_follows_from_harm_only_their_own_session(calls: list[str]) -> None:
    """The others' answers are there all the same, and are not fetched one by one."""
    jobs = [job_of(judging_of("coupled", SAMPLINGS[0], i, skipped=0)) for i in range(30)]
    logits = [logits_of(i) for i in range(30)]
    plain = one_by_one(jobs, logits)
    stops = next(i for i in range(3, 30) if plain[i][0] < GAMMA)
    some = [0, 1, 2, stops]
    logits[2] = torch.full((GAMMA + 1, VOCAB), torch.nan, dtype=torch.float64)
    logits[stops][GAMMA] = torch.nan  # judged only if the whole block stands
    calls.clear()
    results = together([jobs[i] for i in some], [logits[i] for i in some])
    assert sorted(calls) == ["coupled", "laws", "laws", "prob"]
    for i, result in zip(some, results, strict=True):
        if i != 2:
            assert result() == plain[i]
    with pytest.raises(ValueError, match="NaN"):
        results[2]()


def test_a_failed_read_holds_no_rows_while_its_result_waits() -> None:
    """Nor is a batch's memory left to the garbage collector, which knows nothing of a GPU's."""
    jobs = [job_of(judging_of("coupled", SAMPLINGS[0], i, skipped=0)) for i in range(3)]
    logits = [logits_of(0), torch.full((GAMMA + 1, VOCAB), torch.nan), logits_of(2)]
    own = [rows[: job.num_rows].clone() for job, rows in zip(jobs, logits, strict=True)]
    alive = [weakref.ref(rows) for rows in own]
    gc.disable()
    try:
        results = read_rows(own, jobs, VOCAB, together=True)
        del own
        assert [ref() for ref in alive] == [None] * 3
    finally:
        gc.enable()
    with pytest.raises(ValueError, match="NaN"):
        results[1]()


def test_rounds_with_log_probabilities_stand_beside_others(calls: list[str]) -> None:
    """Their laws come in batches of their own, and each is asked for its own numbers."""
    judgings = [judging_of("dssd-thinned", SAMPLINGS[1], i, skipped=i // 2 % 2) for i in range(6)]

    def read(judging: Judging, is_plain: bool, rows: Rows) -> object:
        judgement = judging.judge(rows)
        if is_plain:
            return judgement
        laws = [rows.law(i, Sampling(), ()) for i in range(judgement.num_accepted + 1)]
        return judgement, [law.prob(np.arange(5)).tolist() for law in laws]

    jobs = [
        Job(judging.tokens, judging.num_rows, partial(read, judging, i % 2 == 0))
        for i, judging in enumerate(judgings)
    ]
    logits = [logits_of(i) for i in range(6)]
    found = [repr(result()) for result in together(jobs, logits)]
    assert calls.count("laws") == 2
    for ours, theirs in zip(found, map(repr, one_by_one(jobs, logits)), strict=True):
        assert [round(float(x), 9) for x in numbers(ours)] == [
            round(float(x), 9) for x in numbers(theirs)
        ]


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", text)


def test_penalties_cost_no_copy_of_the_text_for_each_row() -> None:
    rows, long = BatchRows(logits_of(0)[:5], VOCAB, (1, 2, 3, 4, 5)), tuple(range(50)) * 40
    counted = rows._counted(0, SAMPLINGS[2], long)
    assert [list(own) for own in counted] == [[*long, *(2, 3, 4, 5)[:i]] for i in range(5)]
    arrays = [np.asarray(own, np.int64) for own in counted]
    assert all(np.shares_memory(arrays[0], array) for array in arrays)


def test_laws_are_made_with_the_tokens_that_stand_before_them(calls: list[str]) -> None:
    """Penalties count the block's own tokens, in laws that are made before anybody asks for them."""
    ids, sampling = (3, 9, 3, 4), SAMPLINGS[2]
    rows, logits = BatchRows(logits_of(0)[:5], VOCAB, (1, *ids)), logits_of(0)
    for row in range(5):
        generated = (8, *ids[:row])
        expected = to_law(logits[row].numpy(), sampling, generated)
        every = np.arange(VOCAB)
        np.testing.assert_allclose(
            rows.law(row, sampling, generated).prob(every), expected.prob(every)
        )
    assert calls.count("laws") == 1


def test_an_engine_that_reads_together_gives_the_same_verdicts(llama: TorchEngine) -> None:
    engine = TorchEngine(another(llama), num_ids=384, context_len=256, max_blocks=40)
    judging = judging_of("dssd-thinned", SAMPLINGS[1], 3, skipped=0)
    verdicts = []
    for together in (False, True):
        engine.reads_together = together
        slot = engine.open()
        (result,) = engine.run([(slot, job_of(judging))])
        verdicts.append(result())
        engine.drop(slot)
    assert verdicts[0] == verdicts[1]


# drafts of the edge's own


def drafted(judging: Judging, rows: Rows) -> Judging:
    return judging.drafted(rows.law(0, judging.sampling, judging.generated()))


@pytest.mark.parametrize("scheme", [OnEdgeHere(), SCHEMES["coupled"], SCHEMES["greedy-draft"]])
def test_drafts_are_made_for_all_sessions_at_once_and_judged_with_their_laws(
    scheme: Any, calls: list[str]
) -> None:
    blocks = [
        Judging(scheme, SAMPLINGS[i % 3], 3, RoundKey(5, 0, i), tuple(range(3 + i)), gamma=GAMMA)
        for i in range(12)
    ]
    plain = list(blocks)
    for step in range(GAMMA):
        logits = [logits_of(i)[step : step + 1] + 0.7 * logits_of(50 + i)[:1] for i in range(12)]
        jobs = [Job(block.tokens, 1, partial(drafted, block)) for block in blocks]
        calls.clear()
        blocks = [result() for result in together(jobs, logits)]
        assert calls.count("laws") == 1 and len(calls) <= 3, calls
        jobs = [Job(block.tokens, 1, partial(drafted, block)) for block in plain]
        plain = one_by_one(jobs, logits)
    assert [block.tokens for block in blocks] == [block.tokens for block in plain]
    every = [logits_of(i) for i in range(12)]
    calls.clear()
    found = [result() for result in together(list(map(job_of, blocks)), every)]
    assert len(calls) <= 6 and "rows_on_host" not in calls, calls
    assert found == one_by_one(list(map(job_of, plain)), every)
    assert len({num_accepted for num_accepted, *_ in found}) > 1


# what is asked beside the judging


def a_session(scheme: str, sampling: Sampling) -> EdgeSession:
    """With a prompt of three tokens, before its first round."""
    facts = EdgeFacts("test", VOCAB, lambda _: bytes(16), 256, ())
    session = EdgeSession(facts, bytes(16), scheme_of=scheme_here)
    session.receive(encode(Hello("test", VOCAB)))
    begin = Begin(0, 0, (1, 2, 3), 3, SCHEMES[scheme].code, sampling, 7, ())
    session.receive(encode(begin))
    session.commit(None)
    return session


def answer(session: EdgeSession, data: bytes, number: int, how: Any) -> bytes:
    job = session.receive(data).job
    assert job is not None
    (found,) = how([job], [logits_of(number)])
    reply = session.commit(found if how is one_by_one else found()).reply
    assert reply is not None
    return reply


def _likely(number: int, row: int = 0) -> int:
    """What the judge itself thinks likely: it stands if its evidence is small."""
    return int(logits_of(number)[2 + row].argmax())


@pytest.mark.parametrize("sampling", SAMPLINGS[:2])
def test_more_draws_and_log_probabilities_are_the_same(sampling: Sampling) -> None:
    seen = []
    for number in range(6):
        replies = []
        for how in (one_by_one, together):
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
            answers = [answer(session, data, number, how)]
            verdict = decode(answers[0])
            assert isinstance(verdict, Verdict)
            if verdict.ending is Ending.REJECTION:
                end = len(session.tokens)
                for whole_row in (False, True):
                    more = More(0, 0, end, session.tokens.prefix_hash(end), 3, 6, whole_row)
                    answers.append(answer(session, encode(more), number, how))
            replies.append(answers)
        assert replies[0] == replies[1]
        seen.append(len(replies[0]))
    assert set(seen) == {1, 3}


@pytest.mark.parametrize("num_top", [0, 4])
def test_the_log_probabilities_of_a_completion_are_the_same(num_top: int, calls: list[str]) -> None:
    judging = Judging(SCHEMES["coupled"], SAMPLINGS[1], 3, RoundKey(5, 0, 0), (1, 2, 3))

    def read(rows: Rows) -> TokenLogprob:
        (token_id,) = written(judging, rows)
        return token_logprob(rows, token_id, VOCAB, num_top)

    job = Job(judging.tokens, 1, read, judging)
    (ours,) = [result() for result in together([job], [logits_of(1)])]
    assert "rows_on_host" not in calls
    (theirs,) = one_by_one([job], [logits_of(1)])
    assert len(ours.top) == num_top
    assert [index for index, _ in ours.top] == [index for index, _ in theirs.top]
    np.testing.assert_allclose([p for _, p in ours.top], [p for _, p in theirs.top])
    assert ours.logprob == pytest.approx(theirs.logprob)
