import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from export.demo_pair import recipe, train
from export.demo_pair.checkpoints import load_fp32, new_model, save
from export.demo_pair.corpus import END_TOKEN, read_tales, train_tokenizer
from export.demo_pair.evaluate import held_out_loss, mean_acceptance
from export.demo_pair.recipe import Phase, Recipe, Training

CPU = torch.device("cpu")
TRAINING = Training(6, 5e-3, (Phase(0.5, 2, 8), Phase(0.5, 1, 16)), dropout=0.5, warmup_steps=2)
TINY = Recipe(16, 1, 2, 1, 32, TRAINING)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(recipe, "VOCAB_SIZE", 300)
    monkeypatch.setattr(recipe, "LLM", TINY)
    monkeypatch.setattr(recipe, "SLM", TINY)
    monkeypatch.setattr(train, "LOG_STEPS", 2)
    torch.compiler.set_stance("force_eager")  # compiling takes longer than all of this
    yield
    torch.compiler.set_stance("default")


def ids_of(length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 300, length)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [train.learning_rate(step, TRAINING) / TRAINING.learning_rate for step in range(7)]
    assert rates == pytest.approx([0.5, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_phases_share_the_steps_and_give_windows_of_their_shape() -> None:
    shapes = [tuple(batch.shape) for batch in train.phase_batches(ids_of(200), TRAINING)]
    assert shapes == [(2, 9)] * 3 + [(1, 17)] * 3


def test_dropout_acts_while_training_and_goes_with_its_hooks() -> None:
    model = new_model(TINY, 0, CPU).eval()
    windows = torch.from_numpy(ids_of(8)[None])

    def logits() -> torch.Tensor:
        out: torch.Tensor = model(input_ids=windows).logits
        return out

    plain = logits()
    hooks = train.add_dropout(model, 0.5)
    assert len(hooks) == 1 + 2 * TINY.num_layers
    assert torch.equal(logits(), plain)
    model.train()
    assert not torch.allclose(logits(), logits())
    for hook in hooks:
        hook.remove()
    model.eval()
    assert torch.equal(logits(), plain)
    assert train.add_dropout(model, 0.0) == []


def test_the_distillation_loss_is_its_formula() -> None:
    teacher, student = new_model(TINY, 0, CPU).eval(), new_model(TINY, 1, CPU).eval()
    windows = torch.from_numpy(ids_of(12).reshape(2, 6))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        log_p, log_q = (
            m(input_ids=windows[:, :-1]).logits.float().log_softmax(-1).double().numpy()
            for m in (teacher, student)
        )
    p = np.exp(log_p)
    kl = np.mean([(p[b, t] * (log_p - log_q)[b, t]).sum() for b in range(2) for t in range(5)])
    text = -np.mean([log_q[b, t, windows[b, t + 1]] for b in range(2) for t in range(5)])
    wanted = recipe.DISTILL_WEIGHT * kl + (1 - recipe.DISTILL_WEIGHT) * text
    assert train.distillation_loss(student, teacher)(windows).item() == pytest.approx(
        wanted, rel=1e-5
    )


def test_held_out_figures_count_every_id_but_the_first_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("export.demo_pair.evaluate.CONTEXT_LEN", 8)
    llm, slm = new_model(TINY, 0, CPU).eval(), new_model(TINY, 1, CPU).eval()
    ids = ids_of(17)
    nats, overlaps = [], []
    for start in (0, 8):
        window = torch.from_numpy(ids[start : start + 8])[None]
        with torch.no_grad():
            p, q = (m(input_ids=window).logits[0].double().softmax(-1).numpy() for m in (llm, slm))
        for i, following in enumerate(ids[start + 1 : start + 9]):
            nats.append(-np.log(p[i, following]))
            overlaps.append(np.minimum(p[i], q[i]).sum())
    assert len(nats) == 16
    scores = held_out_loss(llm, ids, 40, CPU)
    assert scores["nats_per_token"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert scores["bits_per_byte"] == pytest.approx(np.sum(nats) / np.log(2) / 40, rel=1e-5)
    assert mean_acceptance(llm, slm, ids, CPU) == pytest.approx(np.mean(overlaps), rel=1e-5)


def test_saved_models_are_half_precision_and_load_as_transformers_does(tmp_path: Path) -> None:
    corpus = tmp_path / "tales.txt"
    corpus.write_text("## One\nOnce upon a time.\n" * 5)
    tales = read_tales(corpus)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(tales, 300), eos_token=END_TOKEN
    )
    model = new_model(TINY, 3, CPU)
    save(model, tokenizer, tmp_path / "m")
    assert AutoTokenizer.from_pretrained(tmp_path / "m")("Once")["input_ids"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto").dtype == torch.float16
    wanted = model.state_dict()["model.embed_tokens.weight"].half().float()
    loaded = load_fp32(tmp_path / "m", CPU).state_dict()["model.embed_tokens.weight"]
    assert torch.equal(loaded, wanted)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # from torch itself
def test_the_script_trains_both_models(tmp_path: Path) -> None:
    text = "".join(f"## Tale {n}\nOnce there was a king who had {n} sons.\n" for n in range(60))
    for name in ("tales.txt", "held_out.txt"):
        (tmp_path / name).write_text(text)
    options = ["--corpus", str(tmp_path / "tales.txt"), "--device", "cpu",
               "--validation", str(tmp_path / "held_out.txt"), "--out", str(tmp_path)]  # fmt: skip
    train.main(options)
    records = log_of(tmp_path)
    steps = [(r["part"], r["step"]) for r in records if "step" in r]
    assert steps == [(part, step) for part in ("llm", "slm") for step in (2, 4, 6)]
    assert 0 < records[-1]["alpha"] <= 1
    assert {r["model"] for r in records if "bits_per_byte" in r} == {"llm", "slm"}
