"""`tandem profiles`: what is known about boards and links, with sources, in plain text or JSON."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from hw_profiles import link_names, load, load_either, load_link, names, papers_grid
from hw_profiles.schema import Choice, DeviceProfile, LinkProfile, ProfileError, Quantity
from hw_profiles.units import format_value

_WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`list`, or `show NAME`."""
    verbs = parser.add_subparsers(dest="action", metavar="{list,show}", required=True)
    for action, text in (
        ("list", "one line per device and link"),
        ("show", "every number of one profile with its source"),
    ):
        sub = verbs.add_parser(action, help=text, description=f"{text}.")
        sub.add_argument("--json", action="store_true", help="print JSON")
        if action == "show":
            sub.add_argument("name", metavar="NAME", help="a name from the list, or a TOML file")


def run(args: argparse.Namespace) -> int:
    """Print what was asked for; 1 with one line on stderr where a profile is unknown or broken."""
    try:
        text = _list(args.json) if args.action == "list" else _show(args.name, args.json)
    except ProfileError as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


def _list(as_json: bool) -> str:
    devices = [load(name) for name in names()]
    links = [load_link(name) for name in link_names()]
    if as_json:
        return _json({"devices": [_head(d) for d in devices], "links": [_head(k) for k in links]})
    device_rows = [_device_row(device) for device in devices]
    grid = papers_grid()
    link_rows = [_link_row(link) for link in links if link not in grid]
    device_head = ("device", "CPU", "read/core", "idle", "active", "sensor", "weights")
    link_head = ("link", "down", "up", "round trip", "radio", "confidence")
    lines = [
        *_table(device_head, device_rows),
        "",
        *_table(link_head, link_rows),
        f"and {len(grid)} links of the papers' grid, papers-{{0,20,50}}ms-{{10,50,100}}mbps:",
        "as fast up as down, or with the ending -up3 or -up10 a third or a tenth of it",
        "",
        "tandem profiles show NAME gives every number with its source.",
    ]
    return "\n".join(lines)


def _head(profile: DeviceProfile | LinkProfile) -> dict[str, str]:
    return {"name": profile.name, "title": profile.title, "summary": profile.summary}


def _device_row(device: DeviceProfile) -> tuple[str, ...]:
    clusters = " + ".join(f"{c.num_cores.value:g} × {c.core}" for c in device.cpu.clusters)
    power = device.power
    return (
        device.name,
        clusters or device.cpu.isa,
        _text("read_bytes_per_s", device.memory.read_one_core_bytes_per_s),
        _text("idle_w", power.idle_w),
        _text("active_w", power.active_w),
        power.sensor.kind,
        f"{device.runtime.weights.value}, level {device.runtime.accuracy_level.value}",
    )


def _link_row(link: LinkProfile) -> tuple[str, ...]:
    return (
        link.name,
        _text("down_bps", link.down_bps),
        _text("up_bps", link.up_bps),
        _text("rtt_s", link.rtt_s),
        "known in part" if link.radio else "-",
        link.confidence,
    )


def _text(key: str, quantity: Quantity | None) -> str:
    return "-" if quantity is None else format_value(key, quantity.value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(
            f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)
        ).rstrip()


def _show(name: str, as_json: bool) -> str:
    profile = load_either(name)
    if as_json:
        return _json(asdict(profile))
    sources: list[str] = []
    lines = [profile.name, profile.title, *_wrap(profile.summary, "")]
    for key, value in _items(profile):
        if key not in {"name", "title", "summary"}:
            lines += _lines(key, value, "", sources)
    lines += ["", "sources"]
    for number, source in enumerate(sources, 1):
        lines += _wrap(f"[{number}] {source}", "  ")
    return "\n".join(lines)


def _items(table: Any) -> Iterator[tuple[str, Any]]:
    return ((f.name, getattr(table, f.name)) for f in fields(table))


def _lines(key: str, value: Any, indent: str, sources: list[str]) -> Iterator[str]:
    """The lines of one key; citations are collected in `sources` and shown by number."""
    if value is None or value == ():
        return
    if isinstance(value, Quantity):
        yield from _wrap(f"{key}  {_evidence(key, value, sources)}", indent)
    elif isinstance(value, Choice):
        yield from _wrap(f"{key}  {_plain(value.value)}: {value.why}", indent)
    elif is_dataclass(value):
        yield f"{indent}{key}"
        for inner_key, inner in _items(value):
            yield from _lines(inner_key, inner, f"{indent}  ", sources)
    elif isinstance(value, tuple) and is_dataclass(value[0]):
        for number, inner in enumerate(value, 1):
            yield from _lines(f"{key} {number}", inner, indent, sources)
    elif key.endswith("source"):
        yield f"{indent}{key}  [{_number(value, sources)}]"
    else:
        yield from _wrap(f"{key}  {_plain(value)}", indent)


def _evidence(key: str, quantity: Quantity, sources: list[str]) -> str:
    text = format_value(key, quantity.value)
    if quantity.low is not None or quantity.high is not None:
        ends = (quantity.low, quantity.high)
        low, high = (quantity.value if end is None else end for end in ends)
        text += f" ({format_value(key, low)} to {format_value(key, high)})"
    point = f" at {quantity.measuring_point}" if quantity.measuring_point else ""
    note = f"; {quantity.note}" if quantity.note else ""
    return f"{text}, {quantity.kind}{point} [{_number(quantity.source, sources)}]{note}"


def _number(source: str, sources: list[str]) -> int:
    if source not in sources:
        sources.append(source)
    return sources.index(source) + 1


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False)
