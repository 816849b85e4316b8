"""Have a checkpoint's tokenizer begin texts as the model was trained: by transformers' class for it."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer

from device_runtime.protocol.start_tokens import TOKENIZER_ADVICE, take_start_tokens
from export.checkpoint import Checkpoint
from export.errors import ExportError


def settle(checkpoint: Checkpoint) -> None:
    """Change the tokenizer's post-processor where tokenizer_config.json says other than it does.

    ExportError where transformers reads a text otherwise all the same. Nothing happens where it names
    no class, or one that does not load here.
    """
    if not checkpoint.tokenizer_config.get("tokenizer_class"):
        return
    load: Any = AutoTokenizer.from_pretrained
    try:
        fast = load(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    except Exception:  # noqa: BLE001 -- whatever a config can make transformers raise
        return
    if not take_start_tokens(checkpoint.tokenizer, fast):
        raise ExportError(
            f"tokenizer.json of {checkpoint.source} makes other tokens of a text than transformers "
            f"does by its tokenizer_config.json; {TOKENIZER_ADVICE}"
        )
