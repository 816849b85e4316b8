"""Find a checkpoint: a local folder, or a model on the Hugging Face hub fetched into its cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

from export.errors import ExportError

DESCRIPTION = ("*.json", "*.jinja")
"""Small files: configs, tokenizer, chat templates."""
WEIGHTS = ("model*.safetensors",)
"""The names transformers loads; nothing that could be pickled, no second copy in another layout."""

_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*(/[\w-][\w.-]*)?)(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a checkpoint lies: its folder here, and how the manifest names it."""

    folder: Path
    source: str
    repo: str | None = None
    revision: str | None = None


def locate(name: str) -> Location:
    """Folder or hub id (`owner/name`, `owner/name@revision`) → its description, on this machine.

    Weights of a hub model come later, with `fetch_weights`. ExportError where there is none.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Location(folder, folder.resolve().name)
    if folder.exists():
        raise ExportError(f"{name} is a file; give the checkpoint's folder, or a hub id")
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise ExportError(
            f"there is no folder {name}; give a checkpoint's folder, or a hub id such as owner/name"
        )
    repo = match["repo"]
    folder = _download(repo, match["revision"], DESCRIPTION)
    # A snapshot's folder is named after its commit: later downloads stay on that one.
    return Location(folder, f"{repo}@{folder.name}", repo, folder.name)


def fetch_weights(location: Location) -> None:
    """Download the weights of a hub model beside its description; nothing for a local folder."""
    if location.repo is not None:
        _download(location.repo, location.revision, DESCRIPTION + WEIGHTS)


def _download(repo: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    try:
        path = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=list(patterns)
        )
    except GatedRepoError as error:
        raise ExportError(
            f"{repo} is gated: accept its terms on huggingface.co, log in with `hf auth login`, "
            "and try again"
        ) from error
    except RevisionNotFoundError as error:
        raise ExportError(f"{repo} has no revision {revision} on the hub") from error
    except RepositoryNotFoundError as error:
        raise ExportError(
            f"{repo} is neither a folder here nor a model on the hub (private ones need "
            "`hf auth login`)"
        ) from error
    except (OSError, ValueError) as error:
        raise ExportError(
            f"there is no folder {repo}, and fetching it from the hub failed "
            f"({type(error).__name__}); check the name and the network"
        ) from error
    return Path(path)


def show_progress(shown: bool) -> None:
    """Whether downloads draw their bars on stderr."""
    (enable_progress_bars if shown else disable_progress_bars)()
