"""Write a decoder as a fused graph: GroupQueryAttention appends to one past/present buffer.

Rotary positions lie inside the attention operator; queries, keys and values come from one product,
gate and up from another; each norm adds the residual. The graph gives logits of every token that is
run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper

from device_runtime.protocol.runtime_versions import WINDOW_KEY
from export.cache_scales import CacheScales
from export.decoder import Attention, Decoder, Floats, Layer, Mlp, Norm, Rotary
from export.onnx_writer import MICROSOFT, OnnxWriter
from export.weight_formats import WeightFormat, weight_format

LAST_POSITION, NUM_POSITIONS = "last_position", "num_positions"
"""Inputs in place of a mask and of positions, both of which would grow with the text."""
_GELU = {"gelu": "none", "gelu_tanh": "tanh"}


def write(
    decoder: Decoder,
    path: Path,
    weights: str,
    accuracy_level: int,
    scales: Sequence[CacheScales] | None = None,
) -> None:
    """Write the ONNX file and its data; `weights` as `--weights` names it.

    With scales, one for each layer, the cache holds 8 bits; else what flows through the graph.
    """
    with OnnxWriter(path) as writer:
        fmt = weight_format(writer, weights, accuracy_level)
        _Graph(writer, decoder, fmt, scales).write()
        cache_dtype = fmt.dtype if scales is None else np.dtype(np.int8)
        cache_type = helper.np_dtype_to_tensor_dtype(cache_dtype)
        windows = [layer.attention.window for layer in decoder.layers if layer.attention.window]
        metadata = {WINDOW_KEY: str(min(windows))} if windows else {}
        inputs, outputs = _inputs(decoder, cache_type), _outputs(decoder, cache_type)
        writer.save(inputs, outputs, metadata=metadata)


class _Graph:
    def __init__(
        self,
        writer: OnnxWriter,
        decoder: Decoder,
        weights: WeightFormat,
        scales: Sequence[CacheScales] | None,
    ) -> None:
        self._writer = writer
        self._decoder = decoder
        self._weights = weights
        self._scales = scales
        self._rotary = self._tables(decoder.rotary, "rotary")
        local = decoder.local_rotary
        self._local_rotary = self._rotary if local is None else self._tables(local, "local_rotary")

    def write(self) -> None:
        """All nodes from ids to logits."""
        decoder = self._decoder
        added = self._weights.embed("input_ids", decoder.embedding, "embedding")
        if decoder.embedding_scale != 1:
            scale = self._weights.dtype.type(decoder.embedding_scale)
            added = self._scaled(added, scale, "embedding.scaled")
        stream = ""
        for index, layer in enumerate(decoder.layers):
            stream, added = self._layer(stream, added, layer, index)
        _, normed = self._add_and_norm(stream, added, decoder.final_norm, "final")
        self._head(normed)

    def _head(self, normed: str) -> None:
        """Logits in float32, whatever the rest of the graph computes in."""
        decoder, writer = self._decoder, self._writer
        head = self._weights.tied if decoder.is_tied else self._weights.linear
        logits = "logits.raw" if decoder.logit_softcap else "logits"
        if self._weights.dtype == np.float32:
            head(normed, decoder.head, logits)
        else:
            half = head(normed, decoder.head, "logits.half")
            writer.op("Cast", half, name=logits, to=TensorProto.FLOAT)
        if decoder.logit_softcap:
            one = np.float32(1)
            small = self._scaled(logits, one / decoder.logit_softcap, "logits.small")
            capped = writer.op("Tanh", small, name="logits.capped")
            self._scaled(capped, one * decoder.logit_softcap, "logits")

    def _layer(self, stream: str, added: str, layer: Layer, index: int) -> tuple[str, str]:
        """The residual stream after the attention, and what the MLP adds to it."""
        name = f"layers.{index}"
        stream, x = self._add_and_norm(stream, added, layer.attention_norm, f"{name}.attention")
        added = self._attention(x, layer.attention, index)
        if layer.after_attention is not None:
            added = self._norm(added, layer.after_attention, f"{name}.after_attention")
        stream, x = self._add_and_norm(stream, added, layer.mlp_norm, f"{name}.mlp")
        added = self._mlp(x, layer.mlp, f"{name}.mlp")
        if layer.after_mlp is not None:
            added = self._norm(added, layer.after_mlp, f"{name}.after_mlp")
        return stream, added

    def _add_and_norm(self, stream: str, added: str, norm: Norm, name: str) -> tuple[str, str]:
        """(stream + added, its norm); there is no stream yet before the first layer."""
        if not stream:
            return added, self._norm(added, norm, f"{name}.norm")
        normed, _, _, total = self._writer.ops(
            "SkipSimplifiedLayerNormalization",
            *(stream, added, self._floats(f"{name}.norm.weight", norm.weight)),
            outputs=[f"{name}.norm", "", "", f"{name}.stream"],
            domain=MICROSOFT,
            epsilon=norm.epsilon,
        )
        return total, normed

    def _norm(self, x: str, norm: Norm, name: str) -> str:
        weight = self._floats(f"{name}.weight", norm.weight)
        return self._writer.op(
            "SimplifiedLayerNormalization",
            *(x, weight),
            name=name,
            axis=-1,
            epsilon=norm.epsilon,
            stash_type=1,
        )

    def _attention(self, x: str, attention: Attention, index: int) -> str:
        name = f"layers.{index}.attention"
        parts = ("key", "value")
        past = [f"past_key_values.{index}.{part}" for part in parts]
        present = [f"present.{index}.{part}" for part in parts]
        qkv = self._weights.linear(x, attention.qkv, f"{name}.qkv")
        scales, rounding = self._cache_rounding(name, index)
        mixed, *_ = self._writer.ops(
            "GroupQueryAttention",
            *self._heads(qkv, attention, name),
            *(*past, LAST_POSITION, NUM_POSITIONS),
            *(self._local_rotary if attention.is_local else self._rotary),
            *scales,
            outputs=[f"{name}.mixed", *present],
            domain=MICROSOFT,
            num_heads=self._decoder.num_heads,
            kv_num_heads=self._decoder.num_kv_heads,
            do_rotary=1,
            scale=attention.scale,
            softcap=attention.softcap,
            local_window_size=attention.window or -1,
            **rounding,
        )
        return self._weights.linear(mixed, attention.output, f"{name}.output")

    def _cache_rounding(self, name: str, index: int) -> tuple[list[str], dict[str, Any]]:
        """Further inputs and attributes of an attention whose keys and values are stored in 8 bits."""
        if self._scales is None:
            return [], {}
        own = self._scales[index]
        key = self._writer.weight(f"{name}.key_scale", own.key)
        value = self._writer.weight(f"{name}.value_scale", own.value)
        kinds = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
        # Between rotary tables and scales: positions, an attention bias, sinks.
        return ["", "", "", key, value], {**kinds, "kv_cache_bit_width": 8}

    def _heads(self, qkv: str, attention: Attention, name: str) -> tuple[str, str, str]:
        """Query, key and value: packed as they came, or apart where heads are normed."""
        if attention.q_norm is None or attention.k_norm is None:
            return qkv, "", ""
        writer, size = self._writer, self._decoder.head_size
        heads = (self._decoder.num_heads, *(self._decoder.num_kv_heads,) * 2)
        sizes = writer.weight(f"{name}.sizes", np.array([n * size for n in heads], np.int64))
        query, key, value = writer.ops(
            "Split", qkv, sizes, outputs=[f"{name}.{part}" for part in "qkv"], axis=-1
        )
        query = self._norm_heads(query, attention.q_norm, f"{name}.q_norm")
        return query, self._norm_heads(key, attention.k_norm, f"{name}.k_norm"), value

    def _norm_heads(self, x: str, norm: Norm, name: str) -> str:
        writer, size = self._writer, self._decoder.head_size
        apart = writer.weight(f"{name}.apart", np.array([0, 0, -1, size], np.int64))
        heads = writer.op("Reshape", x, apart, name=f"{name}.heads")
        together = writer.weight(f"{name}.together", np.array([0, 0, -1], np.int64))
        normed = self._norm(heads, norm, name)
        return writer.op("Reshape", normed, together, name=f"{name}.row")

    def _mlp(self, x: str, mlp: Mlp, name: str) -> str:
        writer = self._writer
        both = self._weights.linear(x, mlp.gate_up, f"{name}.gate_up")
        gate, up = writer.ops(
            "Split", both, outputs=[f"{name}.gate", f"{name}.up"], axis=-1, num_outputs=2
        )
        if mlp.activation == "silu":
            active = writer.op(
                "QuickGelu", gate, name=f"{name}.active", domain=MICROSOFT, alpha=1.0
            )
        else:
            approximate = _GELU[mlp.activation]
            active = writer.op("Gelu", gate, name=f"{name}.active", approximate=approximate)
        product = writer.op("Mul", active, up, name=f"{name}.product")
        return self._weights.linear(product, mlp.down, f"{name}.down")

    def _scaled(self, x: str, factor: np.floating[Any], name: str) -> str:
        weight = self._writer.weight(f"{name}.factor", np.asarray(factor))
        return self._writer.op("Mul", x, weight, name=name)

    def _floats(self, name: str, array: Floats) -> str:
        """A weight in the type that flows through the graph."""
        return self._writer.weight(name, array.astype(self._weights.dtype))

    def _tables(self, rotary: Rotary, name: str) -> tuple[str, str]:
        return self._floats(f"{name}.cos", rotary.cos), self._floats(f"{name}.sin", rotary.sin)


def _inputs(decoder: Decoder, cache_type: int) -> list[ValueInfoProto]:
    return [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "num_tokens"]),
        helper.make_tensor_value_info(LAST_POSITION, TensorProto.INT32, [1]),
        helper.make_tensor_value_info(NUM_POSITIONS, TensorProto.INT32, []),
        *_cache(decoder, cache_type, "past_key_values", "past_len"),
    ]


def _outputs(decoder: Decoder, cache_type: int) -> list[ValueInfoProto]:
    shape: list[str | int | None] = [1, "num_tokens", len(decoder.head.weight)]
    return [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape),
        *_cache(decoder, cache_type, "present", "present_len"),
    ]


def _cache(decoder: Decoder, element: int, prefix: str, length: str) -> list[ValueInfoProto]:
    shape: list[str | int | None] = [1, decoder.num_kv_heads, length, decoder.head_size]
    return [
        helper.make_tensor_value_info(f"{prefix}.{index}.{part}", element, shape)
        for index in range(len(decoder.layers))
        for part in ("key", "value")
    ]
