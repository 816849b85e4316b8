"""Local folders and hub ids; the hub itself is a function that stands in for its client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from export import hub
from export.errors import ExportError

Calls = list[tuple[str, str | None, list[str]]]


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls: Calls = []

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repo, revision, allow_patterns))
        (tmp_path / "abc123").mkdir(exist_ok=True)
        return str(tmp_path / "abc123")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
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


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "a/b/c", "owner/", "-x y", ""])
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
    ("error", "expected"),
    [
        (GatedRepoError, "is gated: accept its terms"),
        (RepositoryNotFoundError, "neither a folder here nor a model on the hub"),
        (LocalEntryNotFoundError, "fetching it from the hub failed"),
        (ConnectionError, "check the name and the network"),
    ],
)
def test_a_failed_download_is_one_clear_sentence(
    error: type[Exception], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub's own errors want a response; their class is what counts here.
    made = error.__new__(error)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(made))
    with pytest.raises(ExportError, match=expected) as caught:
        hub.locate("owner/secret")
    assert "\n" not in str(caught.value)
