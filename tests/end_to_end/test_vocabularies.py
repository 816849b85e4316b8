"""Padded vocabularies, an SLM that knows fewer tokens, and two tokenizers that differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from device_runtime.protocol.errors import ErrorCode, LocalError
from device_runtime.protocol.sampling import Sampling
from tests.end_to_end.pairs import PROMPTS, Pair, export, running_edge, write
from tests.tiny_models import save_checkpoint, tiny_model, with_noise


async def greedy_equals(pair: Pair) -> None:
    device = pair.device()
    async with running_edge(pair.llm) as url:
        for prompt in PROMPTS[:3]:
            wanted = pair.greedy_ids(prompt, device.encode(prompt, None), 24)
            for scheme in ("dssd-thinned", "dssd-packed", "dssd", "greedy-draft"):
                got = await write(url, device, prompt, scheme, num_tokens=24)
                assert got.token_ids == wanted, (prompt, scheme)


@pytest.mark.parametrize(("llm_padding", "slm_padding"), [(0, 64), (64, 0), (64, 128)])
async def test_padding_is_cut_on_both_sides(
    tmp_path: Path, llm_padding: int, slm_padding: int
) -> None:
    """Sampled text never holds an id that the tokenizer does not define."""
    llm = tiny_model("llama", num_padding=llm_padding)
    slm = tiny_model("llama", num_padding=slm_padding, seed=3)
    pair = Pair(
        "padded",
        save_checkpoint(llm, tmp_path / "llm"),
        export(save_checkpoint(slm, tmp_path / "slm"), tmp_path / "bundle"),
    )
    device = pair.device()
    async with running_edge(pair.llm) as url:
        for scheme in ("dssd-thinned", "dssd-packed", "dssd", "coupled", "greedy-draft"):
            got = await write(
                url, device, PROMPTS[0], scheme, sampling=Sampling(temperature=2.0),
                num_tokens=60, ignore_end=True,
            )  # fmt: skip
            assert max(got.token_ids) < device.tokenizer.num_ids


async def test_an_slm_with_fewer_tokens_drafts_from_those(tmp_path: Path) -> None:
    """The LLM's own extra tokens still come: the device reads them as corrected or bonus tokens."""
    llm = tiny_model("llama", num_padding=4)
    folder = save_checkpoint(llm, tmp_path / "llm")
    slm = with_noise(tiny_model("llama"), 0.05)
    bundle = export(save_checkpoint(slm, tmp_path / "slm"), tmp_path / "bundle")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    first = 1 + max(tokenizer["model"]["vocab"].values())
    kinds = ("single_word", "lstrip", "rstrip", "normalized", "special")
    extra = dict.fromkeys(kinds, False)
    tokenizer["added_tokens"] += [
        {"id": first + i, "content": f"<extra{i}>", **extra} for i in range(4)
    ]
    path.write_text(json.dumps(tokenizer))
    pair = Pair("smaller", folder, bundle)
    device = pair.device()
    assert device.tokenizer.num_ids == first
    await greedy_equals(pair)
    seen: set[int] = set()
    async with running_edge(folder) as url:
        for seed in range(4):
            got = await write(
                url, device, PROMPTS[seed], "dssd-thinned", sampling=Sampling(temperature=3.0),
                num_tokens=100, seed=seed, coins_seed=seed, ignore_end=True,
            )  # fmt: skip
            seen |= set(got.token_ids)
    assert seen & set(range(first, first + 4))


async def test_two_tokenizers_that_differ_are_refused_by_the_device(
    tiny_pair: Pair, tmp_path: Path
) -> None:
    folder = save_checkpoint(tiny_model("llama"), tmp_path / "llm")
    path = folder / "tokenizer.json"
    text = path.read_text()
    tokenizer = json.loads(text)
    vocab = tokenizer["model"]["vocab"]
    one, other = list(vocab)[-2:]
    vocab[one], vocab[other] = vocab[other], vocab[one]
    path.write_text(json.dumps(tokenizer))
    async with running_edge(folder) as url:
        with pytest.raises(LocalError) as refused:
            await write(url, tiny_pair.device(), PROMPTS[0], "dssd-thinned")
    assert refused.value.code is ErrorCode.VOCABULARY_MISMATCH
