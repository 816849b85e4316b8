"""Compare an exported graph with the checkpoint it came from: torch against onnxruntime.

The checkpoint's weights are those of the graph: where it is quantised they were rounded likewise.
Where the graph rounds activations as well, to int8 or to float16, a copy that does not is compared
strictly, and the graph itself loosely.

The graph writes greedily, one token a run, on top of its cache; on the way it takes in wrong tokens
and is rolled back, and at the end it is rolled back to the prompt and takes all in at once. Torch
then judges every row of logits in one pass without a cache, so that cache, mask and positions of
the graph are tested and not only its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from export.errors import ExportError
from export.exact_copy import exact_copy, float32_twin
from export.graph_signature import GraphSignature
from export.numpy_runner import NumpyRunner, Rows

LOGIT_ATOL = 1e-4
LOGIT_RTOL = 1e-4
"""A logit may be off by LOGIT_ATOL + LOGIT_RTOL × the largest |logit| of the checkpoint.

Reordered float32 sums differ by about 1e-6 of the largest; a wrong mask, position or weight by
1e-2 and more.
"""

ACTIVATIONS_RTOL = 0.3
"""Rounding activations may change the logits by this part of their size (root mean squares).

Int8 blocks of 32 on trained and random models: 0.01 to 0.05; a wrong scale or sign: about 1.
"""
HALF_RTOL = 0.03
"""The same where everything is computed in float16.

Two to thirty layers, trained and random: 0.0004 to 0.011.
"""

PROMPTS = (
    "Once upon a time there was a miller who had three sons, a mill, a donkey and a cat.",
    "def mean(values):\n    return sum(values) / len(values)\n\nprint(mean([1, 2, 30]))",
    "Zwölf Äpfel, 3.50 €, naïve — 狐狸 🦊",
)
NUM_GREEDY = 24
_NUM_WRONG = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """The first greedy token on which the two disagree."""

    prompt: int
    position: int
    top_two_gap: float
    """Torch's two largest logits there: how near to a tie it is."""


