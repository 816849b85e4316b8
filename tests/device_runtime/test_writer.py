"""An answer by hand: what is refused before a word of it is sent, and where its text begins."""

from __future__ import annotations

import argparse
import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from device_runtime import run_cli, writer
from device_runtime.link import Traffic
from device_runtime.protocol.errors import ConfigError, TandemError
from device_runtime.protocol.randomness import Coins, device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.tokenizer import Tokenizer
from device_runtime.writer import Answer, Mode, WriteConfig
from tests.device_runtime.test_generate import SlowDrafter
from tests.tiny_bundle import byte_level_tokenizer


def an_answer(num_ids: int, mode: Mode = "split", scheme: str = "dsd", **more: Any) -> Answer:
    device: Any = SimpleNamespace(tokenizer=SimpleNamespace(num_ids=num_ids))
    return Answer(device, WriteConfig(mode, scheme, 14, Sampling(), 10, **more), [1])


def test_an_answer_with_tokens_that_no_edge_saw_is_not_lossless() -> None:
    answer = an_answer(12, scheme="dssd-thinned")
    assert answer.lossless
    answer.counts.unverified += 1
    assert not answer.lossless


def test_a_gamma_that_would_burst_a_message_is_refused() -> None:
    with pytest.raises(ConfigError, match="gamma is 14; dsd sends a law"):
        an_answer(151_936)


def test_other_vocabularies_modes_and_schemes_take_it() -> None:
    an_answer(32_000)
    an_answer(151_936, mode="edge")
    an_answer(151_936, scheme="dssd-thinned")
    an_answer(151_936, scheme="threshold", lossy=True)


@pytest.mark.parametrize(("num_ids_of_edge", "num_ids"), [(None, 384), (400, 400), (300, 300)])
async def test_a_bias_for_an_id_that_the_model_lacks_is_refused(
    num_ids_of_edge: int | None, num_ids: int
) -> None:
    """The LLM is asked where there is one: it may know more ids than the SLM, or fewer."""
    device: Any = SimpleNamespace(
        tokenizer=SimpleNamespace(num_ids=384),
        bundle=SimpleNamespace(manifest=SimpleNamespace(end_token_ids=())),
    )
    link: Any = None
    if num_ids_of_edge is not None:
        facts = SimpleNamespace(num_ids=num_ids_of_edge, end_ids=())
        link = SimpleNamespace(session=SimpleNamespace(facts=facts))
    config = WriteConfig("edge", "coupled", 4, Sampling(logit_bias=((num_ids, 3.0),)), 10)
    said = f"logit_bias names the id {num_ids}; the model has {num_ids} ids"
    with pytest.raises(ConfigError, match=said):
        await anext(Answer(device, config, [1]).pieces(link))


END = "</s>"


def metaspace_tokenizer() -> str:
    """As SentencePiece's: a space is written `▁`, and one is put before every text."""
    tokens = ["<unk>", END, "<user>", "<bot>", "▁", "▁Once", "▁upon", "Once", "upon", *"Onceup"]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    inner.add_special_tokens([AddedToken(t, normalized=False) for t in ("<user>", "<bot>", END)])
    return str(inner.to_str())


TOKENIZERS = {
    "metaspace": Tokenizer(metaspace_tokenizer().encode()),
    "byte level": Tokenizer(byte_level_tokenizer().encode()),
}


def ids_of(tokenizer: Tokenizer, tokens: list[str]) -> list[int]:
    every = {tokenizer.token(i): i for i in range(tokenizer.num_ids)}
    return [every[token, token.startswith("<")] for token in tokens]


