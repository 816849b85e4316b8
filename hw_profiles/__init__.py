"""What the project knows about boards and links: every number with unit, source and kind.

`load("raspberry-pi-5")` and `load_link("lte")` give frozen dataclasses; a path to a TOML file of
the same form works in place of a name. Only the standard library (and tomli on Python 3.10) is
needed here.
"""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from hw_profiles.checks import check_device, check_link
from hw_profiles.papers import papers_grid
from hw_profiles.reader import Reader, nearest
from hw_profiles.schema import DeviceProfile, LinkProfile, ProfileError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DeviceProfile",
    "LinkProfile",
    "ProfileError",
    "find_device",
    "link_names",
    "load",
    "load_either",
    "load_link",
    "names",
    "papers_grid",
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
        return _device(_read_file(path), str(path))
    if name not in names():
        raise _unknown("device", str(name), names())
    return _device(*_builtin("devices", str(name)))


def load_link(name: str | Path) -> LinkProfile:
    """The link profile of that name, or the one in that TOML file; ProfileError if neither."""
    if (path := _user_path(name)) is not None:
        return _link(_read_file(path), str(path))
    if (link := next((g for g in papers_grid() if g.name == name), None)) is not None:
        return link
    if name not in link_names():
        raise _unknown("link", str(name), link_names())
    return _link(*_builtin("links", str(name)))


def load_either(name: str | Path) -> DeviceProfile | LinkProfile:
    """As `load` or `load_link`, by what the name stands for or the file holds."""
    if (path := _user_path(name)) is not None:
        data = _read_file(path)
        return _link(data, str(path)) if "rtt_s" in data else _device(data, str(path))
    if name in link_names():
        return load_link(name)
    if name in names():
        return load(name)
    raise _unknown("device or link", str(name), (*names(), *link_names()))


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
    """Anything with a folder or the ending .toml is a path; all else is a name (None)."""
    is_path = isinstance(name, Path) or name.endswith(".toml") or "/" in name
    return Path(name) if is_path else None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"cannot read the profile {path}: {error}") from None


def _builtin(folder: str, name: str) -> tuple[dict[str, Any], str]:
    file = files(__name__) / folder / f"{name}.toml"
    where = f"hw_profiles/{folder}/{name}.toml"
    return _parse(file.read_text(encoding="utf-8"), where), where


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers too long, tables too deep
        raise ProfileError(f"{where} is not valid TOML: {error}") from None


def _device(data: dict[str, Any], where: str) -> DeviceProfile:
    profile = _read(data, DeviceProfile, where)
    check_device(profile, where)
    return profile


def _link(data: dict[str, Any], where: str) -> LinkProfile:
    profile = _read(data, LinkProfile, where)
    check_link(profile, where)
    return profile


def _read(data: dict[str, Any], cls: type[P], where: str) -> P:
    sources = data.pop("sources", {})
    if not isinstance(sources, dict):
        raise ProfileError(f"{where}: `sources` must be a table of name = citation")
    return Reader(where, sources).table(data, cls, "")


def _unknown(kind: str, name: str, known: tuple[str, ...]) -> ProfileError:
    return ProfileError(
        f"no {kind} profile {name!r}{nearest(name, known) or ';'} "
        "`tandem profiles list` shows all names; a path to a TOML file works too"
    )
