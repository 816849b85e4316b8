"""What a bundle's manifest says of the graph's tensors, compared with the graph itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from device_runtime.ort_session import Session
from device_runtime.protocol.errors import BundleError
from device_runtime.protocol.manifest import Manifest

_ORT_TYPES = {
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "int8": "tensor(int8)",
    "float16": "tensor(float16)",
    "float32": "tensor(float)",
}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Element type, as numpy names it, and sizes; None where every run has its own."""

    dtype: str
    shape: tuple[int | None, ...]

    def is_like(self, item: Any) -> bool:
        """Whether onnxruntime's description of a tensor leaves room for this one."""
        fixed = [
            (size, wanted)
            for size, wanted in zip(item.shape, self.shape, strict=False)
            if isinstance(size, int) and wanted is not None
        ]
        # An empty shape may be an unknown one.
        same_rank = len(item.shape) in (0, len(self.shape))
        same_sizes = all(size == wanted for size, wanted in fixed)
        return item.type == _ORT_TYPES[self.dtype] and same_rank and same_sizes

    def __str__(self) -> str:
        return f"{_ORT_TYPES[self.dtype]} {_in_words(self.shape)}"


def check_signature(session: Session, manifest: Manifest) -> None:
    """The graph has exactly the inputs of the manifest, and at least its outputs; else BundleError.

    onnxruntime would take most of what differs, and fail in the first run.
    """
    inputs, outputs = _inputs(manifest), _outputs(manifest)
    found_inputs, found_outputs = (
        {item.name: item for item in items}
        for items in (session.get_inputs(), session.get_outputs())
    )
    if wrong := (inputs.keys() ^ found_inputs.keys()) | (outputs.keys() - found_outputs.keys()):
        raise BundleError(
            f"manifest and graph disagree about {', '.join(sorted(wrong))}; export the model again"
        )
    for wanted, found in ((inputs, found_inputs), (outputs, found_outputs)):
        for name, tensor in wanted.items():
            if not tensor.is_like(item := found[name]):
                raise BundleError(
                    f"the graph has {name} as {item.type} {_in_words(item.shape)}, the manifest as "
                    f"{tensor}; export the model again"
                )


def cache_names(manifest: Manifest) -> list[tuple[str, str]]:
    """(past, present) names of every cache tensor."""
    patterns = (
        (manifest.past_key_pattern, manifest.present_key_pattern),
        (manifest.past_value_pattern, manifest.present_value_pattern),
    )
    layers = range(manifest.num_layers)
    return [(past % layer, present % layer) for layer in layers for past, present in patterns]


def _inputs(manifest: Manifest) -> dict[str, _Tensor]:
    per_token = _Tensor("int64", (1, None))
    single = {
        manifest.input_ids_name: per_token,
        manifest.attention_mask_name: per_token,
        manifest.position_ids_name: per_token,
        manifest.last_position_name: _Tensor("int32", (1,)),
        manifest.num_positions_name: _Tensor("int32", ()),
    }
    named = {name: tensor for name, tensor in single.items() if name is not None}
    return named | {past: _cache(manifest) for past, _ in cache_names(manifest)}


def _outputs(manifest: Manifest) -> dict[str, _Tensor]:
    logits = _Tensor(manifest.logits_dtype, (1, None, manifest.vocab_size))
    cache = {present: _cache(manifest) for _, present in cache_names(manifest)}
    return {manifest.logits_name: logits} | cache


def _cache(manifest: Manifest) -> _Tensor:
    return _Tensor(manifest.cache_dtype, (1, manifest.num_kv_heads, None, manifest.head_size))


def _in_words(shape: Any) -> str:
    return " × ".join(str(size) if isinstance(size, int) else "?" for size in shape) or "scalar"
