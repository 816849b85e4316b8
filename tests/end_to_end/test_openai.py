"""An OpenAI client of the edge gets what the device runtime gets: same prompts, same text."""

from __future__ import annotations

from typing import Any

import aiohttp

from device_runtime.protocol.sampling import Sampling
from edge_server.text import EdgeText
from tests.end_to_end.pairs import PROMPTS, Pair, running_edge, write

NUM_TOKENS = 24
SAMPLING = Sampling(temperature=0.8, top_p=0.9, presence_penalty=0.5)


async def complete(url: str, prompt: str, seed: int, **more: Any) -> Any:
    body = {
        "model": "llm", "prompt": prompt, "seed": seed, "max_tokens": NUM_TOKENS,
        "temperature": 0.8, "top_p": 0.9, "presence_penalty": 0.5, **more,
    }  # fmt: skip
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}v1/completions", json=body) as answer,
    ):
        found = await answer.json()
        assert answer.status == 200, found
        return found["choices"][0]


async def test_a_seed_gives_the_text_of_run_edge_only(pair: Pair) -> None:
    device = pair.device()
    async with running_edge(pair.llm) as url:
        for seed, prompt, stops in ((0, PROMPTS[0], ()), (1, PROMPTS[1], ("e",))):
            written = await write(
                url, device, prompt, "coupled", sampling=SAMPLING, num_tokens=NUM_TOKENS,
                seed=seed, stops=stops, edge_only=True,
            )  # fmt: skip
            choice = await complete(url, prompt, seed, stop=list(stops))
            assert choice["text"] == written.text
            assert written.transcript.finish_reason is not None
            assert choice["finish_reason"] == written.transcript.finish_reason.value


def test_a_chat_is_the_tokens_of_run_chat(tiny_pair: Pair) -> None:
    """The checkpoint's template, once by transformers and once as exported, by the device."""
    device, text = tiny_pair.device(), EdgeText.open(tiny_pair.llm)
    for system, prompt in ((None, PROMPTS[0]), ("Be short.", "What is <|end|>?")):
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        assert text.chat_ids(messages) == device.encode(prompt, system or "")
