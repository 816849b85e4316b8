"""Which of onnxruntime's execution providers runs a bundle, and with which options.

CUDA and TensorRT follow onnxruntime's documented interface; neither was run on hardware.
"""

from __future__ import annotations

from collections.abc import Sequence

from device_runtime.measured_file import bundle_key, cache_folder
from device_runtime.protocol.manifest import Manifest
from device_runtime.settings import RuntimeSettings
from hw_profiles.schema import CPU, CUDA, GPU_PROVIDERS, TENSORRT

UNSPOKEN_WISH = (CUDA, CPU)
"""Where the settings name none: a GPU that is not there is then no news."""

Provider = tuple[str, dict[str, str]]
"""Name and options, as onnxruntime takes them."""


def choose_providers(
    available: Sequence[str], manifest: Manifest, settings: RuntimeSettings, max_len: int
) -> tuple[list[Provider], list[str]]:
    """The wished providers that can run this graph here, and a sentence on each other one.

    They stand in the order of the wish, the CPU last.
    """
    chosen: list[Provider] = []
    passed_over: list[str] = []
    for name in settings.providers or UNSPOKEN_WISH:
        if name == CPU or (name not in available and not settings.providers):
            continue
        if (reason := _obstacle(name, available, manifest)) is not None:
            passed_over.append(f"{name} is passed over: {reason}.")
        elif name == TENSORRT:
            chosen.append((name, _tensorrt_options(manifest, settings, max_len)))
        else:
            # By default the arena doubles: on a Jetson it takes the memory that everything shares.
            chosen.append((name, {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"}))
    return [*chosen, (CPU, {})], passed_over


def _obstacle(name: str, available: Sequence[str], manifest: Manifest) -> str | None:
    """Why this provider cannot run the graph here, and what would help; None where it can."""
    weights = manifest.weights
    if name not in GPU_PROVIDERS:
        return "Tandem drives the CPU, CUDA and TensorRT"
    if name not in available:
        return (
            f"this onnxruntime has {' and '.join(available)} only; install onnxruntime-gpu in its "
            "place, on a Jetson NVIDIA's own build"
        )
    if name == TENSORRT and (manifest.graph == "fused" or weights != "fp32"):
        what = (
            "GroupQueryAttention" if manifest.graph == "fused" else f"products of {weights} weights"
        )
        return f"it has no {what}; export the model with --graph optimum --weights fp32"
    if manifest.graph == "fused" and manifest.cache_dtype != "float16":
        return (
            f"CUDA's GroupQueryAttention is for float16, and the {weights} weights of this bundle "
            "work with float32; export the model with --weights fp16"
        )
    if weights == "int8-dynamic":
        return "CUDA has no products of int8-dynamic weights; export the model with other weights"
    return None


def _tensorrt_options(
    manifest: Manifest, settings: RuntimeSettings, max_len: int
) -> dict[str, str]:
    """Half precision, engines kept between runs, and one engine for all lengths.

    Without a range of shapes it would build a new engine whenever a text gets longer.
    """
    chunk = min(settings.prefill_chunk, max_len)
    shapes = {
        "min": _shapes(manifest, num_tokens=1, num_past=0),
        "opt": _shapes(manifest, num_tokens=1, num_past=max_len // 2),
        "max": _shapes(manifest, num_tokens=chunk, num_past=max_len),
    }
    return {
        "device_id": "0",
        "trt_fp16_enable": "True",
        **_engine_cache(manifest),
        **{f"trt_profile_{end}_shapes": text for end, text in shapes.items()},
    }


def _shapes(manifest: Manifest, num_tokens: int, num_past: int) -> str:
    """`name:1x2x3,…` of every input."""
    sizes: dict[str, tuple[int, ...]] = {manifest.input_ids_name: (1, num_tokens)}
    if manifest.attention_mask_name is not None:
        sizes[manifest.attention_mask_name] = (1, num_past + num_tokens)
    if manifest.position_ids_name is not None:
        sizes[manifest.position_ids_name] = (1, num_tokens)
    cache = (1, manifest.num_kv_heads, num_past, manifest.head_size)
    for layer in range(manifest.num_layers):
        for pattern in (manifest.past_key_pattern, manifest.past_value_pattern):
            sizes[pattern % layer] = cache
    return ",".join(f"{name}:{'x'.join(map(str, size))}" for name, size in sizes.items())


def _engine_cache(manifest: Manifest) -> dict[str, str]:
    """The user's own, by the bundle's files: an engine is code, so none comes with a bundle.

    Without a home folder, or with one that must not be written, engines are built for each run.
    """
    try:
        folder = cache_folder() / "tensorrt" / bundle_key(manifest.files)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):
        return {}
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }
