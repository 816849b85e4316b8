"""Rows of logits of the demo pair at the same places, and laws of either size made from them.

The LLM writes after every prompt at temperature 1; both models then give their rows along its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.demo import PAIR
from benchmarks.prompts import PROMPTS
from benchmarks.wide_vocabulary import widened
from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.sampling import Sampling, to_law
from edge_server.checkpoint import Checkpoint
from edge_server.engine import TorchEngine
from edge_server.loading import load_engine


@dataclass(frozen=True)
class PairRows:
    """Logits (places, ids) of the LLM and of the SLM."""

    llm: NDArray[np.float32]
    slm: NDArray[np.float32]

    @property
    def num_own(self) -> int:
        """Ids that the pair has."""
        return int(self.llm.shape[1])

    def laws(self, num_ids: int, sampling: Sampling) -> Iterator[tuple[ArrayLaw, ArrayLaw]]:
        """(p, q) at every place, widened to `num_ids` if the pair has fewer."""
        wide = widened(self.num_own, num_ids)
        for place in np.random.default_rng(0).permutation(len(self.llm)):
            of_p, of_q = self.llm[place], self.slm[place]
            if wide is not None:
                of_p, of_q = wide.widen(of_p, "p"), wide.widen(of_q, "q")
            yield to_law(of_p, sampling, ()), to_law(of_q, sampling, ())


def collect_rows(num_tokens: int) -> PairRows:
    """Rows at `num_tokens` places after each prompt; the same ones on every call."""
    tokenizer = Tokenizer.from_file(str(PAIR / "llm" / "tokenizer.json"))
    llm, slm = (
        load_engine(
            Checkpoint.open(PAIR / side), num_ids=tokenizer.get_vocab_size(),
            device="cpu", dtype="float32",
        )
        for side in ("llm", "slm")
    )  # fmt: skip
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    texts = _written(llm, prompts, num_tokens)
    of_llm, of_slm = (
        np.concatenate([_along(engine, text, num_tokens) for text in texts])
        for engine in (llm, slm)
    )
    return PairRows(of_llm, of_slm)


def _written(engine: TorchEngine, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """Each prompt with `num_tokens` tokens of the LLM's own behind it."""
    rng = np.random.default_rng(0)
    slots, texts = [engine.open() for _ in prompts], [list(prompt) for prompt in prompts]
    for _ in range(num_tokens):
        batch = [(slot, Job(tuple(text), 1)) for slot, text in zip(slots, texts, strict=True)]
        for text, row in zip(texts, engine.logits(batch), strict=True):
            text.extend(to_law(row[0].numpy(), Sampling(), ()).draw(rng.random(1)).tolist())
    for slot in slots:
        engine.drop(slot)
    return texts


def _along(engine: TorchEngine, text: list[int], num_places: int) -> NDArray[np.float32]:
    """Rows (num_places, ids) of the last tokens of a text, each before it was there."""
    slot = engine.open()
    (rows,) = engine.logits([(slot, Job(tuple(text), num_places + 1))])
    engine.drop(slot)
    along: NDArray[np.float32] = rows[:-1].numpy()
    return along
