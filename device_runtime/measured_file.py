"""Measurements kept between generations and, if wanted, between runs: a small JSON file.

One file in the user's cache folder for each pair of edge URL and bundle. Its name is a hash of the
two, and it holds the numbers of `Measured` alone: no URL, no prompt, no text. A file that cannot be
read counts as none, and one that cannot be written is left as it was: `auto` then starts from its
assumptions.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from device_runtime.measured import Measured

VERSION = 1
MAX_KEPT = 50
MAX_FILE_BYTES = 1 << 16

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Memory:
    """What generations on one link and bundle taught, oldest first."""

    history: list[Measured] = field(default_factory=list)
    path: Path | None = None
    """The file that keeps it, if any."""

    @classmethod
    def open(cls, path: Path) -> Memory:
        """With what the file holds."""
        return cls(load(path), path)

    def add(self, measured: Measured) -> None:
        """One generation more."""
        self.history = [*self.history, measured][-MAX_KEPT:]
        if self.path is not None:
            save(self.path, self.history)


def cache_folder() -> Path:
    """Where this user's programs keep what can be made again."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given and Path(given).is_absolute():
        return Path(given) / "tandem"
    library = Path("Library", "Caches") if sys.platform == "darwin" else Path(".cache")
    return Path.home() / library / "tandem"


def measured_path(folder: Path, edge_url: str, bundle_files: Mapping[str, str]) -> Path:
    """The file of this edge and of the bundle with these files (name → SHA-256)."""
    return folder / f"measured-{bundle_key(bundle_files, edge_url)}.json"


def bundle_key(bundle_files: Mapping[str, str], *others: str) -> str:
    """Name of what is kept for a bundle: a graph's own hash does not cover weights outside of it."""
    text = "\n".join([*others, json.dumps(bundle_files, sort_keys=True)])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def load(path: Path) -> list[Measured]:
    """What the file holds, oldest first; nothing where it is absent or damaged."""
    try:
        return _read(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.info("%s is no file of measurements (%s); starting without", path, error)
        return []


def _read(path: Path) -> list[Measured]:
    with path.open("rb") as file:
        data = json.loads(file.read(MAX_FILE_BYTES))
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ValueError("another version")
    return [Measured.from_values(values) for values in data["generations"]][-MAX_KEPT:]


def save(path: Path, history: Sequence[Measured]) -> None:
    """Replace the file, whole or not at all."""
    kept = [measured.to_values() for measured in history]
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.write_text(json.dumps({"version": VERSION, "generations": kept}), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        logger.info("measurements are not kept: %s", error)
        with suppress(OSError):  # part of it stands where the disk is full
            draft.unlink()
