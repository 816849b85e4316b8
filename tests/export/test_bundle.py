"""Where a bundle may go, how it takes its place, and the files beside the graph."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_runtime.chat_template import MAX_TEMPLATE_BYTES
from export import bundle, parity
from export.checkpoint import Checkpoint, count_parameters
from export.errors import ExportError
from tests.tiny_models import CONTEXT_LEN, tiny_tokenizer

Export = Callable[..., int]


def bundle_at(folder: Path, content: str = "old") -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text(content)
    return folder


def test_a_new_or_empty_folder_will_do(tmp_path: Path) -> None:
    bundle.check_place(tmp_path / "new" / "deep", force=False)
    bundle.check_place(tmp_path, force=False)


def test_a_bundle_is_replaced_only_by_force(tmp_path: Path) -> None:
    out = bundle_at(tmp_path / "out")
    with pytest.raises(ExportError, match="add --force"):
        bundle.check_place(out, force=False)
    bundle.check_place(out, force=True)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis.odt").touch()
    with pytest.raises(ExportError, match="is not empty and holds no bundle") as refused:
        bundle.check_place(tmp_path, force=force)
    assert ("--force replaces only bundles" in str(refused.value)) == force


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ExportError, match="is a file"):
        bundle.check_place(tmp_path / "out", force=True)


def test_the_checkpoint_itself_is_never_replaced(tmp_path: Path) -> None:
    out = bundle_at(tmp_path / "out")
    for checkpoint in (out, out / "inner"):
        with pytest.raises(ExportError, match="holds the checkpoint itself"):
            bundle.check_place(out, force=True, checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("graph", "weights", "per_parameter"),
    [("optimum", "fp32", 12), ("optimum", "int4", 12), ("fused", "fp32", 4.1),
     ("fused", "fp16", 6.2), ("fused", "int8", 1.25), ("fused", "int4", 0.75)],
)  # fmt: skip
def test_too_small_a_disk_is_refused(
    graph: str, weights: str, per_parameter: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=round(per_parameter * 1e6))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    out = tmp_path / "not" / "yet"
    bundle.check_space(out, bundle.space_bytes(1_000_000, graph, weights))
    with pytest.raises(ExportError, match=r"needs about 0\.0 GB, and the disk of"):
        bundle.check_space(out, bundle.space_bytes(1_000_002, graph, weights))


def test_what_fp16_takes_on_the_disk_is_known(
    llama: Path, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    judge = parity._judge

    def watched(model: Any, ids: Sequence[int]) -> Any:
        used.append(sum(path.stat().st_size for path in tmp_path.rglob("model.onnx_data")))
        used[-1] += sum(path.stat().st_size for path in tmp_path.rglob("exact.onnx_data"))
        return judge(model, ids)

    monkeypatch.setattr(parity, "_judge", watched)
    assert export(llama, "--out", tmp_path / "out", "--weights", "fp16", "--json") == 0
    num_parameters = count_parameters(llama)
    tables = 3 * CONTEXT_LEN * 16 * 4  # of few positions in a large model
    assert max(used) - tables < bundle.space_bytes(num_parameters, "fused", "fp16")
    assert max(used) > 5.9 * num_parameters


def test_a_finished_folder_takes_its_place(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with bundle.replacing(out, force=True) as folder:
        (folder / "model.onnx").write_text("new")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "model.onnx").read_text() == "new"


def test_the_old_bundle_stands_until_the_new_one_is_good(tmp_path: Path) -> None:
    out = bundle_at(tmp_path / "out")
    with bundle.replacing(out, force=True) as folder:
        (folder / "manifest.json").write_text("new")
        assert (out / "manifest.json").read_text() == "old"
    assert (out / "manifest.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("error", [ExportError("no"), KeyboardInterrupt(), OSError(28, "full")])
def test_a_failure_leaves_the_old_bundle_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    out = bundle_at(tmp_path / "out")

    def fail() -> None:
        with bundle.replacing(out, force=True) as folder:
            (folder / "manifest.json").write_text("new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (out / "manifest.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_failure_at_the_last_step_puts_the_old_bundle_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = bundle_at(tmp_path / "out")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="input/output"), bundle.replacing(out, force=True):
        pass
    assert (out / "manifest.json").read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("force", [False, True])
def test_what_appears_meanwhile_is_not_destroyed(tmp_path: Path, force: bool) -> None:
    out = tmp_path / "out"

    def export() -> None:
        with bundle.replacing(out, force=force) as folder:
            (folder / "manifest.json").write_text("new")
            out.mkdir()
            (out / ("thesis.odt" if force else "manifest.json")).write_text("of another")

    with pytest.raises(ExportError, match="holds no bundle" if force else "add --force"):
        export()
    assert [path.read_text() for path in out.iterdir()] == ["of another"]
    assert list(tmp_path.iterdir()) == [out]


def test_a_bundle_is_on_the_disk_before_the_old_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = bundle_at(tmp_path / "out")
    flushed: list[Path] = []
    fsync, rename = os.fsync, Path.rename
    names = {"model.onnx", "manifest.json", "new"}

    def recorded(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        assert {path.name for path in flushed} == names
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(Path, "rename", renamed)
    with bundle.replacing(out, force=True) as folder:
        for name in names - {"new"}:
            (folder / name).write_text("new")
    assert flushed[-1] == tmp_path


def test_a_place_where_nothing_can_be_made_is_refused_before_any_work() -> None:
    with (
        pytest.raises(
            ExportError, match=r"no bundle can be made at /dev/null/x .*; choose another"
        ),
        bundle.replacing(Path("/dev/null/x"), force=False),
    ):
        pytest.fail("the work began")


def test_a_mount_point_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path)
    with pytest.raises(ExportError, match="choose a folder inside it"):
        bundle.check_place(tmp_path, force=True)
    bundle.check_place(tmp_path / "inside", force=False)


def test_a_linked_folder_is_replaced_where_it_lies(tmp_path: Path) -> None:
    real = bundle_at(tmp_path / "real")
    link = tmp_path / "link"
    link.symlink_to(real)
    with bundle.replacing(link, force=True) as folder:
        (folder / "manifest.json").write_text("new")
    assert link.is_symlink()
    assert (real / "manifest.json").read_text() == "new"


def checkpoint(folder: Path, tokenizer_config: dict[str, Any] | None = None) -> Checkpoint:
    return Checkpoint(folder, "it", {}, {}, tokenizer_config or {}, tiny_tokenizer())


def test_the_tokenizer_is_copied_byte_for_byte(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    bundle.write_tokenizer(checkpoint(tmp_path), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokenizer.json"]
    copy = (tmp_path / "out" / "tokenizer.json").read_bytes()
    assert copy == (tmp_path / "tokenizer.json").read_bytes()


def test_truncation_left_by_a_training_script_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    data = json.loads(tiny_tokenizer().to_str())
    cut = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**data, "truncation": cut}))
    bundle.write_tokenizer(checkpoint(tmp_path), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text()) == data


def test_the_chat_template_becomes_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    bundle.write_tokenizer(checkpoint(tmp_path, {"chat_template": "{{ x }}"}), tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ x }}"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}", "is no Jinja template in UTF-8"),
        ("{{ messages | novel }}", "No filter named 'novel'"),
        ("{# " + "x" * MAX_TEMPLATE_BYTES + " #}", "is larger than the 131072 bytes"),
    ],
)
def test_a_chat_template_that_no_device_renders_is_refused(
    tmp_path: Path, template: str, why: str
) -> None:
    with pytest.raises(ExportError, match=f"{why}.*mend it, or remove it"):
        bundle.chat_template(checkpoint(tmp_path, {"chat_template": template}))


def test_a_chat_template_may_use_what_devices_know(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}{% break %}"
    )
    template += "{% endfor %}"
    assert bundle.chat_template(checkpoint(tmp_path, {"chat_template": template})) == template


@pytest.mark.parametrize(
    ("config", "context_len", "why"),
    [
        ({"eos_token_id": 1 << 24}, 64, "gives end_token_ids as"),
        ({"bos_token_id": 1 << 24}, 64, "gives bos_token_id as"),
        ({}, 0, "gives context_len as 0, where a whole number from 2"),
    ],
)
def test_what_a_manifest_must_not_say_is_refused(
    tmp_path: Path, config: dict[str, Any], context_len: int, why: str
) -> None:
    found = replace(checkpoint(tmp_path), config=config)
    with pytest.raises(ExportError, match=f"{why}.*; correct its config.json"):
        bundle.check_description(found, context_len)
    bundle.check_description(checkpoint(tmp_path), 64)
