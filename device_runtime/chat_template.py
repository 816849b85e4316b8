"""Messages → the text a chat model was trained on, by the checkpoint's own Jinja template.

What a user wrote must never become a special token. Special tokens written inside a message are
replaced by marks before rendering and come back afterwards as segments of their own, which the
tokenizer encodes as plain text. Marks are letters and digits, so that templates that trim, split or
test the contents do what they would have done; messages without special tokens, nearly all, reach
the template untouched. If a template mangles a mark, rendering fails rather than guesses. A special
token glued together from two messages, by a template that writes nothing between them, is not seen.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from device_runtime.bundle import Bundle
from device_runtime.protocol.errors import BundleError, ConfigError
from device_runtime.tokenizer import Segment, Tokenizer

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
    special_strings: tuple[str, ...]

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
        return cls(
            source=path.read_text(encoding="utf-8"),
            bos_token=_string(tokenizer, manifest.bos_token_id),
            eos_token=_string(tokenizer, next(iter(manifest.end_token_ids), None)),
            special_strings=tokenizer.special_strings,
        )

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> list[Segment]:
        """The chat as text, up to where the assistant's answer begins.

        ConfigError where the template refuses the messages, BundleError where it is broken.
        """
        marks = _Marks(self.special_strings)
        masked = [
            {"role": message.role, "content": marks.hide(message.content)} for message in messages
        ]
        variables = {
            "messages": masked,
            "add_generation_prompt": add_generation_prompt,
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


class _Marks:
    """Stand-ins for the special tokens in what users wrote, unlike any text for one rendering."""

    def __init__(self, special_strings: Sequence[str]) -> None:
        longest_first = sorted(filter(None, special_strings), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._secret = secrets.token_hex(8)
        self._nonce = f"x{self._secret}n"
        self._hidden: list[str] = []

    def hide(self, text: str) -> str:
        """The text with every special token replaced."""
        return self._special.sub(self._hide_one, text)

    def _hide_one(self, match: re.Match[str]) -> str:
        self._hidden.append(match[0])
        return f"{self._nonce}{len(self._hidden) - 1}x"

    def reveal(self, text: str) -> list[Segment]:
        """Segments of a rendered text: the special tokens again, but as the user's words."""
        parts = re.split(f"{self._nonce}([0-9]+)x", text)
        segments = [
            Segment(self._hidden[int(part)], trusted=False) if index % 2 else Segment(part, True)
            for index, part in enumerate(parts)
        ]
        pieces = [self._secret[start : start + 8] for start in range(9)]
        shown = "".join(segment.text for segment in segments).lower()
        if self._hidden and any(piece in shown for piece in pieces):
            raise BundleError(
                "the chat template changes messages in a way that hides special tokens; "
                "leave special tokens out of the messages"
            )
        return [segment for segment in segments if segment.text]


def _string(tokenizer: Tokenizer, token_id: int | None) -> str:
    token = None if token_id is None else tokenizer.token(token_id)
    return "" if token is None else token[0]
