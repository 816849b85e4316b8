"""Open a bundle's tokenizer.json."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from device_runtime.protocol.errors import BundleError
from device_runtime.protocol.text_codec import TextCodec


class Tokenizer(TextCodec):
    """A tokenizer.json, opened by the library `tokenizers`."""

    def __init__(self, data: bytes) -> None:
        """data: content of tokenizer.json; BundleError if it cannot be used."""
        try:
            inner = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises plain Exception
            raise BundleError(
                f"tokenizer.json cannot be read by tokenizers {tokenizers.__version__} ({error}); "
                "export the model again or install a newer tokenizers"
            ) from error
        super().__init__(inner)

    @classmethod
    def open(cls, path: Path) -> Tokenizer:
        """Read a tokenizer.json."""
        return cls(path.read_bytes())
