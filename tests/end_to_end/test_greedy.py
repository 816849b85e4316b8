"""Greedy text over the sockets is the text of transformers' generate(), token by token."""

from __future__ import annotations

import numpy as np
import pytest

from device_runtime.protocol.schemes import SCHEMES
from tests.end_to_end.pairs import PROMPTS, Pair, running_edge, write

LOSSLESS = sorted(name for name, scheme in SCHEMES.items() if scheme.lossless)


async def check(
    pair: Pair, schemes: list[str], gammas: list[int], prompts: int, length: int
) -> None:
    """Every combination; at the end all three things that can happen to a draft have happened."""
    device = pair.device()
    accepted = rejected = bonus = 0
    async with running_edge(pair.llm) as url:
        for prompt in PROMPTS[:prompts]:
            wanted = pair.greedy_ids(prompt, device.encode(prompt, None), length)
            for scheme in schemes:
                for gamma in gammas:
                    got = await write(url, device, prompt, scheme, gamma=gamma, num_tokens=length)
                    assert got.token_ids == wanted, (prompt, scheme, gamma)
                    accepted += got.counts.accepted
                    rejected += got.counts.rejected
                    bonus += got.counts.bonus
    assert min(accepted, rejected, bonus) > 0
    assert 0.3 < accepted / (accepted + rejected) < 0.95


@pytest.mark.parametrize("gamma", [1, 4, 8])
async def test_a_few_prompts_with_every_scheme(pair: Pair, gamma: int) -> None:
    await check(pair, LOSSLESS, [gamma], prompts=2, length=24)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", LOSSLESS)
async def test_twenty_prompts_of_128_tokens(pair: Pair, scheme: str) -> None:
    await check(pair, [scheme], [1, 4, 8], prompts=20, length=128)


@pytest.mark.slow
async def test_float32_differs_only_where_the_two_best_tokens_nearly_tie(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    device = pair.device()
    async with running_edge(pair.llm, "float32") as url:
        for prompt in PROMPTS:
            prompt_ids = device.encode(prompt, None)
            wanted = pair.greedy_ids(prompt, prompt_ids, 128)
            got = (await write(url, device, prompt, "dssd-thinned", num_tokens=128)).token_ids
            if got == wanted:
                continue
            first = next(i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b)
            row = pair.logits([*prompt_ids, *wanted[:first]])[-1]
            second, best = np.sort(row)[-2:]
            with capsys.disabled():
                print(
                    f"\n{pair.name}: token {first} of {prompt!r}, top-two gap {best - second:.2e}"
                )
            assert best - second < 1e-3
