"""What a bundle says about its model: written by export, read by the runtimes, checked by both."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from device_runtime.protocol.errors import BundleError

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """Facts of one exported model. Tensor name patterns hold `%d` for the layer."""

    format_version: int
    source: str
    """Folder name or hub id of the checkpoint, with its revision if it has one."""
    architecture: str
    """`model_type` of the checkpoint's config."""
    graph: str
    """`optimum` (cache grows by concatenation) or `fused` (one shared past/present buffer)."""
    weights: str
    """`fp32`, `int8` or `int4`."""
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    """Columns of the logits, padding included."""
    context_len: int
    """Positions the model was made for."""
    bos_token_id: int | None
    end_token_ids: tuple[int, ...]
    cache_dtype: str
    """`float32` or `float16`."""
    logits_dtype: str
    input_ids_name: str
    attention_mask_name: str | None
    position_ids_name: str | None
    logits_name: str
    past_key_pattern: str
    past_value_pattern: str
    present_key_pattern: str
    present_value_pattern: str
    files: dict[str, str]
    """Every other file of the bundle → its SHA-256."""
    tool_versions: dict[str, str]

    def save(self, folder: Path) -> None:
        """Write manifest.json into the bundle folder."""
        (folder / FILE_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read manifest.json; BundleError where it is missing, of another version or malformed."""
        path = folder / FILE_NAME
        if not path.is_file():
            raise BundleError(
                f"{folder} is not a bundle: it has no {FILE_NAME}. "
                "Make one with `tandem export CHECKPOINT --out FOLDER`."
            )
        try:
            data = json.loads(path.read_text())
        except ValueError as error:
            raise BundleError(f"{path} is no valid JSON ({error}); export again") from None
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: Any, where: str) -> Manifest:
        """Check version, keys and types."""
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{where} has format version {version}, this runtime reads {FORMAT_VERSION}; "
                "export the model again with this version of Tandem"
            )
        known = {f.name for f in fields(cls)}
        if data.keys() != known:
            wrong = sorted(data.keys() ^ known)
            raise BundleError(f"{where} has missing or unknown keys: {', '.join(wrong)}")
        data["end_token_ids"] = tuple(data["end_token_ids"])
        return cls(**data)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Every file named is a plain file inside the folder with the recorded hash."""
    root = folder.resolve()
    for name, wanted in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or root not in path.resolve().parents:
            raise BundleError(f"{path} is missing or not a plain file inside the bundle")
        if sha256(path) != wanted:
            raise BundleError(f"{path} does not match the manifest's hash; copy or export it again")
