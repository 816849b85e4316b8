"""What is refused before, while and after weights are loaded, each with one clear sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.edge_passes import model_of
from device_runtime.protocol.errors import BundleError, ConfigError
from device_runtime.protocol.vocabulary import vocabulary_hash
from edge_server.checkpoint import Checkpoint, CheckpointError
from edge_server.engine import TorchEngine
from edge_server.facts import edge_facts, read_tokens
from edge_server.hardware import resolve_device, resolve_dtype
from edge_server.loading import load_engine, try_model
from tests.tiny_models import ARCHITECTURES, CONTEXT_LEN, END_ID, NUM_TOKENS

CPU = torch.device("cpu")


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "tiny-llama"))


def edit(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    data.update(changes)
    path.write_text(json.dumps(data))


def load(folder: Path, **more: Any) -> TorchEngine:
    settings: dict[str, Any] = {
        "num_ids": NUM_TOKENS,
        "device": "cpu",
        "dtype": "float64",
        "cache_bytes": 1 << 22,
    }
    return load_engine(Checkpoint.open(folder), **(settings | more))


def test_a_checkpoint_tells_its_name_context_and_end(folder: Path) -> None:
    opened = Checkpoint.open(folder)
    assert opened.name == "tiny-llama"
    assert opened.context_len == CONTEXT_LEN
    assert opened.end_ids == (END_ID,)


def test_more_ids_than_the_model_has_rows_are_refused(folder: Path) -> None:
    """An id without a row would end the first batch that holds it, on a GPU the whole process."""
    load(folder, num_ids=NUM_TOKENS + 16)  # padding rows are rows
    with pytest.raises(CheckpointError, match="defines 401 ids, but the model has 400 rows"):
        load(folder, num_ids=NUM_TOKENS + 17)


@pytest.mark.parametrize(
    ("stated", "wanted"), [(3, (3,)), ([5, 2, 5], (5, 2)), (None, ()), (-1, ())], ids=str
)
def test_end_ids_come_from_the_generation_config_first(
    folder: Path, stated: Any, wanted: tuple[int, ...]
) -> None:
    edit(folder / "config.json", eos_token_id=9)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stated}))
    assert Checkpoint.open(folder).end_ids == wanted
    (folder / "generation_config.json").unlink()
    assert Checkpoint.open(folder).end_ids == (9,)


def test_long_rope_ends_where_its_factors_change(folder: Path) -> None:
    edit(
        folder / "config.json",
        max_position_embeddings=4096,
        rope_scaling={"rope_type": "longrope", "original_max_position_embeddings": 128},
    )
    assert Checkpoint.open(folder).context_len == 128


def spoil_nothing_there(folder: Path) -> None:
    shutil.rmtree(folder)


def spoil_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def spoil_config_syntax(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def spoil_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def spoil_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def spoil_index_outside(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def spoil_index_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.bin")
    index = {"weight_map": {"a": "weights.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def spoil_lost_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def spoil_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def spoil_auto_map(folder: Path) -> None:
    edit(folder / "config.json", model_type="evil", auto_map={"AutoModelForCausalLM": "evil.Model"})


def spoil_kernel(folder: Path) -> None:
    edit(folder / "config.json", text_config={"_attn_implementation_internal": "evil/kernel"})


def spoil_attention(folder: Path) -> None:
    edit(folder / "config.json", attn_implementation="evil/kernel")


def spoil_other_weights(folder: Path) -> None:
    edit(folder / "config.json", transformers_weights="elsewhere.bin")


def spoil_encoder_decoder(folder: Path) -> None:
    edit(folder / "config.json", is_encoder_decoder=True)


def spoil_class(folder: Path) -> None:
    edit(folder / "config.json", architectures=["BertForMaskedLM"])


def spoil_quantised(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "gptq"})


def spoil_model_type(folder: Path) -> None:
    edit(folder / "config.json", model_type=None)


def spoil_unknown_kind(folder: Path) -> None:
    edit(folder / "config.json", model_type="llama99")


def spoil_damaged(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)


def spoil_lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


SPOILED: dict[Callable[[Path], None], str] = {
    spoil_nothing_there: "there is no folder",
    spoil_no_config: "no config.json",
    spoil_config_syntax: "not valid JSON",
    spoil_pickled: "pickled weights",
    spoil_no_weights: "has no weights",
    spoil_index_outside: "only safetensors beside it",
    spoil_index_pickled: "only safetensors beside it",
    spoil_lost_shard: "lacks model-00001",
    spoil_adapter: "is an adapter",
    spoil_auto_map: "code of its own",
    spoil_kernel: "attention kernel",
    spoil_attention: "attention kernel",
    spoil_other_weights: "other weights",
    spoil_encoder_decoder: "encoder-decoder",
    spoil_class: "BertForMaskedLM",
    spoil_quantised: "quantised",
    spoil_model_type: "names no model_type",
    spoil_unknown_kind: "cannot be loaded",
    spoil_damaged: "cannot be loaded",
    spoil_lacking: "lacks 1 of the model's weights",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_served_is_refused(folder: Path, spoil: Any) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=SPOILED[spoil]):
        load(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"architectures": 3}),
        ("config.json", {"rope_scaling": {"rope_type": "longrope",
                                          "original_max_position_embeddings": "many"}}),
        ("generation_config.json", {"eos_token_id": {}}),
        ("model.safetensors.index.json", {"weight_map": []}),
        ("model.safetensors.index.json", {"weight_map": {"a": 3}}),
    ],
)  # fmt: skip
def test_a_malformed_description_is_told_as_such(
    folder: Path, name: str, change: dict[str, Any]
) -> None:
    (folder / "model.safetensors").write_bytes(b"never read")
    if name == "model.safetensors.index.json":
        (folder / name).write_text("{}")
        (folder / "model.safetensors").unlink()
    edit(folder / name, **change)
    with pytest.raises(
        CheckpointError, match=rf"^{folder} is malformed: .*{name} .*; correct it"
    ) as caught:
        edge_facts(opened := Checkpoint.open(folder), read_tokens(folder), opened.context_len)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": "2"}, {"rope_scaling": 3}, {"hidden_act": "no such"}], ids=str
)
def test_a_config_that_transformers_chokes_on_is_told_as_such(
    folder: Path, change: dict[str, Any]
) -> None:
    edit(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=r"cannot be loaded as .* \(\w+: .*\)") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_code_that_is_not_needed_is_never_run(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in Phi-3's checkpoints, which are older than its class in transformers."""
    plain = dict(model_of(load(folder)).state_dict())
    (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint ran')")
    classes = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    edit(folder / "config.json", auto_map=classes)
    model = model_of(load(folder))
    assert type(model).__module__ == "transformers.models.llama.modeling_llama"
    assert all(torch.equal(weight, plain[name]) for name, weight in model.state_dict().items())
    assert "which is not run" in caplog.text


def test_a_kind_that_chooses_its_attention_by_itself_is_refused(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "gptj", vocab_size=64, n_embd=32, n_layer=1, n_head=2, rotary_dim=8
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="gptj"):
        load(tmp_path, num_ids=64)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_common_kind_passes_its_trial(checkpoint: Callable[[str], Path], kind: str) -> None:
    assert load(checkpoint(kind)).context_len == CONTEXT_LEN


def test_a_model_that_sees_other_positions_in_a_batch_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(folder)
    forward = model_of(engine).forward

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("position_ids", None)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model_of(engine), "forward", forgetful)
    with pytest.raises(CheckpointError, match="other logits in a batch"):
        try_model(model_of(engine), CONTEXT_LEN)


