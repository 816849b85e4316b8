"""Train the demo pair: `python -m export.demo_pair.train --corpus TALES.txt --validation HELD_OUT.txt`.

The LLM learns the text; the SLM learns the LLM's law. Matrices are optimised by Muon, which needs
about half the steps AdamW does at this size; vectors and the tied embedding by AdamW. Writes one
folder a model in the layout that transformers loads, and a log.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.utils.hooks import RemovableHandle
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from export.demo_pair import recipe
from export.demo_pair.checkpoints import load_fp32, new_model, save
from export.demo_pair.corpus import (
    END_TOKEN,
    encode_tales,
    read_tales,
    shuffled_windows,
    train_tokenizer,
)
from export.demo_pair.evaluate import held_out_loss, mean_acceptance

HERE = Path(__file__).parent
LOG_STEPS = 50
Loss = Callable[[torch.Tensor], torch.Tensor]
Log = Callable[[dict[str, object]], None]


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


def optimizers(model: LlamaForCausalLM, training: recipe.Training) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the tied embedding and the norms."""
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    outer = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(
            inner,
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            outer,
            lr=training.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=training.embedding_weight_decay,
        ),
    ]


def add_dropout(model: LlamaForCausalLM, rate: float) -> list[RemovableHandle]:
    """Dropout on what each layer adds to the residual stream, while the model trains."""

    def drop(module: torch.nn.Module, _: object, out: torch.Tensor) -> torch.Tensor:
        return F.dropout(out, rate, module.training)

    ends = ("o_proj", "down_proj", "embed_tokens")
    inner = [module for name, module in model.named_modules() if name.endswith(ends)]
    return [module.register_forward_hook(drop) for module in inner] if rate else []


def learning_rate(step: int, training: recipe.Training) -> float:
    """Linear warm-up, then linear decay to zero at the last step."""
    return training.learning_rate * min(
        (step + 1) / training.warmup_steps, 1 - step / training.num_steps
    )


def phase_batches(ids: NDArray[np.int64], training: recipe.Training) -> Iterator[torch.Tensor]:
    """num_steps batches of windows, phase after phase."""
    ends = np.rint(np.cumsum([p.share for p in training.phases]) * training.num_steps).astype(int)
    done = 0
    for seed, (phase, end) in enumerate(zip(training.phases, ends, strict=True)):
        batches = shuffled_windows(ids, phase.batch_size, phase.window_len, seed)
        for _ in range(done, end):
            yield next(batches)
        done = end


def train_model(
    model: LlamaForCausalLM,
    loss_fn: Loss,
    training: recipe.Training,
    ids: NDArray[np.int64],
    log: Log,
    device: torch.device,
) -> None:
    """Run a training; log the mean loss and the speed every LOG_STEPS steps."""
    hooks = add_dropout(model, training.dropout)
    compiled = torch.compile(loss_fn, dynamic=False)
    optims = optimizers(model, training)
    model.train()
    losses: list[float] = []
    started = time.perf_counter()
    num_tokens = 0
    for step, windows in enumerate(phase_batches(ids, training)):
        for group in (group for optim in optims for group in optim.param_groups):
            group["lr"] = learning_rate(step, training)
        loss = compiled(windows.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
        losses.append(loss.item())
        num_tokens += windows[:, 1:].numel()
        if (step + 1) % LOG_STEPS == 0 or step + 1 == training.num_steps:
            elapsed_s = time.perf_counter() - started
            log({"step": step + 1, "loss": float(np.mean(losses)), "elapsed_s": elapsed_s,
                 "tokens_per_s": num_tokens / elapsed_s})  # fmt: skip
            losses.clear()
    for hook in hooks:
        hook.remove()
    model.eval()


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every part of the training shares."""

    tokenizer: PreTrainedTokenizerFast
    ids: NDArray[np.int64]
    out: Path
    device: torch.device
    log: Log

    def train_llm(self) -> None:
        """A fresh LLM learns the text."""
        llm = new_model(recipe.LLM, 0, self.device)
        self._train("llm", llm, text_loss(llm), recipe.LLM.training)

    def train_slm(self) -> None:
        """A fresh SLM learns the saved LLM's law."""
        teacher = load_fp32(self.out / "llm", self.device)
        slm = new_model(recipe.SLM, 1, self.device)
        self._train("slm", slm, distillation_loss(slm, teacher), recipe.SLM.training)

    def evaluate(self, tales: list[str]) -> None:
        """Losses of both models, and alpha, on held-out tales."""
        ids = encode_tales(self.tokenizer.backend_tokenizer, tales)
        num_bytes = sum(len(tale.encode()) for tale in tales)
        llm, slm = (load_fp32(self.out / name, self.device) for name in ("llm", "slm"))
        for name, model in (("llm", llm), ("slm", slm)):
            scores = held_out_loss(model, ids, num_bytes, self.device)
            self.log({"part": "held-out", "model": name, **scores})
        alpha = mean_acceptance(llm, slm, ids, self.device)
        self.log({"part": "held-out", "alpha": alpha})

    def _train(
        self, name: str, model: LlamaForCausalLM, loss: Loss, training: recipe.Training
    ) -> None:
        self.log({"part": name, "num_parameters": model.num_parameters()})

        def log(record: dict[str, object]) -> None:
            self.log({"part": name, **record})

        train_model(model, loss, training, self.ids, log, self.device)
        save(model, self.tokenizer, self.out / name)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of the training script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="text to train on")
    parser.add_argument("--validation", type=Path, required=True, help="held-out text")
    parser.add_argument("--out", type=Path, default=HERE, help="folder that gets llm/ and slm/")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=("llm", "slm", "evaluate"), help="run one part")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Tokenizer, LLM, SLM, figures on held-out text; `--only` runs one part."""
    args = parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)

    def log(record: dict[str, object]) -> None:
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **record})
        print(line, flush=True)
        with (args.out / "training_log.jsonl").open("a") as file:
            file.write(line + "\n")

    tales = read_tales(args.corpus)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(tales, recipe.VOCAB_SIZE),
        bos_token=END_TOKEN,
        eos_token=END_TOKEN,
        model_max_length=recipe.CONTEXT_LEN,
        model_input_names=["input_ids", "attention_mask"],  # all that generate() of a Llama takes
    )
    ids = encode_tales(tokenizer.backend_tokenizer, tales)
    log({"part": "data", "num_tales": len(tales), "num_tokens": len(ids)})
    workshop = Workshop(tokenizer, ids, args.out, torch.device(args.device), log)
    if args.only in (None, "llm"):
        workshop.train_llm()
    if args.only in (None, "slm"):
        workshop.train_slm()
    if args.only in (None, "evaluate"):
        workshop.evaluate(read_tales(args.validation))


if __name__ == "__main__":
    main()
