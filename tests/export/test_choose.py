"""What is built: from the flags, else from the profile, else the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hw_profiles
from device_runtime.protocol.errors import ConfigError
from export import choose
from export.checkpoint import Checkpoint
from tests.tiny_models import tiny_tokenizer

HIDDEN = {"hidden_size": 64, "num_attention_heads": 4}


def checkpoint(**config: Any) -> Checkpoint:
    return Checkpoint(Path("here"), "it", {**HIDDEN, **config}, {}, {}, tiny_tokenizer())


@pytest.mark.parametrize(
    ("weights", "level", "profile", "expected"),
    [
        ("auto", None, None, ("int4", 4)),
        ("fp32", None, None, ("fp32", 4)),
        ("int8", 1, None, ("int8", 1)),
        ("auto", None, "raspberry-pi-5", ("int4", 4)),
        ("auto", None, "raspberry-pi-4", ("int4", 0)),
        ("auto", 4, "raspberry-pi-4", ("int4", 4)),
        ("int8", None, "raspberry-pi-5", ("int8", 4)),
        ("int8", None, "raspberry-pi-4", ("int8-dynamic", 0)),
        ("int8", None, "raspberry-pi-zero-2w", ("int8-dynamic", 0)),
        ("int8-dynamic", None, "raspberry-pi-4", ("int8-dynamic", 0)),
        ("int8", None, "generic-x86", ("int8", 4)),
        ("auto", None, "jetson-orin-nano", ("fp16", 4)),
        ("int4", None, "jetson-orin-nano", ("int4", 4)),
        ("fp16", None, None, ("fp16", 4)),
    ],
)
def test_flags_go_before_the_profile_and_the_profile_before_the_default(
    weights: str, level: int | None, profile: str | None, expected: tuple[str, int]
) -> None:
    chosen = choose.choose_weights(weights, level, profile)
    assert (chosen.weights, chosen.accuracy_level) == expected


@pytest.mark.parametrize("name", hw_profiles.names())
def test_every_profile_asks_for_weights_that_can_be_built(name: str) -> None:
    chosen = choose.choose_weights("auto", None, name)
    assert chosen.weights in choose.WEIGHTS
    assert chosen.accuracy_level in choose.ACCURACY_LEVELS


@pytest.mark.parametrize("name", hw_profiles.names())
def test_half_precision_is_for_profiles_that_wish_for_a_gpu(name: str) -> None:
    wishes = hw_profiles.load(name).runtime.providers.value
    is_half = choose.choose_weights("auto", None, name).weights == "fp16"
    assert is_half == ("CUDAExecutionProvider" in wishes)


def test_weights_that_are_not_what_was_asked_for_come_with_the_reason() -> None:
    (note,) = choose.choose_weights("int8", None, "raspberry-pi-4").notes
    assert note.startswith("int8-dynamic in place of int8: ") and "raspberry-pi-4 lacks" in note
    (note,) = choose.choose_weights("auto", None, "jetson-orin-nano").notes
    assert note.endswith("where its onnxruntime has no CUDA, export with --weights int4")
    for plain in (
        ("int8", "raspberry-pi-5"),
        ("auto", "raspberry-pi-4"),
        ("fp16", "jetson-orin-nx"),
    ):
        assert choose.choose_weights(plain[0], None, plain[1]).notes == ()


def test_without_a_fused_graph_a_gpu_gets_float32_and_is_told_so() -> None:
    half = choose.choose_weights("auto", None, "jetson-orin-nano")
    assert choose.fit_to_graph(half, "fused", "auto") is half
    plain = choose.fit_to_graph(half, "optimum", "auto")
    assert plain.weights == "fp32"
    assert plain.notes[0].startswith("fp32 in place of fp16: only fused graphs")
    with pytest.raises(ConfigError, match="--weights fp16 needs a fused graph"):
        choose.fit_to_graph(half, "optimum", "fp16")
    int4 = choose.choose_weights("int4", None, None)
    assert choose.fit_to_graph(int4, "optimum", "int4") is int4


NEW, OLD = "1.27.0", "1.26.0"
"""Versions of onnxruntime with and without a cache of 8 bits on CPUs."""


@pytest.mark.parametrize(
    ("wanted", "weights", "graph", "profile", "onnxruntime", "expected"),
    [
        ("auto", "int4", "fused", None, NEW, "int8"),
        ("auto", "int8", "fused", "raspberry-pi-5", "1.31.1", "int8"),
        ("auto", "int8-dynamic", "fused", "raspberry-pi-4", "2.0", "int8"),
        ("auto", "int4", "fused", None, OLD, "fp32"),
        ("auto", "int4", "fused", "jetson-orin-nano", NEW, "fp32"),
        ("auto", "int4", "optimum", None, NEW, "fp32"),
        ("auto", "fp32", "fused", None, NEW, "fp32"),
        ("auto", "fp16", "fused", "jetson-orin-nano", NEW, "fp16"),
        ("fp32", "int4", "fused", None, NEW, "fp32"),
        ("int8", "fp32", "fused", None, NEW, "int8"),
        ("int8", "int4", "fused", "jetson-orin-nano", NEW, "int8"),
    ],
)
def test_the_cache_has_8_bits_where_the_device_reads_them(
    wanted: str, weights: str, graph: str, profile: str | None, onnxruntime: str, expected: str
) -> None:
    assert choose.choose_cache(wanted, weights, graph, profile, onnxruntime) == expected


@pytest.mark.parametrize(
    ("wanted", "weights", "graph", "onnxruntime", "why"),
    [
        ("int8", "int4", "optimum", NEW, "--cache int8 needs a fused graph"),
        ("int8", "int4", "fused", OLD, r"onnxruntime 1\.27 on CPUs, and here is 1\.26"),
        ("int8", "fp16", "fused", NEW, "with fp16 weights the cache is of fp16"),
        ("fp32", "fp16", "fused", NEW, "with fp16 weights the cache is of fp16"),
    ],
)  # fmt: skip
def test_a_cache_that_cannot_be_had_is_refused(
    wanted: str, weights: str, graph: str, onnxruntime: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        choose.choose_cache(wanted, weights, graph, None, onnxruntime)


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match="pi-of-pies"):
        choose.choose_weights("auto", None, "pi-of-pies")


@pytest.mark.parametrize(
    ("wanted", "config", "expected"),
    [
        ("auto", {"model_type": "llama"}, "fused"),
        ("fused", {"model_type": "llama"}, "fused"),
        ("optimum", {"model_type": "llama"}, "optimum"),
        ("auto", {"model_type": "gpt2"}, "optimum"),
        ("auto", {"model_type": "llama", "hidden_act": "relu2"}, "optimum"),
        ("auto", {"model_type": "llama", "head_dim": 20}, "optimum"),
        ("auto", {"model_type": "phi3", "partial_rotary_factor": 0.5}, "optimum"),
        ("auto", {"model_type": "gemma3_text", "use_bidirectional_attention": True}, "optimum"),
    ],
)
def test_the_graph_is_fused_where_it_can_be(
    wanted: str, config: dict[str, Any], expected: str
) -> None:
    assert choose.choose_graph(wanted, checkpoint(**config)) == expected


def test_a_fused_graph_that_cannot_be_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"activation relu2 is not one of .*--graph optimum"):
        choose.choose_graph("fused", checkpoint(model_type="llama", hidden_act="relu2"))


@pytest.mark.parametrize(
    ("weights", "level", "cache", "calibration", "profile", "notes"),
    [
        ("fp32", 4, "fp32", "file.txt", None, [
            "--accuracy-level 4 changes nothing: it is for weights of int8 or int4, and",
            "--calibration file.txt was not read: nothing is fitted where weights are fp32",
        ]),
        ("int8-dynamic", 0, "int8", "file.txt", None, ["--accuracy-level 0 changes nothing"]),
        ("int8", 1, "fp32", "none", None, []),
        ("int4", None, "int8", "file.txt", "raspberry-pi-5", []),
        ("fp32", None, "fp32", "own", "raspberry-pi-4", []),
        ("fp16", None, "fp16", "own", "raspberry-pi-5", [
            "fp16 is for a GPU, and onnxruntime has none on raspberry-pi-5; export with --weights int4",
        ]),
        ("fp16", None, "fp16", "own", "jetson-orin-nano", []),
        ("int4", 4, "int8", "own", "raspberry-pi-4", ["--accuracy-level 4 changes nothing on "]),
        ("int4", 4, "int8", "own", "raspberry-pi-5", []),
        ("int4", 4, "int8", "own", "generic-x86", []),
        ("int4", 1, "int8", "own", "raspberry-pi-4", []),
        ("int4", None, "int8", "own", "jetson-orin-nano", [
            "a cache of int8 needs onnxruntime 1.27, and JetPack 6 on jetson-orin-nano gets none that",
        ]),
    ],
)  # fmt: skip
def test_options_that_do_nothing_or_do_not_suit_the_device_are_told(
    weights: str,
    level: int | None,
    cache: str,
    calibration: str,
    profile: str | None,
    notes: list[str],
) -> None:
    read = choose.choose_calibration(calibration, weights, cache)
    choice = choose.Choice("fused", weights, 4 if level is None else level, cache, read, 256)
    found = choose.doubts(choice, level, calibration, profile)
    assert len(found) == len(notes)
    assert all(map(str.startswith, found, notes))


@pytest.mark.parametrize("name", hw_profiles.names())
def test_what_a_profile_asks_for_suits_it(name: str) -> None:
    chosen = choose.choose_weights("auto", None, name)
    cache = choose.choose_cache("auto", chosen.weights, "fused", name, NEW)
    read = choose.choose_calibration("own", chosen.weights, cache)
    choice = choose.Choice("fused", chosen.weights, chosen.accuracy_level, cache, read, 256)
    assert choose.doubts(choice, None, "own", name) == ()


@pytest.mark.parametrize(
    ("wanted", "made_for", "expected"), [(None, 256, 256), (None, 131072, 8192), (16, 256, 16),
                                         (131072, 131072, 131072)]
)  # fmt: skip
def test_the_context_is_the_models_up_to_a_default(
    wanted: int | None, made_for: int, expected: int
) -> None:
    assert choose.choose_context(wanted, made_for) == expected
