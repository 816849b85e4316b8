"""What export and edge read from the JSON files of a checkpoint, by the same rules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from device_runtime.protocol.errors import TandemError
from device_runtime.protocol.rope_parameters import longrope_limit

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")
_OF_WRONG_TYPES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@contextmanager
def refusing_malformed(
    refusal: Callable[[str], TandemError], name: str, files: str
) -> Iterator[None]:
    """The refusal in place of what values of the wrong type make their readers raise.

    name: of the checkpoint; files: of it, which the values were read from.
    """
    try:
        yield
    except TandemError:  # some are ValueErrors
        raise
    except _OF_WRONG_TYPES as error:
        raise refusal(
            f"{name} is malformed: {files} has a value of the wrong kind ({type(error).__name__}: "
            f"{error}); correct it, or download it again"
        ) from error


def context_len(config: Mapping[str, Any]) -> int | None:
    """Positions a model was made for; None where its config does not say.

    Beyond its limit a longrope model changes its rotary factors by the longest text of a batch: no
    traced graph can, and on the edge one session would change the text of another.
    """
    stated: list[int] = [config[k] for k in _CONTEXT_KEYS if isinstance(config.get(k), int)]
    return min(stated[0], longrope_limit(config) or stated[0]) if stated else None


def start_id(generation_config: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    """The token that begins a text; None where there is none."""
    return _token_id(_stated("bos_token_id", generation_config, config))


def end_ids(generation_config: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens that end a text, each once, in the order in which they are stated."""
    stated = _stated("eos_token_id", generation_config, config)
    ids = map(_token_id, stated if isinstance(stated, list) else [stated])
    return tuple(dict.fromkeys(token_id for token_id in ids if token_id is not None))


def _stated(key: str, generation_config: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """The generation config's, else the config's: as transformers generates."""
    return generation_config.get(key, config.get(key))


def _token_id(stated: Any) -> int | None:
    """None for no token, for which some write -1."""
    return None if stated is None or stated < 0 else operator.index(stated)
