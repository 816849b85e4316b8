"""Speculation wholly on the edge: the law is the LLM's, and so is the text where a seed decides."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts, Job, Rows
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.judging import DraftedRows, Judging, written
from device_runtime.protocol.messages import Begin, Hello, Stream, Tokens, decode, encode
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes import SCHEMES
from edge_server.blocks import BLOCK_LEN
from edge_server.checkpoint import Checkpoint
from edge_server.edge_draft import CATCH_UP_TOKENS, DraftingEngine, TwoSlots
from edge_server.engine import TorchEngine
from edge_server.engines import find_models, make_engine
from edge_server.facts import read_tokens
from edge_server.local_runner import LocalRunner
from edge_server.runner import LostRunnerError
from edge_server.scheduler import Scheduler
from tests.edge_server.conftest import CACHE_BYTES
from tests.exact_law import EnumeratedStreams, enumerate_law
from tests.runners import another
from tests.table_model import Table, TableRows, random_table, vocabulary_hash
from tests.tiny_models import END_ID, NUM_TOKENS, tiny_model, with_noise

VOCAB, CONTEXT_LEN = 4, 256
P, Q = random_table(VOCAB, seed=1, spread=1.0), random_table(VOCAB, seed=2, spread=1.0)
SAMPLED = Sampling(temperature=0.8, top_p=0.9)


class TableDrafting:
    """What `DraftingEngine` does, over tables."""

    def __init__(self, drafter: Table = Q) -> None:
        self._drafter = drafter

    def run(self, job: Job) -> Any:
        judging = job.judging
        assert judging is not None
        while not judging.is_full:
            q = TableRows(self._drafter, Job(judging.tokens, 1), VOCAB)
            judging = judging.drafted(q.law(0, judging.sampling, judging.generated()))
        rows = TableRows(P, Job(judging.tokens, judging.num_rows), VOCAB)
        return job.read(DraftedRows(rows, judging) if judging.block else rows)


def streamed(
    run: Callable[[Job], Any], num_tokens: int, scheme: str, sampling: Sampling,
    *, edge_gamma: int, end_ids: tuple[int, ...] = (), prompt: Sequence[int] = (1,), seed: int = 3,
    num_ids: int = VOCAB, **settings: Any,
) -> list[tuple[int, ...]]:  # fmt: skip
    """The tokens of each message of a stream."""
    facts = EdgeFacts(
        "table", num_ids, vocabulary_hash, CONTEXT_LEN, end_ids, edge_gamma=edge_gamma
    )
    session = EdgeSession(facts, bytes(16), **settings)
    session.receive(encode(Hello("test", num_ids)))
    begin = Begin(
        0, 0, tuple(prompt), len(prompt), SCHEMES[scheme].code, sampling, seed, end_ids, 0, 0, 0
    )
    step = session.receive(encode(begin))
    assert step.job is not None
    session.commit(None)
    step = session.receive(encode(Stream(num_tokens)))
    messages = []
    while step.job is not None:
        step = session.commit(run(step.job))
        if step.reply is not None:
            message = decode(step.reply)
            assert isinstance(message, Tokens)
            messages.append(message.ids)
    return messages


def flat(messages: list[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable(messages))


@pytest.mark.parametrize("scheme", ["dssd-thinned", "greedy-draft"])
@pytest.mark.parametrize("gamma", [1, 2])
@pytest.mark.parametrize("sampling", [Sampling(), SAMPLED, Sampling(presence_penalty=1.0, top_k=3)])
def test_the_law_of_a_stream_with_drafts_is_the_llm_s(
    scheme: str, gamma: int, sampling: Sampling
) -> None:
    """All coins are enumerated, those of drafting and of judging, over three tokens."""

    def run(_: object, streams: EnumeratedStreams) -> tuple[int, ...]:
        messages = streamed(
            TableDrafting().run, 3, scheme, sampling, edge_gamma=gamma, end_ids=(2,),
            streams_at=streams.at,
        )  # fmt: skip
        return flat(messages)

    emitted = enumerate_law(run)
    for text, chance in emitted.items():
        expected = 1.0
        for i, token_id in enumerate(text):
            law = to_law(P[(1, *text)[i]], sampling, text[:i], VOCAB)
            expected *= float(law.prob(np.array([token_id]))[0])
        assert chance == pytest.approx(expected, abs=1e-12)
        assert 2 not in text[:-1]
        assert len(text) == 3 or text[-1] == 2


@pytest.mark.parametrize("scheme", ["coupled", "greedy-draft"])
def test_where_a_seed_decides_the_text_drafts_change_nothing(scheme: str) -> None:
    num_saved = 0
    for seed in range(20):
        plain = streamed(
            lambda job: job.read(TableRows(P, job, VOCAB)),
            12,
            scheme,
            SAMPLED,
            edge_gamma=0,
            seed=seed,
        )
        assert all(len(ids) == 1 for ids in plain)
        for gamma in (1, 3, 5):
            drafted = streamed(
                TableDrafting().run, 12, scheme, SAMPLED, edge_gamma=gamma, seed=seed
            )
            assert flat(drafted) == flat(plain)
            num_saved += len(plain) - len(drafted)
    assert num_saved > 0


@pytest.mark.parametrize("scheme", ["dssd-thinned", "coupled"])
@pytest.mark.parametrize("sampling", [SAMPLED, Sampling(0.8, presence_penalty=1.0, top_k=3)])
def test_all_drafts_of_a_model_like_the_llm_stand(scheme: str, sampling: Sampling) -> None:
    """Whatever drafting takes for granted otherwise than judging costs drafts, and nothing else."""
    drafting = TableDrafting(P)
    for seed in range(10):
        messages = streamed(drafting.run, 12, scheme, sampling, edge_gamma=3, seed=seed)
        assert [len(ids) for ids in messages] == [4, 4, 4]


def test_no_more_tokens_than_were_asked_for() -> None:
    for count in range(1, 8):
        text = flat(streamed(TableDrafting().run, count, "coupled", SAMPLED, edge_gamma=4))
        assert len(text) == count


@pytest.mark.parametrize("num_left", [1, 2, 3, 6])
def test_nothing_is_drafted_beyond_the_context(num_left: int) -> None:
    longest = []

    def run(job: Job) -> Any:
        return TableDrafting().run(replace(job, read=lambda rows: told(job, rows)))

    def told(job: Job, rows: Rows) -> Any:
        longest.append(len(rows.judging.tokens) if isinstance(rows, DraftedRows) else 0)
        return job.read(rows)

    prompt = (1,) * (CONTEXT_LEN - num_left)
    text = flat(streamed(run, 100, "coupled", SAMPLED, edge_gamma=4, prompt=prompt))
    assert len(text) == num_left
    assert max(longest) < CONTEXT_LEN


# with real models


@pytest.fixture(scope="session")
def drafting(make_engine: Callable[..., TorchEngine]) -> DraftingEngine:
    model = with_noise(tiny_model("llama", num_padding=16), 0.05).double()
    model.set_attn_implementation("tandem")
    draft = TorchEngine(
        LocalRunner(model), num_ids=NUM_TOKENS - 20, context_len=200, max_blocks=100
    )
    return DraftingEngine(make_engine(), draft)


def run_with(engine: Any) -> Callable[[Job], Any]:
    slot = engine.open()

    def run(job: Job) -> Any:
        (result,) = engine.run([(slot, job)])
        return result()

    return run


def stream_job(judging: Judging, read: Callable[[Rows], Any] | None = None) -> Job:
    return Job(judging.tokens, 1, read or partial(written, judging), judging)


def is_drafted(rows: Rows) -> bool:
    return isinstance(rows, DraftedRows)


@pytest.mark.parametrize("gamma", [1, 4])
def test_greedy_text_with_drafts_equals_generate(
    drafting: DraftingEngine, generated: Callable[..., list[int]], gamma: int
) -> None:
    prompt = [5, 77, 200, 31, 8]
    messages = streamed(
        run_with(drafting), 40, "dssd-thinned", Sampling(temperature=0.0), edge_gamma=gamma,
        prompt=prompt, num_ids=NUM_TOKENS,
    )  # fmt: skip
    assert list(flat(messages)) == generated(prompt, 40)
    assert len(messages) < 40


def test_sessions_draft_together_and_write_what_each_writes_alone(
    drafting: DraftingEngine, llama: TorchEngine
) -> None:
    """One of them is a device's round, which the edge leaves as it is."""
    prompts = [(5, 77, 200), (300, 12, 99, 3), tuple(range(20, 60))]
    judgings = [Judging(SCHEMES["coupled"], SAMPLED, len(p), _key(), p, gamma=3) for p in prompts]
    slots = [drafting.open() for _ in range(4)]
    num_passes = drafting.num_passes
    texts = list(prompts)
    for _ in range(4):
        jobs = [*map(stream_job, judgings), Job((1, 2, 3), 2, is_drafted)]
        *results, device_s = drafting.run(list(zip(slots, jobs, strict=True)))
        assert not device_s()
        for i, result in enumerate(results):
            texts[i] = (*texts[i], *result())
            judgings[i] = replace(judgings[i], tokens=texts[i])
    assert drafting.num_passes - num_passes == 4 * 3
    for prompt, text in zip(prompts, texts, strict=True):
        count = len(text) - len(prompt)
        alone = streamed(
            run_with(llama), count, "coupled", SAMPLED, edge_gamma=0, prompt=prompt,
            num_ids=NUM_TOKENS, seed=_key().seed,
        )  # fmt: skip
        assert text[len(prompt) :] == flat(alone)


