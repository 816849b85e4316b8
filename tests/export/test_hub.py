"""Local folders and hub ids; the hub itself is a function that stands in for its client."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from export import cli, hub
from export.errors import ExportError
from tests.tiny_models import save_checkpoint, tiny_model

Calls = list[tuple[str, str | None, list[str]]]
GOOD = {"config.json": 600, "tokenizer.json": 9_000, "model.safetensors": 2_000_000_000}


def listing(files: dict[str, int], num_parameters: int | None = 10**9) -> Callable[..., Any]:
    """The hub's answer about a repository with these files and their sizes."""

    def model_info(repo: str, *, revision: str | None, files_metadata: bool) -> Any:
        assert files_metadata, "else the sizes are missing"
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
        counted = None if num_parameters is None else SimpleNamespace(total=num_parameters)
        return SimpleNamespace(siblings=siblings, safetensors=counted)

    return model_info


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls: Calls = []

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repo, revision, allow_patterns))
        (tmp_path / "abc123").mkdir(exist_ok=True)
        return str(tmp_path / "abc123")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "model_info", listing(GOOD))
    return calls


def failing(error: Exception) -> Callable[..., str]:
    def download(*_: object, **__: object) -> str:
        raise error

    return download


def test_a_folder_is_taken_as_it_is(tmp_path: Path, downloads: Calls) -> None:
    location = hub.locate(str(tmp_path))
    hub.fetch_weights(location)
    assert (location.folder, location.source) == (tmp_path, tmp_path.name)
    assert downloads == []


def test_weights_of_a_hub_model_come_from_the_revision_of_its_description(downloads: Calls) -> None:
    location = hub.locate("owner/some-model@main")
    assert location.source == "owner/some-model@abc123"
    assert downloads == [("owner/some-model", "main", list(hub.DESCRIPTION))]
    hub.fetch_weights(location)
    assert downloads[1][:2] == ("owner/some-model", "abc123")


def test_nothing_pickled_is_ever_asked_for(downloads: Calls) -> None:
    hub.fetch_weights(hub.locate("gpt2"))
    patterns = {pattern for _, _, patterns in downloads for pattern in patterns}
    assert patterns == {"*.json", "*.jinja", "model*.safetensors"}


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "a/b/c", "owner/", "-x y", "",
                                  "~nosuch/x"])  # fmt: skip
