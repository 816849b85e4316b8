"""The numbers of the demo pair: two Llama-shaped models over one vocabulary, and their training."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import LlamaConfig

VOCAB_SIZE = 8192
CONTEXT_LEN = 1024


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of training with one shape of batch; share is a fraction of all steps."""

    share: float
    batch_size: int
    window_len: int


@dataclass(frozen=True, slots=True)
class Training:
    """Steps, warm-up and decay of the learning rate, regularisation.

    dropout acts on what each layer adds to the residual stream.
    """

    num_steps: int
    learning_rate: float
    phases: tuple[Phase, ...]
    dropout: float = 0.0
    weight_decay: float = 0.1
    embedding_weight_decay: float = 0.0
    warmup_steps: int = 60


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model and its training."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    training: Training

    def config(self) -> LlamaConfig:
        """The architecture as transformers reads it."""
        return LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=CONTEXT_LEN,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )


# Most steps see short windows, which are cheaper; the last ones teach positions up to CONTEXT_LEN.
# Dropout and decay keep the LLM from learning its text by heart: without them its loss on the last
# of 3.7 passes was 2.93 nats a token, and 3.79 on held-out text.
LLM = Recipe(
    320, 6, 5, 5, 896,
    Training(
        1700, 5e-3, (Phase(0.85, 16, 512), Phase(0.15, 8, 1024)),
        dropout=0.15, weight_decay=0.3, embedding_weight_decay=0.1,
    ),
)  # fmt: skip
SLM = Recipe(
    128, 2, 4, 2, 352,
    Training(1800, 6e-3, (Phase(0.85, 8, 512), Phase(0.15, 4, 1024))),
)  # fmt: skip

DISTILL_WEIGHT = 0.9
"""Weight of KL(LLM ‖ SLM) in the SLM's loss; the rest is cross-entropy on the text."""
