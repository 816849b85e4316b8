"""A bundle folder, opened: every file checked against the manifest before anything reads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from device_runtime.external_data import external_locations
from device_runtime.protocol.errors import BundleError
from device_runtime.protocol.manifest import Manifest

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Bundle:
    """One exported model on disk."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Read the manifest and check all files; BundleError says what is wrong.

        Hashing costs about 0.15 s per 100 MB on a PC and leaves the files in the page cache, from
        which onnxruntime then reads them: the disk is read once.
        """
        manifest = load_manifest(folder)
        for name in (MODEL_FILE, TOKENIZER_FILE):
            if name not in manifest.files:
                raise BundleError(f"{folder} lists no {name}; export the model again")
        _verify_files(folder, manifest)
        outside = external_locations(folder / MODEL_FILE) - manifest.files.keys()
        if outside:
            raise BundleError(
                f"{folder / MODEL_FILE} reads weights from {', '.join(sorted(outside))}, which the "
                "manifest does not list; do not use this bundle, export the model again"
            )
        return cls(folder, manifest)

    @property
    def model_path(self) -> Path:
        """The ONNX graph."""
        return self.folder / MODEL_FILE

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer, as the `tokenizers` library writes it."""
        return self.folder / TOKENIZER_FILE

    @property
    def chat_template_path(self) -> Path | None:
        """The chat template, if the checkpoint had one."""
        listed = CHAT_TEMPLATE_FILE in self.manifest.files
        return self.folder / CHAT_TEMPLATE_FILE if listed else None


def load_manifest(folder: Path) -> Manifest:
    """Read manifest.json; BundleError where it is missing, of another version or malformed."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST_FILE}. "
            "Make one with `tandem export CHECKPOINT --out FOLDER`."
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is no valid JSON ({error}); export again") from None
    return Manifest.parse(data, str(path))


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """Write manifest.json into the bundle folder."""
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _verify_files(folder: Path, manifest: Manifest) -> None:
    """Every file named is a plain file inside the folder with the recorded hash."""
    root = folder.resolve()
    for name, wanted in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or root not in path.resolve().parents:
            raise BundleError(f"{path} is missing or not a plain file inside the bundle")
        if sha256(path) != wanted:
            raise BundleError(f"{path} does not match the manifest's hash; copy or export it again")
