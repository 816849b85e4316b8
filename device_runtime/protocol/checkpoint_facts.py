"""What export and edge read from the JSON files of a checkpoint, by the same rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from device_runtime.protocol.errors import TandemError

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