def test_a_cache_too_small_for_anything_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--cache-gib"):
        load(folder, cache_bytes=1000)


def test_without_a_budget_a_share_of_the_free_memory_is_the_bound(folder: Path) -> None:
    engine = load(folder, cache_bytes=None)
    assert engine.context_len == CONTEXT_LEN
    assert engine.max_cached > 1000


def test_devices_and_dtypes_have_names() -> None:
    assert resolve_dtype("auto", CPU) is torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert resolve_dtype("float64", CPU) is torch.float64
    assert resolve_device("cpu") == CPU
    with pytest.raises(ConfigError, match="dtype is 'float16'"):
        resolve_dtype("float16", CPU)
    with pytest.raises(ConfigError, match="device is 'tpu'"):
        resolve_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_said_so() -> None:
    assert resolve_device("auto") == CPU
    with pytest.raises(ConfigError, match="no CUDA device"):
        resolve_device("cuda")


# facts


def test_facts_count_the_tokenizer_s_ids_and_hash_them(folder: Path) -> None:
    tokens = read_tokens(folder)
    facts = edge_facts(Checkpoint.open(folder), tokens, context_len=100)
    assert (facts.model, facts.num_ids, facts.context_len) == ("tiny-llama", NUM_TOKENS, 100)
    assert facts.end_ids == (END_ID,)
    assert facts.vocabulary_hash(50) == vocabulary_hash(tokens[:50])
    assert facts.vocabulary_hash(50) != facts.vocabulary_hash(51)


def test_a_missing_or_foreign_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError):
        read_tokens(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        read_tokens(folder)


def test_an_end_token_outside_the_vocabulary_is_refused(folder: Path) -> None:
    tokens = read_tokens(folder)
    edit(folder / "generation_config.json", eos_token_id=[0, NUM_TOKENS])
    with pytest.raises(CheckpointError, match="eos_token_id"):
        edge_facts(Checkpoint.open(folder), tokens, 100)


def test_a_long_name_is_cut_to_what_the_wire_takes(folder: Path) -> None:
    long = folder.rename(folder.with_name("ü" * 120 + "x" * 10))
    facts = edge_facts(Checkpoint.open(long), read_tokens(long), 100)
    assert len(facts.model.encode()) <= 256
