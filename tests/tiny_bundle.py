"""Tiny random bundles for tests: a Llama-like decoder as ONNX, written without torch.

`optimum` and `fused` bundles of one seed hold the same weights, so their logits can be compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from device_runtime.bundle import save_manifest, sha256
from device_runtime.protocol.manifest import FORMAT_VERSION, Manifest

SPECIALS = ("<|end|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "th e", "Ġ the", "i n", "Ġ a", "a n", "an d", "Ġ t", "o u", "Ċ Ċ")
HOLE = "Ġhole"
"""In place of a token that the tokenizer does not define, just before its last one."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class TinyShape:
    """Sizes of the decoder; head_size is a multiple of 16, as fused rotary positions ask for."""

    vocab_size: int = 320
    """Columns of the logits; the tokenizer defines fewer."""
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 16
    mlp_size: int = 96
    context_len: int = 64

    @property
    def hidden_size(self) -> int:
        return self.num_heads * self.head_size


def make_bundle(
    folder: Path, graph: str = "fused", shape: TinyShape | None = None, seed: int = 0
) -> Path:
    """Write a bundle of that graph kind with all its files; returns the folder."""
    shape = shape or TinyShape()
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(decoder(graph, shape, seed), folder / "model.onnx")
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    write_manifest(folder, graph, shape)
    return folder


def write_manifest(folder: Path, graph: str, shape: TinyShape) -> None:
    """Record the folder's files as they are now."""
    files = {path.name: sha256(path) for path in folder.iterdir() if path.name != "manifest.json"}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source="tiny random decoder",
        architecture="llama",
        graph=graph,
        weights="fp32",
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_size=shape.head_size,
        vocab_size=shape.vocab_size,
        context_len=shape.context_len,
        bos_token_id=None,
        end_token_ids=(0,),
        cache_dtype="float32",
        logits_dtype="float32",
        input_ids_name="input_ids",
        attention_mask_name="attention_mask" if graph == "optimum" else None,
        position_ids_name="position_ids" if graph == "optimum" else None,
        last_position_name="last_position" if graph == "fused" else None,
        num_positions_name="num_positions" if graph == "fused" else None,
        logits_name="logits",
        past_key_pattern="past_key_values.%d.key",
        past_value_pattern="past_key_values.%d.value",
        present_key_pattern="present.%d.key",
        present_value_pattern="present.%d.value",
        files=files,
        tool_versions={},
    )
    save_manifest(manifest, folder)


def byte_level_tokenizer() -> str:
    """tokenizer.json: a byte-level BPE over all bytes, a few merges, special tokens and a hole."""
    tokens = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [merge.replace(" ", "") for merge in MERGES[:-1]]
    tokens += [HOLE, MERGES[-1].replace(" ", "")]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [(left, right) for left, right in (merge.split(" ") for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIALS])
    content = json.loads(tokenizer.to_str())
    del content["model"]["vocab"][HOLE]
    return json.dumps(content)


def decoder(graph: str, shape: TinyShape, seed: int) -> onnx.ModelProto:
    """The decoder with a growing cache (`optimum`) or one shared past/present buffer (`fused`)."""
    writer = _Writer(shape, np.random.default_rng(seed))
    attend = _ConcatAttention(writer) if graph == "optimum" else _FusedAttention(writer)
    hidden = writer.op(
        "Gather", writer.weight("embed", shape.vocab_size, shape.hidden_size), "input_ids"
    )
    for layer in range(shape.num_layers):
        hidden = _block(writer, attend, hidden, layer)
    head = writer.weight("head", shape.hidden_size, shape.vocab_size)
    writer.op("MatMul", writer.norm(hidden), head, output="logits")
    return writer.model(fused=graph == "fused")


def _block(
    writer: _Writer, attend: _ConcatAttention | _FusedAttention, hidden: str, layer: int
) -> str:
    shape, size = writer.shape, writer.shape.hidden_size
    kv_size = shape.num_kv_heads * shape.head_size
    normed = writer.norm(hidden)
    query, key, value = (
        writer.op("MatMul", normed, writer.weight(f"{name}{layer}", size, width))
        for name, width in (("q", size), ("k", kv_size), ("v", kv_size))
    )
    mixed = writer.op(
        "MatMul", attend(query, key, value, layer), writer.weight(f"o{layer}", size, size)
    )
    hidden = writer.op("Add", hidden, mixed)
    normed = writer.norm(hidden)
    gate = writer.op("MatMul", normed, writer.weight(f"gate{layer}", size, shape.mlp_size))
    up = writer.op("MatMul", normed, writer.weight(f"up{layer}", size, shape.mlp_size))
    active = writer.op("Mul", writer.op("Mul", gate, writer.op("Sigmoid", gate)), up)
    down = writer.op("MatMul", active, writer.weight(f"down{layer}", shape.mlp_size, size))
    return writer.op("Add", hidden, down)


