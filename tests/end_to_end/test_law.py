"""Sampled text over the sockets follows the LLM's law.

Every committed token is mapped to a uniform: U = P(tokens before it in some order) + v · p(token), with
the law p that the LLM gives to its prefix in float64 and a uniform v. If tokens follow p, U is uniform
whatever p is. The order is by falling probability: a wrong residual or a missing warp shifts mass
between likely and unlikely tokens. The seeds are fixed, so the result is, too.
"""

from __future__ import annotations

import numpy as np
import pytest

from device_runtime.protocol.law import Floats
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes import SCHEMES
from tests.end_to_end.pairs import PROMPTS, Pair, running_edge, write

NUM_BINS = 20
CHI_SQUARE_LIMIT = 43.82
"""19 degrees of freedom, p = 0.001."""

SAMPLINGS = {
    "T=1": Sampling(),
    "T=0.8, top-p 0.9": Sampling(temperature=0.8, top_p=0.9),
}


async def uniforms(
    pair: Pair, scheme: str, sampling: Sampling, judged_by: Sampling, num_texts: int, length: int
) -> Floats:
    """U of every token of some texts; `judged_by` is the sampling the LLM's law is made with."""
    device = pair.device()
    rng = np.random.default_rng(5)
    values = []
    async with running_edge(pair.llm) as url:
        for number in range(num_texts):
            prompt = PROMPTS[number % len(PROMPTS)]
            prompt_ids = device.encode(prompt, None)
            got = await write(
                url, device, prompt, scheme, sampling=sampling, num_tokens=length, seed=number,
                coins_seed=1000 + number, ignore_end=True,
            )  # fmt: skip
            rows = pair.logits([*prompt_ids, *got.token_ids])[len(prompt_ids) - 1 : -1]
            for row, token_id in zip(rows, got.token_ids, strict=True):
                p = to_law(row, judged_by, (), device.tokenizer.num_ids)
                own = p.prob(np.array([token_id]))[0]
                larger = p.probs[(p.probs > own) | ((p.probs == own) & (p.ids < token_id))].sum()
                values.append(larger + rng.random() * own)
    return np.array(values)


def chi_square(values: Floats) -> float:
    counts = np.histogram(values, NUM_BINS, (0, 1))[0]
    expected = len(values) / NUM_BINS
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize("scheme", ["dssd-thinned", "dssd-packed", "coupled"])
async def test_tokens_follow_the_llms_law(tiny_pair: Pair, scheme: str, sampling: Sampling) -> None:
    values = await uniforms(tiny_pair, scheme, sampling, sampling, num_texts=10, length=150)
    assert chi_square(values) < CHI_SQUARE_LIMIT


async def test_another_law_is_noticed(tiny_pair: Pair) -> None:
    """The mutant: text drawn at T = 0.8 is not taken for text at T = 1."""
    sampling = Sampling(temperature=0.8)
    values = await uniforms(tiny_pair, "dssd-thinned", sampling, Sampling(), 10, 150)
    assert chi_square(values) > 2 * CHI_SQUARE_LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@pytest.mark.parametrize("scheme", sorted(n for n, s in SCHEMES.items() if s.lossless))
async def test_the_demo_pair_follows_the_llms_law(
    demo_pair: Pair, scheme: str, sampling: Sampling
) -> None:
    values = await uniforms(demo_pair, scheme, sampling, sampling, num_texts=20, length=200)
    assert chi_square(values) < CHI_SQUARE_LIMIT
