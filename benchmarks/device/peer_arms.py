"""The contenders of other projects; each does the same work: one token in, logits, their largest.

Runs under a Python that has them: only numpy is imported before an arm is chosen. The ways to call
them are the fastest that their documentation shows for greedy text at batch 1.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


class _Peer:
    kinds: dict[str, Callable[[int], list[float]]] = {}  # noqa: RUF012 -- none has any


class GenaiArm(_Peer):
    """onnxruntime-genai's generator on the graph of its own model builder."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import onnxruntime_genai as genai

        self.version = f"onnxruntime-genai {version('onnxruntime-genai')}"
        path = Path(spec["model"], "genai_config.json")
        config = json.loads(path.read_text())
        options = config["model"]["decoder"]["session_options"]
        options["intra_op_num_threads"] = spec["num_threads"]
        path.write_text(json.dumps(config))
        self.vocab_size = config["model"]["vocab_size"]
        self._genai, self._model = genai, genai.Model(spec["model"])
        self._max_length = spec["max_tokens"]

    def prefill(self, ids: list[int]) -> int:
        params = self._genai.GeneratorParams(self._model)
        # min_length: no end token may stop the text.
        length = self._max_length
        params.set_search_options(do_sample=False, max_length=length, min_length=length)
        self._generator = self._genai.Generator(self._model, params)
        self._generator.append_tokens(np.array(ids, np.int32))
        return self.step(0)

    def step(self, token_id: int) -> int:
        """The generator feeds its own last token; it looks for the largest logit by itself."""
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])


class TransformersArm(_Peer):
    """transformers on torch, float32; its StaticCache attends to the whole length and is slower."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, DynamicCache

        self.version = f"transformers {version('transformers')}, torch {torch.__version__}"
        torch.set_num_threads(spec["num_threads"])
        torch.set_grad_enabled(False)
        auto: Any = AutoModelForCausalLM
        self._model = auto.from_pretrained(spec["model"], dtype=torch.float32).eval()
        self.vocab_size = self._model.config.vocab_size
        self._torch, self._new_cache = torch, DynamicCache

    def prefill(self, ids: list[int]) -> int:
        self._cache = self._new_cache()
        return self._run(ids)

    def step(self, token_id: int) -> int:
        return self._run([token_id])

    def _run(self, ids: list[int]) -> int:
        out = self._model(
            input_ids=self._torch.tensor([ids]), past_key_values=self._cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        return int(out.logits[0, -1].argmax())


class OptimumArm(_Peer):
    """optimum's ORTModelForCausalLM."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import onnxruntime as ort
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        self.version = f"optimum-onnx {version('optimum-onnx')}, onnxruntime {ort.__version__}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = spec["num_threads"]
        self._model = ORTModelForCausalLM.from_pretrained(
            spec["model"], file_name="model.onnx", session_options=options, use_io_binding=True
        )
        self.vocab_size = self._model.config.vocab_size
        self._torch = torch

    def prefill(self, ids: list[int]) -> int:
        self._past, self._length = None, 0
        return self._run(ids)

    def step(self, token_id: int) -> int:
        return self._run([token_id])

    def _run(self, ids: list[int]) -> int:
        torch = self._torch
        self._length += len(ids)
        positions = torch.arange(self._length - len(ids), self._length)[None]
        mask = torch.ones(1, self._length, dtype=torch.int64)
        out = self._model(
            input_ids=torch.tensor([ids]), attention_mask=mask, position_ids=positions,
            past_key_values=self._past, use_cache=True,
        )  # fmt: skip
        self._past = out.past_key_values
        return int(out.logits[0, -1].argmax())


class LlamaCppArm(_Peer):
    """llama.cpp through the C functions that llama-cpp-python exposes."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import llama_cpp as lib

        self._lib = lib
        self.version = f"llama-cpp-python {version('llama-cpp-python')}"
        lib.llama_backend_init()
        path = str(spec["model"]).encode()
        self._model = lib.llama_model_load_from_file(path, lib.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {spec['model']}")
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = spec["max_tokens"]
        params.n_threads = params.n_threads_batch = spec["num_threads"]
        self._context = lib.llama_init_from_model(self._model, params)
        self.vocab_size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))

    def prefill(self, ids: list[int]) -> int:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        return self._run(ids)

    def step(self, token_id: int) -> int:
        return self._run([token_id])

    def _run(self, ids: list[int]) -> int:
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        if self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("llama_decode failed")
        logits = self._lib.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(logits, (self.vocab_size,)).argmax())


ARMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "genai": GenaiArm,
    "transformers": TransformersArm,
    "optimum": OptimumArm,
    "llama.cpp": LlamaCppArm,
}
