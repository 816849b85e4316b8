"""The bundle's folder: where it may be put, what lies in it, and its manifest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from device_runtime.bundle import (
    CHAT_TEMPLATE_FILE,
    MANIFEST_FILE,
    TOKENIZER_FILE,
    load_manifest,
    save_manifest,
    sha256,
)
from device_runtime.chat_template import MAX_TEMPLATE_BYTES
from device_runtime.protocol.manifest import FORMAT_VERSION, Manifest, unfit
from device_runtime.template_sandbox import BoundedEnvironment
from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.scratch import NEW, OLD, flush, scratch

if TYPE_CHECKING:  # importing onnx would double the time to `tandem export --help`
    from export.graph_signature import GraphSignature

_FUSED_BYTES = {"fp32": 4.1, "fp16": 6.2, "int8": 1.25, "int8-dynamic": 1.25, "int4": 0.75}
"""Of a parameter on disk: a fused graph is written once, one of fp16 (2.1) beside its twin of fp32
that the parity check needs. int8 and int4 have a scale for each block of 32 or more (1/8 byte); the
rest is for norms and rotary tables."""
_TRACED_BYTES = 12.0
"""In a graph of optimum, whatever becomes of it: the traced weights, the merged file and a rewritten
copy, in float32, are on disk at once."""
_TOOLS = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "tokenizers")


def check_place(out: Path, *, force: bool, checkpoint: Path | None = None) -> None:
    """ExportError where a bundle must not be written to `out`.

    With `force` an older bundle is replaced; no other folder ever is.
    """
    out = out.resolve()
    if checkpoint is not None and out in (checkpoint.resolve(), *checkpoint.resolve().parents):
        raise ExportError(f"{out} holds the checkpoint itself; choose another folder for --out")
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file; choose a folder for --out")
    if os.path.ismount(out):
        raise ExportError(
            f"{out} is a mount point, and nothing can take its place; choose a folder inside it for "
            "--out"
        )
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / MANIFEST_FILE).is_file():
        also = "--force replaces only bundles; " if force else ""
        raise ExportError(
            f"{out} is not empty and holds no bundle; {also}choose another folder for --out"
        )
    if not force:
        raise ExportError(f"{out} holds a bundle already; add --force to replace it")


def space_bytes(num_parameters: int, graph: str, weights: str) -> float:
    """What an export of such a graph takes on the disk of its bundle while it runs."""
    return num_parameters * (_FUSED_BYTES[weights] if graph == "fused" else _TRACED_BYTES)


def check_space(out: Path, needed_bytes: float) -> None:
    """ExportError where the disk of `out` has less left."""
    parent = out.resolve()
    while not parent.exists():
        parent = parent.parent
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < needed_bytes:
        raise ExportError(
            f"the export needs about {needed_bytes / 1e9:.1f} GB, and the disk of {parent} has "
            f"{free_bytes / 1e9:.1f} GB left; free some, or choose another place for --out"
        )


@contextmanager
def replacing(out: Path, *, force: bool) -> Iterator[Path]:
    """A new folder that takes the place of `out` at the end; on an error `out` stays as it was.

    ExportError where none can be made there, or where something has appeared meanwhile that must not
    be replaced.
    """
    out = out.resolve()
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch(out))
        except OSError as error:
            raise ExportError(
                f"no bundle can be made at {out} ({error}); choose another place for --out"
            ) from error
        new, old = folder / NEW, folder / OLD
        yield new
        check_place(out, force=force)
        for path in (*new.iterdir(), new):
            flush(path)
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
        flush(out.parent)


def chat_template(checkpoint: Checkpoint) -> str | None:
    """The checkpoint's, if it has one; ExportError where a device could not render it."""
    advice = "mend it, or remove it from chat_template.jinja and tokenizer_config.json"
    try:
        template = checkpoint.chat_template
        if template is not None:
            BoundedEnvironment().from_string(template)
    except (UnicodeDecodeError, TemplateError) as error:
        raise ExportError(
            f"the chat template of {checkpoint.source} is no Jinja template in UTF-8 ({error}); "
            f"{advice}"
        ) from None
    if template is not None and len(template.encode()) > MAX_TEMPLATE_BYTES:
        raise ExportError(
            f"the chat template of {checkpoint.source} is larger than the {MAX_TEMPLATE_BYTES} bytes "
            f"that a device reads; {advice}"
        )
    return template


def check_description(checkpoint: Checkpoint, context_len: int) -> None:
    """ExportError where a device would refuse what the manifest says of the checkpoint."""
    wrong = unfit(
        {
            "context_len": context_len,
            "bos_token_id": checkpoint.bos_token_id,
            "end_token_ids": checkpoint.end_token_ids,
        }
    )
    if wrong is not None:
        raise ExportError(
            f"{checkpoint.source} gives {wrong}; correct its config.json or generation_config.json"
        )


def write_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """tokenizer.json with the checkpoint's settings, and the chat template if there is one."""
    path = checkpoint.folder / TOKENIZER_FILE
    data = json.loads(path.read_text(encoding="utf-8"))
    around = checkpoint.tokenizer.post_processor
    settled = {
        "truncation": None,
        "padding": None,
        "post_processor": around and json.loads(around.__getstate__()),
    }
    if any(data.get(key) != value for key, value in settled.items()):
        text = json.dumps(data | settled, ensure_ascii=False)
        (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")
    else:
        shutil.copyfile(path, folder / TOKENIZER_FILE)
    if (template := chat_template(checkpoint)) is not None:
        (folder / CHAT_TEMPLATE_FILE).write_text(template, encoding="utf-8")


def write_manifest(
    checkpoint: Checkpoint,
    signature: GraphSignature,
    folder: Path,
    *,
    graph: str,
    weights: str,
    num_heads: int,
    context_len: int,
) -> Manifest:
    """Hash every file of the folder and write manifest.json; nothing may change afterwards."""
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source=checkpoint.source,
        architecture=checkpoint.model_type,
        graph=graph,
        weights=weights,
        num_heads=num_heads,
        context_len=context_len,
        bos_token_id=checkpoint.bos_token_id,
        end_token_ids=checkpoint.end_token_ids,
        files={path.name: sha256(path) for path in sorted(folder.iterdir())},
        tool_versions={tool: version(tool) for tool in _TOOLS}
        | {"onnxruntime": onnxruntime_version()},
        **asdict(signature),
    )
    save_manifest(manifest, folder)
    return load_manifest(folder)


def onnxruntime_version() -> str:
    """By the module, as its distribution has other names, too (onnxruntime-gpu)."""
    import onnxruntime

    return str(onnxruntime.__version__)


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file of the bundle."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