@dataclass
class _Writer:
    """Collects nodes and weights; every method returns the name of a tensor."""

    shape: TinyShape
    random: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        return self.ops(kind, *inputs, outputs=(output or f"t{len(self.nodes)}",), **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: tuple[str, ...], **attributes: Any
    ) -> tuple[str, ...]:
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def const(self, value: Any, dtype: Any = np.int64) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, name: str, rows: int, columns: int) -> str:
        # Drawn in the order of use, which is the same in both graphs; columns give unequal logits.
        values = self.random.normal(0, 1.5 / np.sqrt(rows), (rows, columns)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def norm(self, hidden: str) -> str:
        square = self.op("Mul", hidden, hidden)
        mean = self.op("ReduceMean", square, self.const([-1]), keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, self.const(1e-5, np.float32)))
        return self.op("Div", hidden, root)

    def rotary_tables(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """cos and sin (context, head_size / 2)."""
        half = self.shape.head_size // 2
        rates = 10_000.0 ** (-np.arange(half) / half)
        angles = np.outer(np.arange(self.shape.context_len), rates)
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def model(self, fused: bool) -> onnx.ModelProto:
        shape, kind = self.shape, TensorProto.FLOAT
        past, present = (
            [1, shape.num_kv_heads, length, shape.head_size] for length in ("past_len", "total_len")
        )
        pairs = [(i, part) for i in range(shape.num_layers) for part in ("key", "value")]
        info = helper.make_tensor_value_info
        if fused:
            lengths = [info("last_position", TensorProto.INT32, [1])]
            lengths += [info("num_positions", TensorProto.INT32, [])]
        else:
            masks = ("attention_mask", "position_ids")
            lengths = [info(name, TensorProto.INT64, [1, f"{name}_len"]) for name in masks]
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [info("input_ids", TensorProto.INT64, [1, "input_ids_len"]), *lengths]
            + [info(f"past_key_values.{i}.{part}", kind, past) for i, part in pairs],
            [info("logits", kind, [1, "input_ids_len", shape.vocab_size])]
            + [info(f"present.{i}.{part}", kind, present) for i, part in pairs],
            self.weights,
        )
        domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        # An old file version, so that every supported onnxruntime reads it.
        return helper.make_model(graph, opset_imports=domains, ir_version=9)


class _FusedAttention:
    """GroupQueryAttention with rotary positions inside."""

    def __init__(self, writer: _Writer) -> None:
        self._writer = writer
        cos, sin = writer.rotary_tables()
        self._tables = writer.const(cos, np.float32), writer.const(sin, np.float32)

    def __call__(self, query: str, key: str, value: str, layer: int) -> str:
        writer, shape = self._writer, self._writer.shape
        parts = ("key", "value")
        past = (f"past_key_values.{layer}.{part}" for part in parts)
        present = (f"present.{layer}.{part}" for part in parts)
        return writer.ops(
            "GroupQueryAttention",
            *(query, key, value, *past, "last_position", "num_positions", *self._tables),
            outputs=(f"attended{layer}", *present),
            domain="com.microsoft",
            num_heads=shape.num_heads,
            kv_num_heads=shape.num_kv_heads,
            do_rotary=1,
        )[0]


class _ConcatAttention:
    """Attention spelt out, the cache grown by Concat, as optimum exports it."""

    def __init__(self, writer: _Writer) -> None:
        self._writer = writer
        heads = writer.const([1])
        self._cos, self._sin = (
            writer.op(
                "Unsqueeze",
                writer.op("Gather", writer.const(table, np.float32), "position_ids"),
                heads,
            )
            for table in writer.rotary_tables()
        )
        total = writer.op("Gather", writer.op("Shape", "attention_mask"), writer.const(1))
        keys = writer.op("Range", writer.const(0), total, writer.const(1))
        queries = writer.op("Unsqueeze", "position_ids", writer.const([1, 3]))
        seen = writer.op("LessOrEqual", keys, queries)
        self._mask = writer.op(
            "Where", seen, writer.const(0, np.float32), writer.const(-1e9, np.float32)
        )

    def __call__(self, query: str, key: str, value: str, layer: int) -> str:
        writer, shape = self._writer, self._writer.shape
        query = self._rotate(self._split_heads(query, shape.num_heads))
        key = self._grow(self._rotate(self._split_heads(key, shape.num_kv_heads)), layer, "key")
        value = self._grow(self._split_heads(value, shape.num_kv_heads), layer, "value")
        scores = writer.op("MatMul", query, writer.op("Transpose", key, perm=[0, 1, 3, 2]))
        scores = writer.op("Mul", scores, writer.const(shape.head_size**-0.5, np.float32))
        weights = writer.op("Softmax", writer.op("Add", scores, self._mask), axis=-1)
        mixed = writer.op("Transpose", writer.op("MatMul", weights, value), perm=[0, 2, 1, 3])
        return writer.op("Reshape", mixed, writer.const([1, -1, shape.hidden_size]))

    def _split_heads(self, rows: str, num_heads: int) -> str:
        writer = self._writer
        heads = writer.op("Reshape", rows, writer.const([1, -1, num_heads, writer.shape.head_size]))
        return writer.op("Transpose", heads, perm=[0, 2, 1, 3])

    def _rotate(self, rows: str) -> str:
        writer = self._writer
        names = f"low_{rows}", f"high_{rows}"
        low, high = writer.ops("Split", rows, outputs=names, axis=-1, num_outputs=2)
        turned_low = writer.op(
            "Sub", writer.op("Mul", low, self._cos), writer.op("Mul", high, self._sin)
        )
        turned_high = writer.op(
            "Add", writer.op("Mul", high, self._cos), writer.op("Mul", low, self._sin)
        )
        return writer.op("Concat", turned_low, turned_high, axis=-1)

    def _grow(self, new: str, layer: int, part: str) -> str:
        """Append to the cache and repeat each head for the query heads that share it."""
        writer, shape = self._writer, self._writer.shape
        past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
        writer.op("Concat", past, new, output=present, axis=2)
        shared_by = shape.num_heads // shape.num_kv_heads
        return writer.op(
            "Gather", present, writer.const(np.arange(shape.num_heads) // shared_by), axis=1
        )
