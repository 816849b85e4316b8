"""The Jinja environment for chat templates: what Hugging Face templates need, within bounds.

A template comes with the model, so it is not ours. It runs in Jinja's immutable sandbox, which
keeps it from Python's internals; the passes of its loops and macros, what `*` and `**` make and the
text it writes are bounded too. That stops a template that runs away, not one that means harm: a
string that is doubled, padded or joined can still fill the memory. Take bundles only from those
you trust.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_PASSES = 20_000
"""Of all loops and macros together."""
MAX_REPEATED = 100_000
"""Elements of what `*` may make out of a string or list."""
MAX_BITS = 1024
"""Of an integer that `*` or `**` may make."""


class RefusedMessagesError(TemplateError):
    """The template itself raised: it does not allow these messages."""


class _Generation(Extension):
    """`{% generation %}` marks what a model wrote, for training; here it only holds its body."""

    tags = {"generation"}  # noqa: RUF012 - the name and type that Jinja reads

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """One environment renders one template once."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
        )
        self._num_passes = 0
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.filters["tojson"] = _tojson

    def count_pass(self) -> None:
        """Called by every pass of every loop, and of every macro."""
        self._num_passes += 1
        if self._num_passes > MAX_PASSES:
            raise SecurityError(f"its loops and macros take more than {MAX_PASSES} passes")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            bits, more = left.bit_length(), right.bit_length()
            if (bits * right if operator == "**" else bits + more) > MAX_BITS:
                raise SecurityError("it computes with huge numbers")
        for value, times in ((left, right), (right, left)):
            is_repeated = isinstance(value, (str, list, tuple)) and isinstance(times, int)
            if is_repeated and len(value) * times > MAX_REPEATED:
                raise SecurityError(f"it repeats a value {times} times")
        return super().call_binop(context, operator, left, right)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        # Jinja would go on with an undefined value, which prints as nothing.
        raise SecurityError(f"it asks for {attribute!r} of a {type(obj).__name__}")

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        repeated: list[nodes.For | nodes.Macro | nodes.CallBlock] = [*tree.find_all(nodes.For)]
        repeated += [*tree.find_all(nodes.Macro), *tree.find_all(nodes.CallBlock)]
        for block in repeated:
            count = nodes.Call(nodes.EnvironmentAttribute("count_pass"), [], [], None, None)
            block.body.insert(0, nodes.ExprStmt(count))
        return tree


def render_bounded(source: str, max_chars: int, variables: dict[str, Any]) -> str:
    """The rendered text; SecurityError where it grows beyond max_chars."""
    template: Template = BoundedEnvironment().from_string(source)
    parts, num_chars = [], 0
    for part in template.generate(variables):
        parts.append(part)
        num_chars += len(part)
        if num_chars > max_chars:
            raise SecurityError(f"it writes more than {max_chars} characters")
    return "".join(parts)


def _raise_exception(message: str) -> NoReturn:
    raise RefusedMessagesError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # As transformers has it. Jinja's own escapes for HTML, which would change what the model reads.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
