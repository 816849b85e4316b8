"""`coupled`: the seed decides the text; neither gamma nor the drafter does."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_runtime.protocol.sampling import Sampling
from tests.end_to_end.pairs import DEMO, PROMPTS, Pair, export, running_edge, write
from tests.tiny_models import save_checkpoint, tiny_model

LAW = Sampling(temperature=1.0)


async def check(
    pair: Pair, bundles: list[Path], gammas: list[int], prompts: int, length: int
) -> None:
    devices = [Pair(pair.name, pair.llm, bundle).device() for bundle in bundles]
    async with running_edge(pair.llm) as url:
        for number in range(prompts):
            prompt = PROMPTS[number % len(PROMPTS)]
            how = {"sampling": LAW, "num_tokens": length, "seed": number}
            alone = await write(url, devices[0], prompt, "coupled", edge_only=True, **how)  # type: ignore[arg-type]
            for device in devices:
                for gamma in gammas:
                    got = await write(url, device, prompt, "coupled", gamma=gamma, **how)  # type: ignore[arg-type]
                    assert got.token_ids == alone.token_ids, (number, gamma)
                    assert got.text == alone.text


async def test_three_drafters_write_the_edges_own_text(tiny_pair: Pair, tmp_path: Path) -> None:
    random = save_checkpoint(tiny_model("llama", seed=9), tmp_path / "random")
    bundles = [
        tiny_pair.bundle,
        export(random, tmp_path / "random_bundle"),
        export(tiny_pair.llm, tmp_path / "llm_bundle"),
    ]
    await check(tiny_pair, bundles, [1, 3, 8], prompts=4, length=32)


@pytest.mark.slow
async def test_fifty_texts_of_the_demo_pair(demo_pair: Pair, tmp_path: Path) -> None:
    """Three drafters: the SLM, the SLM's shape with random weights, the LLM itself."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    random = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(DEMO / "slm"))
    random.float().save_pretrained(tmp_path / "random")
    tokenizer = (DEMO / "slm" / "tokenizer.json").read_bytes()
    (tmp_path / "random" / "tokenizer.json").write_bytes(tokenizer)
    bundles = [
        demo_pair.bundle,
        export(tmp_path / "random", tmp_path / "random_bundle"),
        export(demo_pair.llm, tmp_path / "llm_bundle"),
    ]
    await check(demo_pair, bundles, [1, 3, 8], prompts=50, length=64)
