"""Messages → the text a chat model was trained on, by the checkpoint's own Jinja template.

What a user wrote must never become a token of the template: `protocol.marks` sees to it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from device_runtime.bundle import Bundle
from device_runtime.protocol.errors import BundleError, ConfigError
from device_runtime.protocol.marks import Marks, guarded_strings
from device_runtime.protocol.text_codec import Segment
from device_runtime.tokenizer import Tokenizer

MAX_TEMPLATE_BYTES = 128 << 10
MAX_CHARS = 4 << 20
"""Of rendered text."""

_ROLE = re.compile(r"[a-z_]{1,32}")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    """`system`, `user`, `assistant` or what else the template knows."""
    content: str

    def __post_init__(self) -> None:
        # Templates write the role between special tokens, as trusted text.
        if not _ROLE.fullmatch(self.role):
            raise ConfigError(f"{self.role!r} is no role; use system, user or assistant")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template with the strings it may ask for."""

    source: str
    bos_token: str
    eos_token: str
    guarded_strings: tuple[str, ...]
    """Tokens that no message may bring in."""

    @classmethod
    def open(cls, bundle: Bundle, tokenizer: Tokenizer) -> ChatTemplate:
        """The bundle's template; ConfigError if it has none."""
        path = bundle.chat_template_path
        if path is None:
            raise ConfigError(
                f"{bundle.folder} has no chat template, so it knows no system message and no "
                "roles; put everything into the prompt, or export a chat model"
            )
        if path.stat().st_size > MAX_TEMPLATE_BYTES:
            raise BundleError(
                f"{path} is larger than {MAX_TEMPLATE_BYTES} bytes; use a smaller one"
            )
        manifest = bundle.manifest
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{path} is no UTF-8 text ({error}); use another one") from None
        return cls(
            source=source,
            bos_token=_string(tokenizer, manifest.bos_token_id),
            eos_token=_string(tokenizer, next(iter(manifest.end_token_ids), None)),
            guarded_strings=guarded_strings(tokenizer, source),
        )

    def render(self, messages: Sequence[Message]) -> list[Segment]:
        """The chat as text, up to where the assistant's answer begins.

        ConfigError where the template refuses the messages, BundleError where it is broken.
        """
        marks = Marks(self.guarded_strings, secrets.token_hex(8))
        masked = [
            {"role": message.role, "content": marks.hide(message.content)} for message in messages
        ]
        variables = {
            "messages": masked,
            "tools": None,  # as transformers has it, and with it the edge
            "documents": None,
            "add_generation_prompt": True,
            "bos_token": self.bos_token,
            "eos_token": self.eos_token,
        }
        return marks.reveal(self._render(variables))

    def _render(self, variables: Mapping[str, object]) -> str:
        # Imported late: most runs have no chat, and Jinja costs start time on a small device.
        from device_runtime.template_sandbox import RefusedMessagesError, render_bounded

        try:
            return render_bounded(self.source, MAX_CHARS, dict(variables))
        except RefusedMessagesError as error:
            raise ConfigError(f"the chat template refuses these messages: {error}") from None
        except Exception as error:  # a template may fail in every way Python knows
            raise BundleError(
                f"the chat template fails ({type(error).__name__}: {error}); "
                "use a bundle with a working template, or put everything into the prompt"
            ) from error


def _string(tokenizer: Tokenizer, token_id: int | None) -> str:
    token = None if token_id is None else tokenizer.token(token_id)
    return "" if token is None else token[0]
