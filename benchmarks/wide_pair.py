"""The demo pair with more ids, as checkpoints: laws of 49,152 ids and more on the real wire.

As in `benchmarks.wide_vocabulary`, every further id is a rarer variant of one of the pair's own: its
logit is the parent's, less an offset from N(5, 1.5²) that both models share and a deviation from
N(0, 0.5²) that they do not. A Llama has no bias on its logits, so the offset is written as a direction
v of the hidden state with h · v ≈ 1 on the model's own text (least squares): row = parent's row −
offset · v. The offsets so vary a little from place to place. The models read a further id as its
parent. These are laws of that size and shape, not other models.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.demo import CACHE, PAIR
from benchmarks.prompts import PROMPTS
from benchmarks.wide_vocabulary import OFFSET_MEAN, OFFSET_STD, OWN_STD
from device_runtime.protocol.errors import TandemError

FITTED_TOKENS = 48
"""Of each prompt's continuation, on which v is fitted."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def wide_checkpoint(name: str, num_ids: int) -> Path:
    """The demo pair's `llm` or `slm` over num_ids ids; written once."""
    folder = _folder(num_ids) / name
    if (folder / "config.json").exists():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = PAIR / name
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    own_ids = model.config.vocab_size
    if num_ids <= own_ids:
        raise TandemError(f"--num-ids is {num_ids}; the demo pair has {own_ids} already")
    prompts = [tokenizer.encode(prompt) for prompt in PROMPTS[:20]]
    _widen(model, num_ids, prompts, seed=sum(name.encode()))
    draft = folder.with_name(f"{name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    for file in TOKENIZER_FILES:
        shutil.copy(source / file, draft / file)
    _widen_tokenizer(draft / "tokenizer.json", num_ids)
    draft.rename(folder)
    return folder


def wide_bundle(num_ids: int) -> Path:
    """The wide SLM, exported (fp32: a coarser head would round the offsets away)."""
    folder = _folder(num_ids) / "bundle"
    if not (folder / "manifest.json").exists():
        command = [sys.executable, "-m", "device_runtime", "export"]
        command += [str(wide_checkpoint("slm", num_ids)), "--out", str(folder)]
        command += ["--weights", "fp32", "--force", "--json"]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise TandemError("the export of the widened SLM failed; its words are above")
    return folder


def _folder(num_ids: int) -> Path:
    """Of this pair: another one's weights give another folder."""
    weights = (PAIR / "llm" / "model.safetensors", PAIR / "slm" / "model.safetensors")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in weights)).hexdigest()
    return CACHE / f"wide-{num_ids}-{digest[:12]}"


@torch.no_grad()
def _widen(model: Any, num_ids: int, prompts: Sequence[list[int]], seed: int) -> None:
    """Replace embedding and head; parents and shared offsets are the same for both models."""
    own = model.get_input_embeddings().weight.data
    head = model.get_output_embeddings().weight.data
    extra = num_ids - len(own)
    shared = np.random.default_rng(num_ids)
    parents = torch.from_numpy(shared.integers(len(own), size=extra))
    offsets = shared.normal(OFFSET_MEAN, OFFSET_STD, extra)
    offsets = offsets + np.random.default_rng([num_ids, seed]).normal(0, OWN_STD, extra)
    direction = _constant_direction(model, prompts)
    moved = head[parents] - torch.from_numpy(offsets).float()[:, None] * direction
    model.config.tie_word_embeddings = False
    model.config.vocab_size = num_ids
    model.set_input_embeddings(_embedding(torch.cat([own, own[parents]])))
    output = torch.nn.Linear(own.shape[1], num_ids, bias=False)
    output.weight.data = torch.cat([head, moved])
    model.set_output_embeddings(output)


def _embedding(table: torch.Tensor) -> torch.nn.Embedding:
    embedding = torch.nn.Embedding(*table.shape)
    embedding.weight.data = table
    return embedding


def _constant_direction(model: Any, prompts: Sequence[list[int]]) -> torch.Tensor:
    """v with h · v ≈ 1 over the last hidden states h of the model's own continuations."""
    rows = []
    for prompt in prompts:
        torch.manual_seed(len(prompt))
        text = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=True, max_new_tokens=FITTED_TOKENS, pad_token_id=model.config.eos_token_id,
        )  # fmt: skip
        rows.append(model.model(input_ids=text).last_hidden_state[0])
    hidden = torch.cat(rows)
    direction: torch.Tensor = torch.linalg.lstsq(hidden, torch.ones(len(hidden), 1)).solution[:, 0]
    return direction


def _widen_tokenizer(path: Path, num_ids: int) -> None:
    """Name the further ids; no text is ever encoded to them."""
    data = json.loads(path.read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = data["model"]["vocab"]
    for token_id in range(len(vocabulary), num_ids):
        vocabulary[f"<{token_id}>"] = token_id
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
