"""What the project knows about boards and links: every number with unit, source and kind.

`load("raspberry-pi-5")` and `load_link("lte")` give frozen dataclasses; a path to a TOML file of
the same form works in place of a name. Only the standard library (and tomli on Python 3.10) is
needed here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from hw_profiles.checks import check_device, check_link
from hw_profiles.papers import papers_grid
from hw_profiles.reader import Reader, nearest
from hw_profiles.schema import Choice, DeviceProfile, LinkProfile, ProfileError, Quantity

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    *("Choice", "DeviceProfile", "LinkProfile", "ProfileError", "Quantity"),
    *("find_device", "link_names", "load", "load_link", "names", "papers_grid"),
]

P = TypeVar("P", DeviceProfile, LinkProfile)


def names() -> tuple[str, ...]:
    """Names of the device profiles, sorted."""
    return _stems("devices")


def link_names() -> tuple[str, ...]:
    """Names of the link profiles: the files, sorted, then the papers' grid."""
    return (*_stems("links"), *(link.name for link in papers_grid()))


def load(name: str | Path) -> DeviceProfile:
    """The device profile of that name, or the one in that TOML file; ProfileError if neither."""
    if (path := _user_path(name)) is not None:
        return _parse(_read_file(path), DeviceProfile, str(path), check_device)
    if name not in names():
        raise _unknown("device", str(name), names())
    return _builtin(str(name), "devices", DeviceProfile, check_device)


def load_link(name: str | Path) -> LinkProfile:
    """The link profile of that name, or the one in that TOML file; ProfileError if neither."""
    if (path := _user_path(name)) is not None:
        return _parse(_read_file(path), LinkProfile, str(path), check_link)
    if (link := next((g for g in papers_grid() if g.name == name), None)) is not None:
        return link
    if name not in link_names():
        raise _unknown("link", str(name), link_names())
    return _builtin(str(name), "links", LinkProfile, check_link)


def find_device(compatibles: tuple[str, ...], isa: str | None) -> DeviceProfile | None:
    """The profile of a machine with these device-tree `compatible` strings and instruction set."""
    profiles = [load(name) for name in names()]
    for profile in profiles:
        if any(part in c for part in profile.match.compatibles for c in compatibles):
            return profile
    return next((p for p in profiles if isa and p.match.fallback_isa == isa), None)


def _stems(folder: str) -> tuple[str, ...]:
    entries = (files(__name__) / folder).iterdir()
    return tuple(sorted(e.name[: -len(".toml")] for e in entries if e.name.endswith(".toml")))


def _user_path(name: str | Path) -> Path | None:
    """Anything with a folder or the ending .toml is a path; all else is a name."""
    is_path = isinstance(name, Path) or name.endswith(".toml") or "/" in name
    return Path(name) if is_path else None


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"cannot read the profile {path}: {error}") from None


@cache
def _builtin(name: str, folder: str, cls: type[P], check: Callable[[P, str], None]) -> P:
    text = (files(__name__) / folder / f"{name}.toml").read_text(encoding="utf-8")
    return _parse(text, cls, f"hw_profiles/{folder}/{name}.toml", check)


def _parse(text: str, cls: type[P], where: str, check: Callable[[P, str], None]) -> P:
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where} is not valid TOML: {error}") from None
    sources = data.pop("sources", {})
    if not isinstance(sources, dict):
        raise ProfileError(f"{where}: `sources` must be a table of name = citation")
    profile = Reader(where, sources).table(data, cls, "")
    check(profile, where)
    return profile


def _unknown(kind: str, name: str, known: tuple[str, ...]) -> ProfileError:
    return ProfileError(
        f"no {kind} profile {name!r}{nearest(name, known)} Known: {', '.join(known)}. "
        "A path to a TOML file works too."
    )
