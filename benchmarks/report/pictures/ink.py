"""Colours by role, and SVG that leaves them to the page.

A picture is drawn once, with the light theme's colours; each is then replaced by a variable of the
page's style sheet, which knows both themes. Text stays text and takes the page's typeface.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

PALETTE: Mapping[str, tuple[str, str]] = MappingProxyType({
    "card": ("#ffffff", "#171b21"),
    "ink": ("#1b1f24", "#e9ecf0"),
    "muted": ("#5a636e", "#9da7b3"),
    "faint": ("#e1e6ec", "#2c333c"),
    "rest": ("#b9c3ce", "#4b5662"),
    "accent": ("#0067b0", "#62b3f5"),
    "series-1": ("#0072b2", "#5ab4f0"),
    "series-2": ("#d05a00", "#ff9a52"),
    "series-3": ("#00825f", "#3fcfa2"),
    "series-4": ("#a9508a", "#ec9fd0"),
    "series-5": ("#946a00", "#f0c14a"),
    "series-6": ("#6b4bb8", "#b9a4ff"),
    "other": ("#a4adb8", "#5d6773"),
    "draft": ("#0b5f9e", "#3f93db"),
    "encode": ("#8fc1e8", "#b4dafa"),
    "settle": ("#4896d2", "#79b8ec"),
    "up": ("#d97f06", "#f09a2e"),
    "down": ("#f5bf6a", "#ffd693"),
    "queue": ("#a3dcc8", "#2c6b58"),
    "verify": ("#0f8263", "#2fb08b"),
    "judge": ("#5cbd9d", "#7fdcbd"),
    "remainder": ("#828b96", "#88929e"),
})  # fmt: skip
"""Light and dark. Hues are Okabe and Ito's, which the colour-blind tell apart, darkened for text."""

TEXT_PT = 11.5
SMALL_PT = 10.5

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": TEXT_PT,
    "axes.unicode_minus": False,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def colour(role: str) -> str:
    """The colour to draw with."""
    return PALETTE[role][0]


@cache
def width_of(text: str, size_pt: float = TEXT_PT) -> float:
    """In points, bold, in matplotlib's own typeface, which is wider than those of most pages."""
    path = TextPath((0, 0), text, size=size_pt, prop=FontProperties(weight="bold"))
    return float(path.get_extents().width) if text.strip() else 0.0


def to_svg(axes: Axes, description: str) -> str:
    """For use inside a page: no prolog, no fixed size, colours as variables."""
    figure, buffer = axes.figure, io.StringIO()
    assert isinstance(figure, Figure), "a canvas holds one plot"
    # Ids are hashes: with the description in them they are the page's only ones.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": description}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    start, drawing = buffer.getvalue().split("<svg", 1)[1].split(">", 1)
    view = re.search(r'viewBox="[^"]+"', start)
    assert view, "matplotlib always writes one"
    drawing = _lean(drawing)
    for role, (light, _) in PALETTE.items():
        drawing = drawing.replace(light, f"var(--{role})")
    label = escape(description, quote=True)
    return f'<svg {view.group()} role="img" aria-label="{label}">{drawing}'


def _lean(svg: str) -> str:
    """Without what the page's style sheet says, ids that nothing refers to, and needless digits."""
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]+; | transform=\"rotate\(-0 [^\"]*\)\"", "", svg)
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda id_: id_.group() if id_.group(1) in used else "", svg)
    # A hundredth of a point is enough; text keeps its digits.
    svg = re.sub(r'="[^"]*"', lambda value: re.sub(r"(\d\.\d\d)\d+", r"\1", value.group()), svg)
    return re.sub(r"\s+", " ", re.sub(r">\s+<", "><", svg)).replace("<g/>", "").strip()
