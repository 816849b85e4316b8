"""A cache of 8 bits holds what its scales say, in every family, and nothing else changes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from device_runtime.bundle import load_manifest
from device_runtime.onnx_drafter import OnnxDrafter, RuntimeSettings
from export import cache_scales as scaling
from export import fused_graph
from export.cache_scales import HEADROOM, CacheScales, cache_scales
from export.decoder_families import FAMILIES, read_decoder
from export.graph_signature import read_signature
from export.numpy_runner import NumpyRunner, Rows
from tests.tiny_models import NUM_TOKENS, tiny_model

IDS = torch.randint(NUM_TOKENS, (60,), generator=torch.Generator().manual_seed(4)).tolist()
TEXTS = torch.randint(NUM_TOKENS, (4, 64), generator=torch.Generator().manual_seed(5)).split(2)


def rounded_cache(
    model: PreTrainedModel, scales: list[CacheScales], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From now on the model attends to keys and values as onnxruntime stores them."""
    model.config._attn_implementation = "eager"
    module = sys.modules[type(model).__module__]
    attend = module.eager_attention_forward

    def through_codes(x: Tensor, scale: Any) -> Tensor:
        wide = torch.from_numpy(scale).view(1, x.shape[1], 1, x.shape[3])
        return (x / wide).round().clamp(-128, 127) * wide

    def rounding(
        layer: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any
    ) -> Any:
        own = scales[layer.layer_idx]
        codes = through_codes(key, own.key), through_codes(value, own.value)
        return attend(layer, query, *codes, *rest, **more)

    monkeypatch.setattr(module, "eager_attention_forward", rounding)


def rows_of(path: Path) -> tuple[Rows, Rows]:
    """Rows after each token of IDS: all at once, and one by one with a rollback on the way."""
    runner = NumpyRunner(path, read_signature(path))
    together = runner.append(IDS)
    runner.truncate(20)
    one_by_one = [together[:20]]
    for at in range(20, len(IDS)):
        if at == 40:
            runner.append([1, 2, 3])
            runner.truncate(40)
        one_by_one.append(runner.append([IDS[at]]))
    return together, np.concatenate(one_by_one)


def write(model: PreTrainedModel, scales: list[CacheScales], path: Path) -> None:
    fused_graph.write(read_decoder(model, 64), path, "fp32", accuracy_level=0, scales=scales)


def scales_of(model: PreTrainedModel) -> list[CacheScales]:
    return cache_scales(model, TEXTS, 2 * read_decoder(model, 64).rotary.cos.shape[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_attends_to_what_the_codes_stand_for(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(family)
    scales, path = scales_of(model), tmp_path / "model.onnx"
    write(model, scales, path)
    assert read_signature(path).cache_dtype == "int8"
    rounded_cache(model, scales, monkeypatch)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0].numpy()
    for rows in rows_of(path):
        # A code that falls on the other side of a half now and then; a wrong scale is 100 times that.
        error = np.sqrt(np.square(rows - expected).mean() / np.square(expected).mean())
        assert error < 1e-3


@pytest.mark.parametrize("spoilt", ["swapped", "halved"])
def test_the_check_fails_for_wrong_scales(
    spoilt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    scales, path = scales_of(model), tmp_path / "model.onnx"
    wrong = {
        "swapped": [CacheScales(s.value, s.key) for s in scales],
        "halved": [CacheScales(s.key / np.float32(2), s.value) for s in scales],
    }[spoilt]
    write(model, wrong, path)
    rounded_cache(model, scales, monkeypatch)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0].numpy()
    rows, _ = rows_of(path)
    assert np.sqrt(np.square(rows - expected).mean() / np.square(expected).mean()) > 1e-2


def test_a_short_text_tells_how_far_keys_reach_at_any_position() -> None:
    """Rotated by any angle, a key stays within its scale; its plain channels are as they were."""
    generator = torch.Generator().manual_seed(6)
    keys = torch.randn(2, 3, 5, 48, generator=generator)
    reach = scaling._reach(scaling._lengths(keys, 32)).view(3, 48)
    for angle in torch.linspace(0, 2 * math.pi, 17):
        first, second = keys[..., :32].chunk(2, dim=-1)
        turned = torch.cat(
            (
                first * angle.cos() - second * angle.sin(),
                first * angle.sin() + second * angle.cos(),
            ),
            dim=-1,
        )
        assert (turned.abs().amax((0, 2)) <= reach[:, :32] * (1 + 1e-6)).all()
    assert torch.equal(keys[..., 32:].abs().amax((0, 2)), reach[:, 32:])


def test_the_largest_value_of_the_texts_leaves_headroom() -> None:
    model = tiny_model("llama")
    found = scales_of(model)
    with torch.inference_mode():
        layers = model(input_ids=torch.cat(TEXTS), use_cache=True).past_key_values.layers
    assert len(found) == len(layers) == 2
    for scales, layer in zip(found, layers, strict=True):
        largest = layer.values.abs().amax((0, 2)).flatten().numpy()
        np.testing.assert_allclose(scales.value * 127, largest * HEADROOM, rtol=1e-5)


def test_a_silent_channel_keeps_a_scale() -> None:
    scale = scaling._scale(torch.tensor([0.0, 2.0]))
    np.testing.assert_allclose(scale, np.array([2 / 1024, 2.0]) * HEADROOM / 127, rtol=1e-6)
    assert (scaling._scale(torch.zeros(2)) > 0).all()


def test_a_rollback_leaves_no_trace_in_the_devices_cache(
    llama: Path, export: Callable[..., int], tmp_path: Path
) -> None:
    """Bit for bit, for the same runs; a code that was written over must not shine through."""
    bundle = tmp_path / "out"
    assert export(llama, "--out", bundle, "--json") == 0
    assert load_manifest(bundle).cache_dtype == "int8"
    prompt, drafts, committed = np.array(IDS[:11]), np.array(IDS[11:15]), np.array(IDS[15:17])
    for num_kept in range(5):
        drafter, other = (OnnxDrafter.open(bundle, RuntimeSettings(num_threads=1)) for _ in "ab")
        for block in (prompt, *drafts[:, None]):
            drafter.append(block)
        drafter.truncate(len(prompt) + num_kept)
        for block in (prompt, *drafts[:num_kept, None]):
            other.append(block)
        assert np.array_equal(drafter.append(committed), other.append(committed))
