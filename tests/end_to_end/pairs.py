"""Real pairs of models, a real edge, real sockets: what the end-to-end tests share."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aiohttp.test_utils import TestServer
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from benchmarks import prompts
from device_runtime.generate import write_edge_only, write_split
from device_runtime.link import EdgeLink, LinkSettings
from device_runtime.protocol.device_session import Generation
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.settings import RuntimeSettings
from device_runtime.transcript import Transcript
from device_runtime.turn import Counts
from device_runtime.writer import Device
from edge_server.config import EdgeConfig
from edge_server.engines import start
from edge_server.server import build
from export import cli as export_cli

PROMPTS = prompts.PROMPTS
DEMO = Path(__file__).parents[2] / "export" / "demo_pair"


@dataclass
class Pair:
    """An LLM's checkpoint and an SLM's bundle."""

    name: str
    llm: Path
    bundle: Path
    greedy: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    """Greedy continuations by `generate()`, computed once."""

    @cached_property
    def model(self) -> Any:
        """The LLM in float64."""
        loader: Any = AutoModelForCausalLM
        return loader.from_pretrained(self.llm, dtype=torch.float64).eval()

    def device(self) -> Device:
        return Device(self.bundle, RuntimeSettings(num_threads=1))

    def greedy_ids(self, prompt: str, prompt_ids: Sequence[int], num_tokens: int) -> list[int]:
        """What transformers' own `generate()` writes."""
        key = (prompt, num_tokens)
        if key not in self.greedy:
            ids = torch.tensor([list(prompt_ids)])
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False,
                max_new_tokens=num_tokens, pad_token_id=0,
            )  # fmt: skip
            self.greedy[key] = out[0, len(prompt_ids) :].tolist()
        return self.greedy[key]

    @torch.no_grad()
    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float64]:
        """(tokens, vocab): what the LLM says after each token."""
        rows: NDArray[np.float64] = self.model(torch.tensor([list(token_ids)])).logits[0].numpy()
        return rows


def export(checkpoint: Path, out: Path) -> Path:
    """`tandem export`, as a user would."""
    parser = argparse.ArgumentParser()
    export_cli.add_arguments(parser)
    assert export_cli.run(parser.parse_args([str(checkpoint), "--out", str(out), "--json"])) == 0
    return out


@asynccontextmanager
async def running_edge(
    llm: Path, dtype: str = "float64", *, replicas: int = 0
) -> AsyncIterator[str]:
    """An edge on a loopback socket; its URL.

    replicas: processes for its model, as users have them; 0 loads it into this process, as for a
    GPU, which takes a moment instead of seconds.
    """
    config = EdgeConfig(
        model=str(llm), dtype=dtype, device="cpu", cache_gib=0.5, replicas=max(1, replicas)
    )
    app, _ = build(start(config, in_processes=replicas > 0))
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


@dataclass
class Written:
    token_ids: list[int]
    text: str
    counts: Counts
    transcript: Transcript
    link: EdgeLink


async def write(
    url: str,
    device: Device,
    prompt: str,
    scheme: str,
    *,
    gamma: int = 4,
    sampling: Sampling = Sampling(temperature=0.0),  # noqa: B008 - frozen
    num_tokens: int = 64,
    seed: int = 1,
    coins_seed: int = 2,
    stops: Sequence[str] = (),
    edge_only: bool = False,
    ignore_end: bool = False,
) -> Written:
    """One answer by the real device runtime from a real edge."""
    prompt_ids = device.encode(prompt, system=None)
    counts = Counts()
    async with EdgeLink(LinkSettings(url), device.session()) as link:
        end_ids = () if ignore_end else link.session.facts.end_ids
        generation = Generation(scheme_named(scheme), sampling, seed, end_ids)
        detokenizer = device.tokenizer.detokenizer(prompt_ids, stops)
        transcript = Transcript(detokenizer, frozenset(end_ids), num_tokens)
        link.session.append(prompt_ids)
        device.drafter.truncate(0)
        if edge_only:
            pieces = write_edge_only(link, generation, transcript)
        else:
            pieces = write_split(
                link, device.drafter, generation, gamma, device_coins(coins_seed), transcript,
                counts,
            )  # fmt: skip
        text = "".join([piece.text async for piece in pieces])
    return Written(transcript.token_ids, text, counts, transcript, link)
