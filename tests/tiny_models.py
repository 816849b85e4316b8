"""Tiny random checkpoints in the layout of the Hugging Face hub, made where a test needs them.

The weights are drawn wide (standard deviation 0.2), so that laws have 4.7 of 5.9 nats of entropy,
greedy text does not settle into a loop, and the top two logits lie 1e-3 apart (the least of 500
positions; float32 kernels differ by 1e-5). The tokenizer is a real byte-level BPE: any text
round-trips.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

END, START, USER, ASSISTANT = "<|end|>", "<|start|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [END, START, USER, ASSISTANT]
END_ID, START_ID = 0, 1
NUM_TOKENS = 384
"""Ids the tokenizer defines: 4 special, 256 bytes, 124 merges."""
CONTEXT_LEN = 256

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

TEXT = [
    "The miller gave the youngest son a cat, and the cat asked for a pair of boots.",
    "She counted 12 stones, 7 feathers and 365 steps; then the door opened, and there was light.",
    "“Who is there?” asked the fox. — “Only the wind,” said the wind, “only the wind.”",
    "def twice(x):\n    return x + x  # the same thing again\n",
    "Der Bär trägt süße Äpfel über die Brücke. Où est passé le garçon à l'œil bleu ?",
    "狐狸走过桥 🦊🌉 and the fox went over the bridge again, 🙂 twice over the bridge.",
]

_LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": CONTEXT_LEN,
    "tie_word_embeddings": False,
}
_NEOX = {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT_LEN},
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 16},
    "phi3": {**_LLAMA, "pad_token_id": END_ID},
    "gemma": {**_LLAMA, "head_dim": 16},
    "gemma2": {**_LLAMA, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32},
    "gemma3_text": {**_LLAMA, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32},
    "mistral": {**_LLAMA, "sliding_window": 32},
    "opt": {**_NEOX, "word_embed_proj_dim": 64, "ffn_dim": 128, "init_std": 0.2},
    "gpt_neox": _NEOX,
}
"""Config of each tiny architecture, by `model_type`. Two layers, four heads of 16."""


@cache
def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE of NUM_TOKENS ids, the special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TOKENS,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    assert tokenizer.get_vocab_size() == NUM_TOKENS
    return tokenizer


def tiny_model(
    model_type: str = "llama", *, num_padding: int = 0, seed: int = 0, **config: Any
) -> PreTrainedModel:
    """A random float32 model of one of ARCHITECTURES, in eval mode.

    `num_padding` rows of the vocabulary stand for no token, as in padded checkpoints; being as
    random as the others they do win now and then. `config` overrides the architecture's settings.
    """
    settings = {
        "vocab_size": NUM_TOKENS + num_padding,
        "initializer_range": 0.2,
        "bos_token_id": START_ID,
        "eos_token_id": END_ID,
        "pad_token_id": None,
        **ARCHITECTURES[model_type],
        **config,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto: Any = AutoModelForCausalLM
        random: Any = auto.from_config(AutoConfig.for_model(model_type, **settings))
    model: PreTrainedModel = random.eval()
    return model


def with_noise(model: PreTrainedModel, scale: float, seed: int = 1) -> PreTrainedModel:
    """A copy whose matrices got Gaussian noise of `scale` × their own standard deviation.

    alpha (mean 1 − D at temperature 1, on the model's own text) and the share of positions with the
    same greedy token, for llama (tied or not) and qwen2, and for gpt2:
    0.02: .91, .79 and .95, .86 · 0.05: .80, .55 and .88, .72 · 0.1: .64, .31 and .77, .53 ·
    0.2: .45, .12 and .60, .28.
    """
    noisy = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in noisy.parameters():
            if weight.ndim > 1:
                noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                weight.add_(scale * weight.std() * noise)
    return noisy


def save_checkpoint(
    model: PreTrainedModel,
    folder: Path,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    dtype: torch.dtype = torch.float32,
    max_shard_size: int | str = "5GB",
) -> Path:
    """Write weights (safetensors of `dtype`), configs and tokenizer; returns the folder."""
    cast: Any = copy.deepcopy(model)
    cast.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    fast: Any = PreTrainedTokenizerFast
    fast(
        tokenizer_object=tiny_tokenizer(),
        bos_token=START,
        eos_token=END,
        chat_template=chat_template,
        model_max_length=CONTEXT_LEN,
    ).save_pretrained(folder)
    return folder
