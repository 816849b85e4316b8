from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_runtime.bundle import MANIFEST_FILE, Bundle, load_manifest, save_manifest
from device_runtime.external_data import external_locations
from device_runtime.onnx_drafter import OnnxDrafter, RuntimeSettings
from device_runtime.protocol.errors import BundleError
from tests.tiny_bundle import TinyShape, make_bundle, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def test_a_good_bundle_opens(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.model_path.is_file()
    assert bundle.tokenizer_path.is_file()
    assert bundle.chat_template_path == folder / "chat_template.jinja"


def test_a_bundle_without_a_chat_template_opens(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    write_manifest(folder, "fused", TinyShape())
    assert Bundle.open(folder).chat_template_path is None


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no manifest\.json.*tandem export"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "chat_template.jinja"])
def test_an_altered_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} does not match the manifest's hash"):
        OnnxDrafter.open(folder, RuntimeSettings())


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "chat_template.jinja"])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        OnnxDrafter.open(folder, RuntimeSettings())


def test_a_symlink_is_refused_even_to_the_right_content(folder: Path) -> None:
    outside = folder.parent / "elsewhere.onnx"
    (folder / "model.onnx").rename(outside)
    (folder / "model.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="not a plain file"):
        OnnxDrafter.open(folder, RuntimeSettings())


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_manifest_that_leaves_out_a_needed_file_is_refused(folder: Path, name: str) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"][name]
    path.write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=f"lists no {name}"):
        Bundle.open(folder)


def test_a_model_that_onnxruntime_cannot_load_is_refused(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, folder / "model.onnx")
    write_manifest(folder, "fused", TinyShape())
    with pytest.raises(BundleError, match=r"cannot load .*NoSuchOperator"):
        OnnxDrafter.open(folder, RuntimeSettings())


def external_weight(name: str, location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "unlisted.bin", "weights.bin"]
)
def test_weights_are_read_from_listed_files_only(folder: Path, location: str) -> None:
    (folder / "weights.bin").write_bytes(bytes(16))
    model = onnx.load(folder / "model.onnx")
    model.graph.initializer.append(external_weight("extra", location))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_manifest(folder, "fused", TinyShape())
    (folder / "unlisted.bin").write_bytes(bytes(16))
    if location == "weights.bin":
        assert OnnxDrafter.open(folder, RuntimeSettings()).num_tokens == 0
    else:
        with pytest.raises(BundleError, match=rf"reads weights from {location}"):
            OnnxDrafter.open(folder, RuntimeSettings())


def test_external_weights_are_found_wherever_a_model_may_hide_them(tmp_path: Path) -> None:
    def constant(name: str) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=external_weight(name, name))

    sparse = onnx.SparseTensorProto(dims=[8])
    sparse.values.CopyFrom(external_weight("values", "values"))
    sparse.indices.CopyFrom(external_weight("indices", "indices"))
    branch = helper.make_graph([constant("in_branch")], "branch", [], [])
    branch.initializer.append(external_weight("of_branch", "of_branch"))
    choice = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    many = helper.make_node("Odd", [], ["z"])
    many.attribute.add(name="tensors").tensors.append(external_weight("one_of_many", "one_of_many"))
    many.attribute.add(name="graphs").graphs.append(
        helper.make_graph([constant("in_graphs")], "g", [], [])
    )
    graph = helper.make_graph([constant("in_node"), choice, many], "main", [], [])
    graph.initializer.append(external_weight("plain", "plain"))
    graph.sparse_initializer.append(sparse)
    function = helper.make_function(
        "local", "f", [], ["in_function"], [constant("in_function")], [helper.make_opsetid("", 18)]
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, functions=[function]).SerializeToString())
    assert external_locations(path) == {
        *("plain", "values", "indices", "in_node", "in_branch", "of_branch"),
        *("one_of_many", "in_graphs", "in_function"),
    }


def test_every_cut_of_a_model_is_read_or_refused_but_never_crashes(tmp_path: Path) -> None:
    graph = helper.make_graph([], "main", [], [])
    graph.initializer.append(external_weight("weight", "weights.bin"))
    content = helper.make_model(graph).SerializeToString()
    path = tmp_path / "model.onnx"
    num_refused = 0
    for size in range(len(content)):
        path.write_bytes(content[:size])
        try:
            external_locations(path)
        except BundleError:
            num_refused += 1
    assert num_refused > len(content) // 2


def test_a_file_that_nests_endlessly_is_refused(tmp_path: Path) -> None:
    content = b""
    for field in (6, 5, 1) * 50:  # attribute → graph → node → attribute …
        size = len(content)
        length = bytes([size & 0x7F | 0x80, size >> 7]) if size > 127 else bytes([size])
        content = bytes([field << 3 | 2]) + length + content
    path = tmp_path / "model.onnx"
    size = len(content)
    path.write_bytes(bytes([7 << 3 | 2, size & 0x7F | 0x80, size >> 7]) + content)
    with pytest.raises(BundleError, match="nest too deep"):
        external_locations(path)


def test_the_hash_in_the_manifest_is_sha_256(folder: Path) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    content = (folder / "model.onnx").read_bytes()
    assert files["model.onnx"] == hashlib.sha256(content).hexdigest()


def test_a_manifest_comes_back_from_its_folder(folder: Path, tmp_path: Path) -> None:
    manifest = load_manifest(folder)
    save_manifest(manifest, tmp_path)
    assert load_manifest(tmp_path) == manifest
    assert (tmp_path / MANIFEST_FILE).read_bytes() == (folder / MANIFEST_FILE).read_bytes()


@pytest.mark.parametrize("text", ["", "{", "\ufeff{}", "[" * 100_000, "9" * 5000])
def test_a_manifest_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"no valid JSON|format version None"):
        load_manifest(tmp_path)


def test_a_manifest_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(b"\xff\xfe{")
    with pytest.raises(BundleError, match="no valid JSON"):
        load_manifest(tmp_path)