def test_what_is_neither_folder_nor_hub_id_is_refused_without_the_network(
    name: str, downloads: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").unlink(missing_ok=True)
    with pytest.raises(ExportError, match="there is no folder"):
        hub.locate(name or "../nothing")
    assert downloads == []


def test_a_file_is_refused(tmp_path: Path, downloads: Calls) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ExportError, match="is a file; give the checkpoint's folder"):
        hub.locate(str(path))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["pytorch_model.bin"], "only pickled weights"),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "only pickled"),
        (["consolidated.pth", "extra/model.safetensors"], "only pickled weights"),
        (["tf_model.h5", "flax_model.msgpack"], "has no weights: model.safetensors or"),
    ],
)
def test_weights_that_will_not_do_are_refused_before_anything_is_downloaded(
    files: list[str], expected: str, downloads: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = dict.fromkeys(["config.json", *files], 100)
    monkeypatch.setattr(huggingface_hub, "model_info", listing(sizes))
    with pytest.raises(ExportError, match=f"^owner/old-model.* {expected}") as caught:
        hub.locate("owner/old-model")
    assert "\n" not in str(caught.value)
    assert downloads == []


@pytest.mark.parametrize("files", [["adapter_config.json", "adapter_model.bin"], ["weights.bin"]])
def test_what_is_no_model_at_all_is_left_to_those_who_read_its_description(
    files: list[str], downloads: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say so; that its weights are pickled would send the user on a wrong way."""
    monkeypatch.setattr(huggingface_hub, "model_info", listing(dict.fromkeys(files, 100)))
    hub.locate("owner/adapter")
    assert len(downloads) == 1


def test_shards_and_other_formats_beside_them_will_do(
    downloads: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["config.json", "model.safetensors.index.json", "pytorch_model.bin"]
    monkeypatch.setattr(huggingface_hub, "model_info", listing(dict.fromkeys(names, 100)))
    hub.fetch_weights(hub.locate("owner/some-model"))
    assert len(downloads) == 2


def full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_bytes: int) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_a_cache_without_room_is_refused_before_the_weights_are_downloaded(
    downloads: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    location = hub.locate("owner/some-model")
    full_disk(monkeypatch, tmp_path, 2_000_009_599)
    with pytest.raises(ExportError, match=r"owner/some-model@abc123.* 2\.0 GB.*HF_HOME") as caught:
        hub.fetch_weights(location)
    assert "\n" not in str(caught.value)
    assert len(downloads) == 1
    full_disk(monkeypatch, tmp_path, 2_000_009_600)
    hub.fetch_weights(location)
    assert len(downloads) == 2


def test_what_the_cache_holds_already_needs_no_room(
    downloads: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    location = hub.locate("owner/some-model")
    for name in GOOD:
        (location.folder / name).touch()
    full_disk(monkeypatch, tmp_path, 0)
    hub.fetch_weights(location)
    assert len(downloads) == 2


@pytest.mark.parametrize("num_parameters", [10**9, None])
def test_the_hub_counts_the_weights_before_they_are_here(
    num_parameters: int | None, downloads: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "model_info", listing(GOOD, num_parameters))
    assert hub.locate("owner/some-model").num_parameters == num_parameters


def test_an_output_without_room_is_refused_before_the_weights_are_downloaded(
    downloads: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    description = save_checkpoint(tiny_model(), tmp_path / "abc123")
    (description / "model.safetensors").unlink()
    full_disk(monkeypatch, tmp_path, 5_000_000_000)  # room for 2 GB of weights, not for 12 of work
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    words = ["owner/some-model", "--out", str(tmp_path / "out"), "--graph", "optimum", "--json"]
    with pytest.raises(ExportError, match=r"the export needs about 12\.0 GB"):
        cli.run(parser.parse_args(words))
    assert len(downloads) == 1


@pytest.mark.parametrize("error", [ConnectionError(), OfflineModeIsEnabled("HF_HUB_OFFLINE=1")])
def test_without_the_network_the_cache_will_do(
    error: Exception, downloads: Calls, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub, "model_info", failing(error))
    full_disk(monkeypatch, tmp_path, 0)
    hub.fetch_weights(hub.locate("owner/some-model"))
    assert len(downloads) == 2


def test_a_cache_whose_disk_fills_up_is_named_with_what_is_needed(
    downloads: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = hub.locate("owner/some-model")
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
    words = rf"disk of {HF_HUB_CACHE} has become full .*owner/some-model takes 2\.0 GB.*HF_HOME"
    for step in (lambda: hub.locate("owner/some-model"), lambda: hub.fetch_weights(location)):
        with pytest.raises(ExportError, match=words) as caught:
            step()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", ["model_info", "snapshot_download"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (GatedRepoError, "is gated: accept its terms"),
        (RepositoryNotFoundError, "neither a folder here nor a model on the hub"),
        (LocalEntryNotFoundError, "fetching it from the hub failed"),
        (ConnectionError, "check the name and the network"),
    ],
)
def test_a_failed_download_is_one_clear_sentence(
    error: type[Exception], expected: str, asked: str, downloads: Calls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # The hub's own errors want a response; their class is what counts here.
    made = error.__new__(error)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(made))
    monkeypatch.setattr(huggingface_hub, asked, failing(made))
    with pytest.raises(ExportError, match=expected) as caught:
        hub.locate("owner/secret")
    assert "\n" not in str(caught.value)
