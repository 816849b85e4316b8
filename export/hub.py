"""Find a checkpoint: a local folder, or a model on the Hugging Face hub fetched into its cache."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

from export.checkpoint import refuse_other_weights
from export.errors import ExportError, naming_full_disk

DESCRIPTION = ("*.json", "*.jinja")
"""Small files: configs, tokenizer, chat templates."""
WEIGHTS = ("model*.safetensors",)
"""The names transformers loads; nothing that could be pickled, no second copy in another layout."""

_ADVICE = "free some, or set HF_HOME to a folder elsewhere"
_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*(/[\w-][\w.-]*)?)(@(?P<revision>[\w./-]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Location:
    """Where a checkpoint lies: its folder here, and how the manifest names it."""

    folder: Path
    source: str
    repo: str | None = None
    revision: str | None = None
    num_parameters: int | None = None
    """By the hub's count, before the weights are here; None where it does not say."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the files to download; empty where the hub could not be asked."""


def locate(name: str) -> Location:
    """Folder or hub id (`owner/name`, `owner/name@revision`) → its description, on this machine.

    Weights of a hub model come later, with `fetch_weights`. ExportError where there is none.
    """
    folder = Path(name)
    with suppress(RuntimeError):  # ~nobody
        folder = folder.expanduser()
    if folder.is_dir():
        return Location(folder, folder.resolve().name)
    if folder.exists():
        raise ExportError(f"{name} is a file; give the checkpoint's folder, or a hub id")
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise ExportError(
            f"there is no folder {name}; give a checkpoint's folder, or a hub id such as owner/name"
        )
    repo, revision = match["repo"], match["revision"]
    sizes, num_parameters = _listed(repo, revision)
    if "config.json" in sizes and "adapter_config.json" not in sizes:
        # Of what is no whole model `checkpoint.read` says so, by its description.
        refuse_other_weights((name for name in sizes if "/" not in name), f"{repo} on the hub")
    patterns = DESCRIPTION + WEIGHTS
    sizes = {k: v for k, v in sizes.items() if any(fnmatch(k, pattern) for pattern in patterns)}
    folder = _download(repo, revision, DESCRIPTION, sizes)
    # A snapshot's folder is named after its commit: later downloads stay on that one.
    return Location(folder, f"{repo}@{folder.name}", repo, folder.name, num_parameters, sizes)


def fetch_weights(location: Location) -> None:
    """Download the weights of a hub model beside its description; nothing for a local folder."""
    if location.repo is not None:
        _check_space(location)
        _download(location.repo, location.revision, DESCRIPTION + WEIGHTS, location.sizes)


def _check_space(location: Location) -> None:
    """ExportError where the cache's disk is too full for what is still to be downloaded."""
    needed_bytes = sum(
        size for name, size in location.sizes.items() if not (location.folder / name).exists()
    )
    free_bytes = shutil.disk_usage(location.folder).free
    if free_bytes < needed_bytes:
        raise ExportError(
            f"{location.source} is another {needed_bytes / 1e9:.1f} GB to download, and the disk of "
            f"the hub's cache ({location.folder}) has {free_bytes / 1e9:.1f} GB left; {_ADVICE}"
        )


def _listed(repo: str, revision: str | None) -> tuple[dict[str, int], int | None]:
    """Files of a repository with their sizes, and its parameters; nothing without the network."""
    try:
        with _refusals(repo, revision):
            info = huggingface_hub.model_info(repo, revision=revision, files_metadata=True)
    except (OSError, ValueError):  # what was downloaded before may still do
        return {}, None
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return sizes, info.safetensors.total if info.safetensors else None


def _download(
    repo: str, revision: str | None, patterns: tuple[str, ...], sizes: dict[str, int]
) -> Path:
    needed = f"{repo} takes {sum(sizes.values()) / 1e9:.1f} GB there; {_ADVICE}"
    try:
        with _refusals(repo, revision), naming_full_disk(Path(HF_HUB_CACHE), needed):
            path = huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=list(patterns)
            )
    except (OSError, ValueError) as error:
        raise ExportError(
            f"there is no folder {repo}, and fetching it from the hub failed "
            f"({type(error).__name__}); check the name and the network"
        ) from error
    return Path(path)


@contextmanager
def _refusals(repo: str, revision: str | None) -> Iterator[None]:
    """What the hub refuses, said in one sentence each."""
    try:
        yield
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


def show_progress(shown: bool) -> None:
    """Whether downloads draw their bars on stderr."""
    (enable_progress_bars if shown else disable_progress_bars)()
