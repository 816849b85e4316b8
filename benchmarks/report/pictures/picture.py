"""What a picture is to the page: the drawing, and what is said around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from benchmarks.report.pictures.ink import to_svg


@dataclass(frozen=True, slots=True)
class Swatch:
    """One line of a legend; the page shows it beside the picture, never on the data."""

    label: str
    role: str
    shape: str = "bar"
    """A class of the page's style sheet: bar, dot, ring, halo, dash, rising or falling."""


LOSSY = Swatch("† lossy: not the LLM's text", "muted", "ring")


def grey(labels: Sequence[str], shape: str) -> tuple[Swatch, ...]:
    """For arms without a colour of their own, where there are any."""
    return (Swatch(f"grey: {', '.join(labels)}", "other", shape),) if labels else ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with what the page says around it."""

    title: str
    svg: str
    note: str = ""
    legend: tuple[Swatch, ...] = ()
    subtitle: str = ""

    @classmethod
    def of(
        cls,
        axes: Axes,
        title: str,
        scope: str,
        note: str,
        legend: Iterable[Swatch] = (),
        subtitle: str = "",
    ) -> Picture:
        """Scope: the links and the sampling that no other picture of that title has on the page."""
        return cls(title, to_svg(axes, f"{title}, {scope}"), note, tuple(legend), subtitle)


@dataclass(frozen=True, slots=True)
class Absent:
    """A picture that cannot be drawn, and why."""

    title: str
    why: str
