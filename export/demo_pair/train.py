"""Train the demo pair: `python -m export.demo_pair.train --corpus TALES.txt --validation HELD_OUT.txt`.

The LLM learns the text; the SLM learns the LLM's law (0.9 KL + 0.1 cross-entropy). Matrices are
optimised by Muon, which needs about half the steps AdamW does at this size; vectors and the tied
embedding by AdamW. Writes one folder a model in the layout that transformers loads, and a log.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from export.demo_pair import recipe
from export.demo_pair.corpus import (
    END_TOKEN,
    encode_tales,
    read_tales,
    shuffled_windows,
    train_tokenizer,
)

HERE = Path(__file__).parent
Loss = Callable[[torch.Tensor], torch.Tensor]


def text_loss(model: LlamaForCausalLM) -> Loss:
    """Cross-entropy in nats per token of windows (batch, length + 1)."""

    def loss(windows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(windows.device.type, torch.bfloat16):
            logits = model(input_ids=windows[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())

    return loss


def distillation_loss(student: LlamaForCausalLM, teacher: LlamaForCausalLM) -> Loss:
    """DISTILL_WEIGHT · KL(teacher ‖ student) + the rest · cross-entropy, nats per token."""

    def loss(windows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(windows.device.type, torch.bfloat16):
            with torch.no_grad():
                wanted = teacher(input_ids=windows[:, :-1], use_cache=False).logits
            logits = student(input_ids=windows[:, :-1], use_cache=False).logits
        log_q = F.log_softmax(logits.float().flatten(0, 1), -1)
        log_p = F.log_softmax(wanted.float().flatten(0, 1), -1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
        text = F.nll_loss(log_q, windows[:, 1:].flatten())
        return recipe.DISTILL_WEIGHT * kl + (1 - recipe.DISTILL_WEIGHT) * text

    return loss


def optimizers(model: LlamaForCausalLM, r: recipe.Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the tied embedding and the norms."""
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    outer = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            inner,
            lr=r.learning_rate,
            weight_decay=r.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(outer, lr=r.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def learning_rate(step: int, r: recipe.Recipe) -> float:
    """Linear warm-up, then linear decay to zero at the last step."""
    return r.learning_rate * min((step + 1) / r.warmup_steps, 1 - step / r.num_steps)


def phase_batches(ids: NDArray[np.int64], r: recipe.Recipe) -> Iterator[torch.Tensor]:
    """num_steps batches of windows, phase after phase."""
    ends = np.rint(np.cumsum([p.share for p in r.phases]) * r.num_steps).astype(int)
    done = 0
    for seed, (phase, end) in enumerate(zip(r.phases, ends, strict=True)):
        batches = shuffled_windows(ids, phase.batch_size, phase.window_len, seed)
        for _ in range(done, end):
            yield next(batches)
        done = end


def train(
    model: LlamaForCausalLM,
    loss_fn: Loss,
    r: recipe.Recipe,
    ids: NDArray[np.int64],
    log: Callable[[dict[str, float]], None],
    device: torch.device,
) -> None:
    """Run the recipe; log the mean loss and the speed every 50 steps."""
    compiled = torch.compile(loss_fn, dynamic=False)
    optims = optimizers(model, r)
    model.train()
    losses: list[float] = []
    started = time.perf_counter()
    num_tokens = 0
    for step, windows in enumerate(phase_batches(ids, r)):
        for optim in optims:
            for group in optim.param_groups:
                group["lr"] = learning_rate(step, r)
        loss = compiled(windows.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        losses.append(loss.item())
        num_tokens += windows[:, 1:].numel()
        if (step + 1) % 50 == 0 or step + 1 == r.num_steps:
            elapsed_s = time.perf_counter() - started
            log({"step": step + 1, "loss": float(np.mean(losses)), "elapsed_s": elapsed_s,
                 "tokens_per_s": num_tokens / elapsed_s})  # fmt: skip
            losses.clear()
    model.eval()


@torch.no_grad()
def held_out_loss(
    model: LlamaForCausalLM, ids: NDArray[np.int64], num_bytes: int, device: torch.device
) -> dict[str, float]:
    """Loss over non-overlapping full-context windows in float32: nats per token, bits per byte."""
    length = recipe.CONTEXT_LEN
    starts = range(0, len(ids) - 1, length)
    total = 0.0
    for start in starts:
        window = torch.from_numpy(ids[None, start : start + length + 1]).to(device)
        logits = model(input_ids=window[:, :-1], use_cache=False).logits
        total += F.cross_entropy(logits[0], window[0, 1:], reduction="sum").item()
    return {
        "nats_per_token": total / (len(ids) - 1),
        "bits_per_byte": total / math.log(2) / num_bytes,
    }


@torch.no_grad()
def mean_acceptance(
    llm: LlamaForCausalLM, slm: LlamaForCausalLM, ids: NDArray[np.int64], device: torch.device
) -> float:
    """alpha = mean over positions of 1 − D(p, q) = Σ min(p, q) at temperature 1."""
    length = recipe.CONTEXT_LEN
    overlaps = []
    for start in range(0, len(ids) - 1, length):
        window = torch.from_numpy(ids[None, start : start + length]).to(device)
        p, q = (m(input_ids=window, use_cache=False).logits[0].softmax(-1) for m in (llm, slm))
        overlaps.append(torch.minimum(p, q).sum(-1))
    return torch.cat(overlaps).double().mean().item()


def new_model(r: recipe.Recipe, seed: int, device: torch.device) -> LlamaForCausalLM:
    """Fresh weights; eager attention, because torch.compile fuses it best on a CPU."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(r.config())
    model.set_attn_implementation("eager")
    return _moved(model, device)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """fp16 safetensors, config and tokenizer, as transformers lays them out."""
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_fp32(folder: Path, device: torch.device) -> LlamaForCausalLM:
    """The saved model, rounded as it ships, computing in float32."""
    return _moved(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), device)


def _moved(model: Any, device: torch.device) -> LlamaForCausalLM:
    moved: LlamaForCausalLM = model.to(device)
    return moved


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of the training script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="text to train on")
    parser.add_argument("--validation", type=Path, required=True, help="held-out text")
    parser.add_argument("--out", type=Path, default=HERE, help="folder that gets llm/ and slm/")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=("llm", "slm", "evaluate"), help="run one stage")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Tokenizer, LLM, SLM, figures on held-out text; `--only` runs one stage."""
    args = parse_args(argv)
    device = torch.device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    log_path = args.out / "training_log.jsonl"

    def log(record: dict[str, object]) -> None:
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **record})
        print(line, flush=True)
        with log_path.open("a") as file:
            file.write(line + "\n")

    tales = read_tales(args.corpus)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(tales, recipe.VOCAB_SIZE),
        bos_token=END_TOKEN,
        eos_token=END_TOKEN,
        model_max_length=recipe.CONTEXT_LEN,
    )
    ids = encode_tales(tokenizer.backend_tokenizer, tales)
    log({"stage": "data", "num_tales": len(tales), "num_tokens": len(ids)})

    if args.only in (None, "llm"):
        llm = new_model(recipe.LLM, 0, device)
        log({"stage": "llm", "num_parameters": llm.num_parameters()})
        train(llm, text_loss(llm), recipe.LLM, ids, lambda r: log({"stage": "llm", **r}), device)
        save(llm, tokenizer, args.out / "llm")
    if args.only in (None, "slm"):
        teacher = load_fp32(args.out / "llm", device)
        teacher.set_attn_implementation("eager")
        slm = new_model(recipe.SLM, 1, device)
        log({"stage": "slm", "num_parameters": slm.num_parameters()})
        loss = distillation_loss(slm, teacher)
        train(slm, loss, recipe.SLM, ids, lambda r: log({"stage": "slm", **r}), device)
        save(slm, tokenizer, args.out / "slm")
    if args.only in (None, "evaluate"):
        text = read_tales(args.validation)
        held_out = encode_tales(tokenizer.backend_tokenizer, text)
        num_bytes = sum(len(tale.encode()) for tale in text)
        llm, slm = (load_fp32(args.out / name, device) for name in ("llm", "slm"))
        for name, model in (("llm", llm), ("slm", slm)):
            scores = held_out_loss(model, held_out, num_bytes, device)
            log({"stage": "held-out", "model": name, **scores})
        log({"stage": "held-out", "alpha": mean_acceptance(llm, slm, held_out, device)})


if __name__ == "__main__":
    main()