class ScriptedDrafter:
    """An SLM that writes what it was given to write."""

    def __init__(self, script: list[int], num_ids: int) -> None:
        self.vocab_size, self.num_tokens = num_ids, 0
        self._script = iter(script)

    def truncate(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def append(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self.num_tokens += len(token_ids)
        row = np.zeros(self.vocab_size, np.float32)
        row[next(self._script)] = 9.0
        return row


async def written(
    name: str, prompt: list[str], answer: list[str], *, is_chat: bool, **more: Any
) -> list[str]:
    """The pieces of an answer that the model writes in these tokens."""
    tokenizer = TOKENIZERS[name]
    script = ids_of(tokenizer, answer)
    manifest = SimpleNamespace(end_token_ids=())
    device: Any = SimpleNamespace(
        tokenizer=tokenizer,
        drafter=ScriptedDrafter(script, tokenizer.num_ids),
        bundle=SimpleNamespace(manifest=manifest),
    )
    config = WriteConfig(
        "device", "coupled", 4, Sampling(0.0), len(script), is_chat=is_chat, **more
    )
    result = Answer(device, config, ids_of(tokenizer, prompt))
    return [piece.text async for piece in result.pieces(None)]


@pytest.mark.parametrize("prompt", [["<user>", "upon", "<bot>"], ["<user>", "upon", "upon"]])
async def test_the_space_before_a_text_is_no_part_of_an_answer_in_a_chat(prompt: list[str]) -> None:
    """Also where the template ends in plain text, as Llama 2's does."""
    answer = ["▁Once", "▁upon"]
    assert await written("metaspace", prompt, answer, is_chat=True) == ["Once", " upon"]
    library = tokenizers.Tokenizer.from_str(metaspace_tokenizer())
    assert library.decode(ids_of(TOKENIZERS["metaspace"], answer)) == "Once upon"


async def test_one_space_alone_belongs_to_the_tokenizer() -> None:
    pieces = await written("metaspace", ["<bot>"], ["▁", "▁Once", "upon"], is_chat=True)
    assert "".join(pieces) == " Onceupon"
    pieces = await written("metaspace", ["<bot>"], ["Once", "▁upon"], is_chat=True)
    assert "".join(pieces) == "Once upon"


async def test_a_text_that_is_continued_keeps_its_space() -> None:
    pieces = await written("metaspace", ["▁Once"], ["▁upon"], is_chat=False)
    assert pieces == [" upon"]


@pytest.mark.parametrize(
    ("words", "is_chat"), [([], False), (["--chat"], True), (["--system", "Be brief."], True)]
)
def test_tandem_run_says_which_it_is(
    words: list[str], is_chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[WriteConfig] = []

    def answer(_: object, config: WriteConfig, *__: object) -> None:
        seen.append(config)
        raise TandemError("enough")

    monkeypatch.setattr(run_cli, "Device", lambda *_, **__: SimpleNamespace(encode=lambda *_: [1]))
    monkeypatch.setattr(run_cli, "Answer", answer)
    parser = argparse.ArgumentParser()
    run_cli.add_arguments(parser)
    with pytest.raises(TandemError, match="enough"):
        run_cli.run(parser.parse_args(["hi", "--bundle", "x", "--device-only", *words]))
    assert [config.is_chat for config in seen] == [is_chat]


@pytest.mark.parametrize("is_chat", [False, True])
async def test_byte_level_answers_are_what_the_bytes_say(is_chat: bool) -> None:
    """There a space is a byte of the text wherever it stands."""
    pieces = await written("byte level", ["a"], ["Ġ", "a", "Ġthe"], is_chat=is_chat)
    assert "".join(pieces) == " a the"


async def test_an_answers_coins_are_fresh_and_not_the_generations_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []

    def noted(seed: int) -> Coins:
        seeds.append(seed)
        return device_coins(seed)

    monkeypatch.setattr(writer, "device_coins", noted)
    for _ in range(3):
        await written("byte level", ["a"], ["a"], is_chat=False)
    assert len(set(seeds)) == 3
    assert min(seeds) > 2**64  # but for one time in 2^62
    await written("byte level", ["a"], ["a"], is_chat=False, device_seed=5)
    assert seeds[3:] == [5]
    assert writer.fresh_coins().choose(2**40) != writer.fresh_coins().choose(2**40)


async def test_a_router_that_reads_a_long_prompt_can_be_cancelled() -> None:
    """And the connection stays alive meanwhile: nothing else could run while the loop waits."""
    tokenizer, drafter = TOKENIZERS["byte level"], SlowDrafter()
    manifest = SimpleNamespace(end_token_ids=())
    device: Any = SimpleNamespace(
        tokenizer=tokenizer, drafter=drafter, bundle=SimpleNamespace(manifest=manifest)
    )
    session = SimpleNamespace(facts=SimpleNamespace(end_ids=(), num_ids=9), append=lambda _: None)
    link: Any = SimpleNamespace(session=session, traffic=Traffic(), handshake=None)
    answer = Answer(device, WriteConfig("split", "router", 4, Sampling(), 9, lossy=True), [1, 2])

    async def consume() -> None:
        async for _ in answer.pieces(link):
            pass

    task = asyncio.create_task(consume())
    assert await asyncio.to_thread(drafter.begun.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert drafter.ended.is_set() and drafter.num_tokens == 0
