"""The units a key may end in, and how a number with such a key is printed."""

from __future__ import annotations

from collections.abc import Callable

_SI = (
    *((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")),
    *((1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p")),
)
_IEC = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))


def _si(unit: str) -> Callable[[float], str]:
    def text(value: float) -> str:
        factor, prefix = next((p for p in _SI if abs(value) >= p[0]), (1.0, ""))
        return f"{value / factor:.4g} {prefix}{unit}"

    return text


def _bytes(value: float) -> str:
    factor, unit = next((p for p in _IEC if value >= p[0]), (1.0, "B"))
    return f"{value / factor:.4g} {unit}"


def _plain(unit: str) -> Callable[[float], str]:
    return lambda value: f"{value:.4g}{unit}"


UNITS: dict[str, Callable[[float], str]] = {
    "_tokens_per_s": _plain(" tokens/s"),
    "_bytes_per_s": _si("B/s"),
    "_j_per_bit": _si("J/bit"),
    "_bytes": _bytes,
    "_bps": _si("bit/s"),
    "_hz": _si("Hz"),
    "_w": _si("W"),
    "_j": _si("J"),
    "_s": _si("s"),
    "_c": _plain(" °C"),
    "_ratio": _plain(""),
}
"""Ending of a key → how to print its value; longer endings stand first."""

POWER_UNITS = ("_w", "_j", "_j_per_bit")
"""Numbers in these units mean nothing without the point where they were measured."""


def unit_of(key: str) -> str | None:
    """The unit a key ends in, `num_` for a count, None where the key names no unit."""
    if key.startswith("num_"):
        return "num_"
    return next((unit for unit in UNITS if key.endswith(unit)), None)


def format_value(key: str, value: float) -> str:
    """The number as people read it: `read_bytes_per_s`, 1.4877e10 → `14.88 GB/s`."""
    unit = unit_of(key)
    return UNITS[unit](value) if unit in UNITS else f"{value:g}"
