"""Greedy text over the sockets is the text of transformers' generate(), token by token."""

from __future__ import annotations

import numpy as np
import pytest

from device_runtime.protocol.schemes import SCHEMES
from device_runtime.turn import Counts
from tests.end_to_end.pairs import PROMPTS, Pair, running_edge, write

LOSSLESS = sorted(name for name, scheme in SCHEMES.items() if scheme.lossless)
ALPHA = {"gpt2": (0.4, 0.8), "demo": (0.3, 0.95)}
"""Of greedy text, by the name of the pair: so that acceptance, rejection and bonus are all tried."""


async def check(
    pair: Pair, schemes: list[str], gammas: list[int], prompts: int, length: int
) -> None:
    """Every combination; with each scheme all three things that can happen to a draft happen."""
    device = pair.device()
    counts = {scheme: Counts() for scheme in schemes}
    async with running_edge(pair.llm, replicas=1) as url:
        for prompt in PROMPTS[:prompts]:
            wanted = pair.greedy_ids(prompt, device.encode(prompt, None), length)
            for scheme, total in counts.items():
                for gamma in gammas:
                    got = await write(url, device, prompt, scheme, gamma=gamma, num_tokens=length)
                    assert got.token_ids == wanted, (prompt, scheme, gamma)
                    total.accepted += got.counts.accepted
                    total.rejected += got.counts.rejected
                    total.bonus += got.counts.bonus
    low, high = ALPHA[pair.name]
    for scheme, total in counts.items():
        assert min(total.accepted, total.rejected, total.bonus) > 0, (scheme, total)
        assert total.alpha is not None and low < total.alpha < high, (scheme, total)


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