@dataclass(frozen=True, slots=True)
class ActivationRounding:
    """What rounding activations does to the logits, on the same text."""

    to: str
    """`int8` or `float16`."""
    relative_rms_error: float
    tolerance: float
    num_rows: int
    num_greedy_equal: int
    """Rows whose largest logit stays the same token."""

    @property
    def passed(self) -> bool:
        return self.relative_rms_error <= self.tolerance  # False for NaN


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a graph is from its checkpoint."""

    max_abs_logit_error: float
    tolerance: float
    num_rows: int
    """Rows of logits compared."""
    num_greedy_tokens: int
    num_greedy_equal: int
    first_difference: Difference | None
    activations: ActivationRounding | None = None
    """None where the graph does not round them."""

    @property
    def passed(self) -> bool:
        """Logits within tolerance; greedy tokens equal but for ties, closer than the tolerance."""
        near = self.max_abs_logit_error <= self.tolerance  # False for NaN
        tie = self.first_difference is None or self.first_difference.top_two_gap <= self.tolerance
        return near and tie and (self.activations is None or self.activations.passed)


@dataclass(frozen=True, slots=True)
class _Text:
    """A prompt and what the graph wrote after it, with a row of logits after each token."""

    ids: list[int]
    num_prompt: int
    rows: Rows


def encode_prompts(tokenizer: Tokenizer, vocab_size: int, context_len: int) -> list[list[int]]:
    """PROMPTS as ids, cut to a third of the context, and a prompt of a single token."""
    prompts = [tokenizer.encode(text).ids[: context_len // 3] for text in PROMPTS]
    if not all(prompts) or max(map(max, prompts)) >= vocab_size:
        raise ExportError(
            "the tokenizer does not fit the model: it gives no ids, or ids from "
            f"{vocab_size} on, which the model does not know; use the checkpoint's own tokenizer"
        )
    return [*prompts, prompts[0][:1]]


def check(
    model: PreTrainedModel,
    path: Path,
    signature: GraphSignature,
    prompts: Sequence[Sequence[int]],
    context_len: int,
) -> Parity:
    """Run the comparison on every prompt; the result says whether it passed."""
    is_half = signature.cache_dtype == "float16"
    copying: AbstractContextManager[Path | None] = (
        float32_twin(model, path, context_len) if is_half else exact_copy(path)
    )
    with copying as exact:
        if exact is None:
            return _check_exact(model, path, signature, prompts, context_len)[0]
        wide = replace(signature, cache_dtype="float32")
        result, texts = _check_exact(model, exact, wide, prompts, context_len)
    return replace(result, activations=_check_activations(path, signature, texts))


def _check_exact(
    model: PreTrainedModel,
    path: Path,
    signature: GraphSignature,
    prompts: Sequence[Sequence[int]],
    context_len: int,
) -> tuple[Parity, list[_Text]]:
    """Parity of a graph that rounds no activations, and the texts it wrote."""
    room = context_len - max(map(len, prompts)) - _NUM_WRONG
    num_greedy = max(1, min(NUM_GREEDY, room))
    worst, largest, num_rows, num_equal = 0.0, 0.0, 0, 0
    first: Difference | None = None
    texts: list[_Text] = []
    runner = NumpyRunner(path, signature)
    for index, prompt in enumerate(prompts):
        ids, rows, again = _write(runner, prompt, num_greedy)
        texts.append(_Text(ids, len(prompt), rows))
        expected = _judge(model, ids)
        largest = float(np.maximum(largest, np.abs(expected).max()))
        generated = expected[len(prompt) - 1 :]
        for got, wanted in ((rows, expected), (again, generated[1:])):
            worst = float(np.maximum(worst, np.abs(got - wanted).max()))  # keeps a NaN
            num_rows += len(got)
        equal = generated.argmax(-1) == rows[len(prompt) - 1 :].argmax(-1)
        num_equal += int(equal.sum())
        if first is None and not equal.all():
            position = int(np.argmin(equal))
            second, top = np.sort(generated[position])[-2:]
            first = Difference(index, position, float(top - second))
    tolerance = LOGIT_ATOL + LOGIT_RTOL * largest
    num_greedy_tokens = (num_greedy + 1) * len(prompts)
    return Parity(worst, tolerance, num_rows, num_greedy_tokens, num_equal, first), texts


def _check_activations(
    path: Path, signature: GraphSignature, texts: Sequence[_Text]
) -> ActivationRounding:
    """The graph as it is, on the texts of its exact copy."""
    runner = NumpyRunner(path, signature)
    error = size = 0.0
    num_rows = num_equal = 0
    for text in texts:
        got = _replay(runner, text)
        error += float(np.square(got - text.rows).sum())
        size += float(np.square(text.rows).sum())
        num_rows += len(got)
        num_equal += int((got.argmax(-1) == text.rows.argmax(-1)).sum())
    to, tolerance = "int8", ACTIVATIONS_RTOL
    if signature.cache_dtype == "float16":
        to, tolerance = "float16", HALF_RTOL
    return ActivationRounding(to, (error / size) ** 0.5, tolerance, num_rows, num_equal)


def _replay(runner: NumpyRunner, text: _Text) -> Rows:
    """Rows along the text, the prompt taken in at once and the rest token by token."""
    runner.truncate(0)
    rows = [runner.append(text.ids[: text.num_prompt])]
    rows += [runner.append([id_]) for id_ in text.ids[text.num_prompt :]]
    return np.concatenate(rows)


def require(parity: Parity) -> None:
    """ExportError where the check did not pass."""
    if parity.passed:
        return
    reason = f"logits are off by {parity.max_abs_logit_error:.2g} (allowed {parity.tolerance:.2g})"
    if parity.first_difference is not None:
        at = parity.first_difference
        reason += (
            f", and greedy text differs first at token {at.position} of prompt {at.prompt} "
            f"(top-two gap {at.top_two_gap:.2g})"
        )
    if parity.activations is not None and not parity.activations.passed:
        reason += f", and {_excess(parity.activations)}"
    raise ExportError(
        f"the exported graph does not agree with the checkpoint: {reason}; no bundle was written. "
        "This architecture is not exported rightly by the installed versions: please report it"
    )


def _excess(rounding: ActivationRounding) -> str:
    error, allowed = rounding.relative_rms_error, rounding.tolerance
    text = (
        f"rounding activations to {rounding.to} changes them by {error:.2g} of their size "
        f"(allowed {allowed:.2g})"
    )
    if rounding.to == "float16":
        text += "; models made in bfloat16 may leave float16's range: use --weights int4 or fp32"
    return text


def _write(graph: NumpyRunner, prompt: Sequence[int], num: int) -> tuple[list[int], Rows, Rows]:
    """`num` greedy tokens: all ids, a row after each of them, and the rows of the repetition."""
    graph.truncate(0)
    ids = list(prompt)
    rows = [graph.append(ids)]
    for step in range(num):
        ids.append(int(rows[-1][-1].argmax()))
        if step == num // 2:
            wrong = [(id_ + 1) % rows[0].shape[-1] for id_ in ids[-1:] * _NUM_WRONG]
            graph.append(wrong)
            graph.truncate(graph.num_tokens - _NUM_WRONG)
        rows.append(graph.append(ids[-1:]))
    graph.truncate(len(prompt))
    return ids, np.concatenate(rows), graph.append(ids[len(prompt) :])


def _judge(model: PreTrainedModel, ids: Sequence[int]) -> Rows:
    """Torch's logits after every token, in one pass without a cache."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return np.asarray(logits.float().numpy())
