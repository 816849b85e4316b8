"""`tandem export` from the command line to a bundle in its place, or to a refusal."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from transformers import PreTrainedModel

from device_runtime import cli as tandem
from device_runtime.bundle import Bundle, load_manifest
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.manifest import Manifest
from export import bundle, convert
from export.choose import Choice
from export.errors import ExportError
from tests.tiny_models import (
    CHAT_TEMPLATE,
    CONTEXT_LEN,
    END_ID,
    NUM_TOKENS,
    START_ID,
    save_checkpoint,
    tiny_model,
    with_noise,
)

Export = Callable[..., int]
FUSED = convert.BUILDERS["fused"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_manifest_describes_the_model(llama: Path, export: Export, tmp_path: Path) -> None:
    bundle = tmp_path / "out"
    assert export(llama, "--out", bundle, "--json") == 0
    manifest = load_manifest(bundle)
    assert manifest == Manifest(
        format_version=2,
        source="llama",
        architecture="llama",
        graph="fused",
        weights="int4",
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_size=16,
        vocab_size=NUM_TOKENS,
        context_len=CONTEXT_LEN,
        bos_token_id=START_ID,
        end_token_ids=(END_ID,),
        cache_dtype="int8",
        logits_dtype="float32",
        input_ids_name="input_ids",
        attention_mask_name=None,
        position_ids_name=None,
        last_position_name="last_position",
        num_positions_name="num_positions",
        logits_name="logits",
        past_key_pattern="past_key_values.%d.key",
        past_value_pattern="past_key_values.%d.value",
        present_key_pattern="present.%d.key",
        present_value_pattern="present.%d.value",
        files=manifest.files,
        tool_versions=manifest.tool_versions,
    )
    files = {"model.onnx", "model.onnx_data", "tokenizer.json", "chat_template.jinja"}
    assert manifest.files.keys() == files
    assert manifest.tool_versions["optimum-onnx"] == version("optimum-onnx")
    Bundle.open(bundle)  # checks the hashes
    assert (bundle / "chat_template.jinja").read_text() == CHAT_TEMPLATE
    copied = (bundle / "tokenizer.json").read_bytes()
    assert copied == (llama / "tokenizer.json").read_bytes()


def test_a_sharded_padded_float16_checkpoint_without_template(
    gpt2: Path, gpt2_bundle: Path
) -> None:
    assert len(list(gpt2.glob("*.safetensors"))) > 2
    manifest = load_manifest(gpt2_bundle)
    assert manifest.vocab_size == NUM_TOKENS + 64
    assert (manifest.num_kv_heads, manifest.cache_dtype) == (4, "float32")
    assert manifest.files.keys() == {"model.onnx", "tokenizer.json"}


def test_an_onnxruntime_of_another_name_will_do(
    llama: Path, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version_of(name: str) -> str:
        if name == "onnxruntime":  # here it would be called onnxruntime-gpu
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(bundle, "version", version_of)
    out = tmp_path / "out"
    assert export(llama, "--out", out, "--weights", "fp32", "--json") == 0
    assert Bundle.open(out).manifest.tool_versions["onnxruntime"] == onnxruntime.__version__


def test_tied_weights_are_stored_once(gpt2_bundle: Path) -> None:
    weights = onnx.load(gpt2_bundle / "model.onnx").graph.initializer
    wide = [list(w.dims) for w in weights if NUM_TOKENS + 64 in w.dims]
    assert wide == [[NUM_TOKENS + 64, 64]]


def test_json_is_all_there_is_under_json(
    llama: Path, export: Export, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    assert export(llama, "--out", out, "--json", "--device", "raspberry-pi-5") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    sizes = {path.name: path.stat().st_size for path in out.iterdir()}
    assert report["bundle"] == str(out)
    assert report["file_sizes_bytes"] == sizes
    assert report["size_bytes"] == sum(sizes.values())
    assert report["wall_s"] >= sum(report["stages"].values()) > 0
    parity = report["parity"]
    assert parity["num_greedy_equal"] == parity["num_greedy_tokens"] == 100
    assert parity["max_abs_logit_error"] <= parity["tolerance"] < 1e-2
    assert parity["first_difference"] is None
    assert (report["graph"], report["weights"], report["accuracy_level"]) == ("fused", "int4", 4)
    assert 0 < parity["activations"]["relative_rms_error"] < 0.1


def test_a_user_sees_the_stages_and_no_library(
    llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tandem.main(["export", str(llama), "--out", str(tmp_path / "out")]) == 0
    captured = capfd.readouterr()
    assert captured.err.splitlines() == [
        "Loading the libraries …",
        "Reading the weights …",
        "Writing text to fit int4 and the cache to …",
        "Rounding the weights to int4 …",
        "Writing the fused graph …",
        "Comparing the graph with the checkpoint …",
        "Writing tokenizer and manifest …",
    ]
    first, second, third = captured.out.splitlines()
    assert first.startswith(f"{tmp_path / 'out'}: llama, fused graph, int4, ")
    assert second.startswith("parity with the checkpoint: 100 of 100 greedy tokens equal, logits")
    assert third.startswith("rounding activations to int8 changes logits by ")


@pytest.fixture
def old_bundle(llama_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama_bundle, tmp_path / "out"))


def test_force_replaces_an_older_bundle(old_bundle: Path, gpt2: Path, export: Export) -> None:
    with pytest.raises(ExportError, match="add --force to replace it"):
        export(gpt2, "--out", old_bundle)
    assert export(gpt2, "--out", old_bundle, "--force", "--json") == 0
    assert Bundle.open(old_bundle).manifest.architecture == "gpt2"
    assert list(old_bundle.parent.iterdir()) == [old_bundle]


def noisy(
    model: PreTrainedModel, path: Path, choice: Choice, texts: Sequence[torch.Tensor]
) -> None:
    FUSED(with_noise(model, 1e-2), path, choice, texts)


def crashing(_: PreTrainedModel, path: Path, __: Choice, ___: object) -> None:
    path.write_bytes(b"half a graph")
    raise RuntimeError("exporter broke\nwith a long story")


def full(_: PreTrainedModel, path: Path, __: Choice, ___: object) -> None:
    path.write_bytes(b"half a graph")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(_: PreTrainedModel, path: Path, __: Choice, ___: object) -> None:
    path.write_bytes(b"half a graph")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("build", "code", "expected"),
    [
        (noisy, 1, "the exported graph does not agree with the checkpoint: logits are off by"),
        (crashing, 1, "(llama) could not be turned into a graph: RuntimeError: exporter broke"),
        (full, 1, "has become full ([Errno 28] No space left on device): the export needs about"),
        (interrupted, 130, "interrupted"),
    ],
)
def test_a_failed_export_says_why_and_leaves_the_old_bundle(
    build: convert.Builder,
    code: int,
    expected: str,
    old_bundle: Path,
    llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(convert.BUILDERS, "fused", build)
    before = files(old_bundle)
    words = ["export", str(llama), "--out", str(old_bundle), "--force", "--json"]
    assert tandem.main(words) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    assert expected in line
    assert files(old_bundle) == before
    assert list(old_bundle.parent.iterdir()) == [old_bundle]


def test_a_failed_export_leaves_no_folder(
    llama: Path, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(convert.BUILDERS, "fused", noisy)
    with pytest.raises(ExportError):
        export(llama, "--out", tmp_path / "out", "--json")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_the_file_lacks_are_not_made_up(
    export: Export, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_checkpoint(tiny_model("llama", num_hidden_layers=1), tmp_path / "llama")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ExportError, match=r"lacks 9 of its weights \(such as model\.layers\.1\."):
        export(checkpoint, "--out", tmp_path / "out", "--json")
    assert capfd.readouterr() == ("", "")


def test_weights_of_another_shape_are_refused(llama: Path, export: Export, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(llama, tmp_path / "llama"))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    with pytest.raises(ExportError, match="llama does not load: RuntimeError: ") as caught:
        export(checkpoint, "--out", tmp_path / "out", "--json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--context", "15"], "--context 15: it must lie between 16 and 256"),
        (["--context", "257"], "the positions the model was made for"),
        (["--device", "pi-of-pies"], "pi-of-pies"),
    ],
)
def test_options_that_cannot_be_served_are_refused_at_once(
    options: list[str], expected: str, llama: Path, export: Export, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=expected):
        export(llama, "--out", tmp_path / "out", *options)
    assert list(tmp_path.iterdir()) == []


def test_a_fused_graph_is_refused_where_there_is_none(
    gpt2: Path, export: Export, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"has no fused graph: the architecture gpt2.*optimum"):
        export(gpt2, "--out", tmp_path / "out", "--graph", "fused")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "is an encoder (bert)"),
        ({"model_type": "mamba", "architectures": None}, "cannot be rolled back"),
        ({"model_type": "novel", "architectures": None}, "which cannot be exported; these can"),
        ({"max_position_embeddings": None}, "states no context length"),
        ({"max_position_embeddings": 0}, "gives context_len as 0"),
    ],
)
def test_a_checkpoint_is_refused_before_its_weights_are_read(
    change: dict[str, Any],
    expected: str,
    llama: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    checkpoint = Path(shutil.copytree(llama, tmp_path / "llama"))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, **change}))
    (checkpoint / "model.safetensors").write_bytes(b"never read")
    words = ["export", str(checkpoint), "--out", str(tmp_path / "out"), "--json"]
    assert tandem.main(words) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("tandem: ")
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_made_is_refused_before_the_weights_are_read(
    llama: Path, export: Export, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(llama, tmp_path / "llama"))
    (checkpoint / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(
        ExportError, match=r"no bundle can be made at /dev/null/x .*; choose another"
    ):
        export(checkpoint, "--out", "/dev/null/x", "--json")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"partial_rotary_factor": None}),
        ("config.json", {"layer_types": 3}),
        ("config.json", {"rope_scaling": {"rope_type": "longrope",
                                          "original_max_position_embeddings": "many"}}),
        ("generation_config.json", {"bos_token_id": [1, 2]}),
        ("generation_config.json", {"eos_token_id": {}}),
        ("tokenizer_config.json", {"chat_template": [{"template": "x"}]}),
        ("tokenizer_config.json", {"chat_template": 3}),
        ("tokenizer_config.json", {"added_tokens_decoder": []}),
        ("tokenizer_config.json", {"eos_token": 3}),
    ],
)  # fmt: skip
def test_a_malformed_description_is_told_as_such(
    name: str, change: dict[str, Any], llama: Path, export: Export, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(llama, tmp_path / "llama"))
    (checkpoint / "chat_template.jinja").unlink()
    path = checkpoint / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    (checkpoint / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ExportError, match=r"^llama is malformed: config\.json, .*\); correct it"):
        export(checkpoint, "--out", tmp_path / "out", "--json")


@pytest.mark.parametrize("weights", ["int4", "fp32"])
def test_weights_that_are_not_finite_are_told_as_such(
    weights: str, export: Export, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        next(model.model.layers[1].mlp.up_proj.parameters())[0, 0] = torch.nan
    checkpoint = save_checkpoint(model, tmp_path / "llama")
    with pytest.raises(
        ExportError, match=r"not finite \(.* first in model\.layers\.1\.mlp\.up_proj"
    ):
        export(checkpoint, "--out", tmp_path / "out", "--json", "--weights", weights)


def test_a_chat_template_that_is_no_text_is_refused_before_the_weights_are_read(
    llama: Path, export: Export, tmp_path: Path
) -> None:
    checkpoint = Path(shutil.copytree(llama, tmp_path / "llama"))
    (checkpoint / "chat_template.jinja").write_bytes(b"\xff{{ messages }}")
    (checkpoint / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ExportError, match=r"chat template of .* is no Jinja template in UTF-8"):
        export(checkpoint, "--out", tmp_path / "out", "--json")


def test_the_rounding_may_be_fitted_to_a_file_to_own_text_or_to_nothing(
    llama: Path, export: Export, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("There was a miller who had three sons, a mill, a donkey and a cat. " * 30)
    stored = set()
    for wanted in ("own", "none", str(text)):
        out = tmp_path / Path(wanted).stem
        assert export(llama, "--out", out, "--json", "--calibration", wanted) == 0
        report = json.loads(capfd.readouterr().out)
        assert report["calibration"] == wanted
        assert ("calibration_s" in report["stages"]) == (wanted == "own")
        stored.add((out / "model.onnx_data").read_bytes())
    assert len(stored) == 3


def test_8_bit_weights_are_fitted_to_nothing_but_an_8_bit_cache_is(
    llama: Path, export: Export, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for cache, calibration in (("fp32", "none"), ("int8", "own")):
        words = ("--json", "--weights", "int8", "--cache", cache)
        assert export(llama, "--out", tmp_path / cache, *words) == 0
        report = json.loads(capfd.readouterr().out)
        assert (report["cache"], report["calibration"]) == (cache, calibration)


def test_options_that_do_nothing_are_noted(
    llama: Path, export: Export, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("never read")
    words = ("--weights", "fp32", "--accuracy-level", "4", "--calibration", text, "--json")
    assert export(llama, "--out", tmp_path / "out", *words) == 0
    notes = json.loads(capfd.readouterr().out)["notes"]
    assert [note.split()[0] for note in notes] == ["--accuracy-level", "--calibration"]


def test_a_text_that_is_not_there_is_refused_before_anything_is_read(
    export: Export, tmp_path: Path
) -> None:
    wanted = tmp_path / "no.txt"
    with pytest.raises(ConfigError, match=r"no.txt: there is no such file.*`own` or `none`"):
        export(tmp_path / "nothing", "--out", tmp_path / "out", "--calibration", wanted)


def test_a_short_text_leaves_nothing_behind(llama: Path, export: Export, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Too short.")
    with pytest.raises(ExportError, match="tokens, and the model needs at least 128"):
        export(llama, "--out", tmp_path / "out", "--calibration", text)
    assert not (tmp_path / "out").exists()
