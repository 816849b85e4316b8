"""Which tokens a text begins with, where tokenizer_config.json overrules tokenizer.json.

transformers' classes for Llama and its kin write the post-processor anew, by `add_bos_token`. A device
has tokenizer.json alone: without its start token a model writes worse, and nothing else tells.
"""

from __future__ import annotations

from typing import Any

TOKENIZER_ADVICE = "make it with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
_SAMPLE = "a short text"


def take_start_tokens(inner: Any, fast: Any) -> bool:
    """Have a tokenizer begin texts as transformers does; False where even so it reads them otherwise.

    inner: a `tokenizers.Tokenizer` of tokenizer.json without truncation and padding; it changes only
    where it must. fast: what transformers makes of the same folder.
    """
    wanted: list[int] = fast(_SAMPLE)["input_ids"]
    # transformers gives new ids to special tokens that tokenizer.json lacks: no model knows them.
    are_known = all(inner.id_to_token(token_id) is not None for token_id in wanted)
    if inner.encode(_SAMPLE).ids != wanted and are_known and fast.is_fast:
        inner.post_processor = fast.backend_tokenizer.post_processor
    matches: bool = inner.encode(_SAMPLE).ids == wanted
    return matches
