"""What sessions must know of the model, read from the checkpoint's own files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from device_runtime.protocol.edge_states import EdgeFacts
from device_runtime.protocol.messages.fields import MAX_END_IDS, MAX_TEXT_BYTES, MAX_TOKENS
from device_runtime.protocol.vocabulary import Entry, read_vocabulary, vocabulary_hash
from edge_server.checkpoint import Checkpoint, CheckpointError


def read_tokens(folder: Path) -> list[Entry]:
    """The tokenizer's tokens in id order; CheckpointError without a tokenizer.json."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json (the fast tokenizer); make it with "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
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

    @lru_cache(maxsize=64)  # clients choose the count, and hashing a vocabulary takes a while
    def hash_of(count: int) -> bytes:
        return vocabulary_hash(tokens[:count])

    return EdgeFacts(
        model=checkpoint.name.encode()[:MAX_TEXT_BYTES].decode(errors="ignore"),
        num_ids=len(tokens),
        vocabulary_hash=hash_of,
        context_len=min(context_len, MAX_TOKENS),
        end_ids=end_ids,
    )