def _key() -> Any:
    from device_runtime.protocol.verify import RoundKey

    return RoundKey(7, 0, 0)


def test_a_long_prompt_is_read_by_the_draft_model_bit_by_bit(drafting: DraftingEngine) -> None:
    small = DraftingEngine(drafting.target, drafting.draft)
    slot, prompt = small.open(), tuple(4 + i % 300 for i in range(150))
    judging = Judging(SCHEMES["coupled"], SAMPLED, 150, _key(), prompt, gamma=2)
    assert CATCH_UP_TOKENS >= 150  # or this text would not be drafted at once
    (result,) = small.run([(slot, stream_job(judging, is_drafted))])
    assert result()
    long = tuple(4 + i % 300 for i in range(199))  # no room in the draft model's context of 200
    (result,) = small.run([(slot, stream_job(replace(judging, tokens=long), is_drafted))])
    assert not result()
    small.drop(slot)


def test_catching_up_takes_chunks(
    drafting: DraftingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_server.edge_draft.CATCH_UP_TOKENS", 40)
    slot, prompt = drafting.open(), tuple(4 + i % 300 for i in range(100))
    judging = Judging(SCHEMES["coupled"], SAMPLED, 100, _key(), prompt, gamma=2)
    kinds = []
    for _ in range(3):
        (result,) = drafting.run([(slot, stream_job(judging, is_drafted))])
        kinds.append(result())
    assert kinds == [False, False, True]
    drafting.drop(slot)


def test_catching_up_is_bounded_over_all_sessions(
    drafting: DraftingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many prompts come at once, the draft model reads no more beside a batch."""
    monkeypatch.setattr("edge_server.edge_draft.CATCH_UP_TOKENS", 100)
    prompts = [tuple(4 + (i + k) % 300 for i in range(70)) for k in range(4)]
    judgings = [Judging(SCHEMES["coupled"], SAMPLED, 70, _key(), p, gamma=2) for p in prompts]
    slots = [drafting.open() for _ in prompts]
    read: list[int] = []
    original = drafting.draft.logits

    def logits(batch: Sequence[tuple[Any, Job]]) -> Any:
        read.append(sum(drafting.draft.num_new(slot, job) for slot, job in batch))
        return original(batch)

    monkeypatch.setattr(drafting.draft, "logits", logits)
    seen = []
    for _ in range(4):
        read.clear()
        results = drafting.run(
            [(s, stream_job(j, is_drafted)) for s, j in zip(slots, judgings, strict=True)]
        )
        assert sum(read) <= 100 + len(slots) * 2 * 3
        seen.append([result() for result in results])
    assert seen[0] == [True, False, False, False]
    assert seen[-1] == [True] * 4
    for slot in slots:
        drafting.drop(slot)


async def test_streams_with_drafts_fill_a_cache_without_overflowing_it(
    drafting: DraftingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Texts that end just below a block need another one for what is drafted behind them."""
    engines = [
        TorchEngine(another(engine), num_ids=engine.num_ids, context_len=200, max_blocks=9)
        for engine in (drafting.target, drafting.draft)
    ]
    scheduler: Scheduler[TwoSlots] = Scheduler(
        DraftingEngine(*engines), max_rows=64, max_tokens=2048, prefill_tokens=256
    )
    serving = asyncio.create_task(scheduler.serve())
    texts = [tuple(4 + (i + k) % 300 for i in range(2 * BLOCK_LEN - 1)) for k in range(5)]
    judgings = [Judging(SCHEMES["coupled"], SAMPLED, 3, _key(), text, gamma=4) for text in texts]
    results = await asyncio.gather(
        *(scheduler.run(scheduler.open(), stream_job(j, is_drafted)) for j in judgings)
    )
    assert "failed" not in caplog.text
    assert all(result() for result in results)
    serving.cancel()
    await asyncio.wait((serving,))


@pytest.mark.parametrize("scheme", ["dssd-thinned", "coupled", "greedy-draft"])
def test_batched_laws_draft_and_judge_the_same_text(
    drafting: DraftingEngine, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """What happens on a GPU, here on the CPU: the same tokens, drafts and judgements."""
    texts = []
    for together in (False, True):
        for engine in (drafting.target, drafting.draft):
            monkeypatch.setattr(engine, "reads_together", together)
        texts.append(
            streamed(
                run_with(drafting), 24, scheme, SAMPLED, edge_gamma=3, prompt=(5, 77, 200),
                num_ids=NUM_TOKENS,
            )
        )  # fmt: skip
    assert texts[0] == texts[1]
    assert len(texts[0]) < 24


def test_both_models_share_the_memory(checkpoint: Callable[..., Any]) -> None:
    folder = checkpoint("llama")
    opened = Checkpoint.open(folder)
    tokens = read_tokens(folder)
    models = find_models(opened, tokens, str(folder))
    runners = [model.load(torch.device("cpu"), torch.float64) for model in models]
    alone = make_engine(models[:1], runners[:1], CACHE_BYTES)
    engine = make_engine(models, runners, CACHE_BYTES)
    assert isinstance(engine, DraftingEngine)
    assert isinstance(alone, TorchEngine)
    assert engine.target.max_blocks == engine.draft.max_blocks == alone.max_blocks // 2
    with pytest.raises(ConfigError, match="differ"):
        find_models(opened, [tokens[1], tokens[0], *tokens[2:]], str(folder))
    assert END_ID < NUM_TOKENS


def test_a_text_that_the_draft_model_has_no_law_for_goes_on_without_drafts(
    drafting: DraftingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [(5, 77, 200), (300, 12, 99)]
    judgings = [Judging(SCHEMES["coupled"], SAMPLED, 3, _key(), text, gamma=3) for text in texts]
    slots = [drafting.open() for _ in texts]
    original = drafting.draft.logits

    def logits(batch: Sequence[tuple[Any, Job]]) -> list[torch.Tensor]:
        rows = original(batch)
        bad = [job.tokens[0] == 5 and len(job.tokens) == 4 for _, job in batch]
        return [row * torch.nan if is_bad else row for row, is_bad in zip(rows, bad, strict=True)]

    monkeypatch.setattr(drafting.draft, "logits", logits)
    for together in (False, True):
        for engine in (drafting.target, drafting.draft):
            monkeypatch.setattr(engine, "reads_together", together)
        jobs = [stream_job(judging, is_drafted) for judging in judgings]
        results = drafting.run(list(zip(slots, jobs, strict=True)))
        assert [result() for result in results] == [False, True]
    for slot in slots:
        drafting.drop(slot)


@pytest.mark.parametrize("which", ["target", "draft"])
def test_the_loss_of_either_model_is_the_engine_s(
    drafting: DraftingEngine, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    def lost() -> None:
        raise LostRunnerError("gone")

    drafting.check()
    monkeypatch.setattr(getattr(drafting, which).runner, "check", lost)
    with pytest.raises(LostRunnerError, match="gone"):
        drafting.check()
