"""What sessions must know of the model, read from the checkpoint's own files."""

from __future__ import annotations

from pathlib import Path

from device_runtime.protocol.edge_states import EdgeFacts
from device_runtime.protocol.messages.fields import MAX_END_IDS, MAX_TEXT_BYTES, MAX_TOKENS
from device_runtime.protocol.start_tokens import TOKENIZER_ADVICE
from device_runtime.protocol.vocabulary import Entry, VocabularyHashes, read_vocabulary
from edge_server.checkpoint import Checkpoint, CheckpointError


def read_tokens(folder: Path) -> list[Entry]:
    """The tokenizer's tokens in id order; CheckpointError without a tokenizer.json."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json (the fast tokenizer); {TOKENIZER_ADVICE}"
        )
    return read_vocabulary(path.read_bytes())


def edge_facts(checkpoint: Checkpoint, tokens: list[Entry], context_len: int) -> EdgeFacts:
    """Facts of a model that serves texts up to context_len."""
    end_ids = checkpoint.end_ids
    if any(token_id >= len(tokens) for token_id in end_ids) or len(end_ids) > MAX_END_IDS:
        raise CheckpointError(
            f"{checkpoint.folder} names the end tokens {list(end_ids)}, but its tokenizer defines "
            f"{len(tokens)} ids; correct eos_token_id in generation_config.json"
        )

    return EdgeFacts(
        model=checkpoint.name.encode()[:MAX_TEXT_BYTES].decode(errors="ignore"),
        num_ids=len(tokens),
        vocabulary_hash=VocabularyHashes(tokens),
        context_len=min(context_len, MAX_TOKENS),
        end_ids=end_ids,
    )
