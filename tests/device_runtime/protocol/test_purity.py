"""The protocol touches no file, clock or entropy, not even by a function that needs no import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_runtime import protocol

FILES = sorted(Path(protocol.__path__[0]).rglob("*.py"))

MODULES = {
    "asyncio", "concurrent", "contextvars", "ctypes", "datetime", "fcntl", "fileinput", "getpass",
    "glob", "http", "importlib", "io", "locale", "logging", "mmap", "multiprocessing", "os",
    "pathlib", "platform", "random", "secrets", "select", "selectors", "shutil", "signal", "socket",
    "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid", "warnings",
}  # fmt: skip
"""Of the standard library: files, clocks, entropy, other machines and processes, global state."""
FUNCTIONS = {"open", "print", "input", "breakpoint", "id", "hash", "globals", "__import__"}
"""Without an import. `hash` of a text differs from process to process."""
METHODS = {
    "open", "read_text", "read_bytes", "write_text", "write_bytes", "exists", "is_file", "is_dir",
    "is_symlink", "iterdir", "glob", "rglob", "mkdir", "unlink", "stat", "resolve",
    "fromfile", "tofile", "memmap", "loadtxt", "savetxt", "urandom",
}  # fmt: skip
"""Of paths and of numpy."""
GENERATORS = {
    "default_rng", "Philox", "PCG64", "PCG64DXSM", "MT19937", "SFC64", "SeedSequence", "RandomState"
}  # fmt: skip
"""Of numpy: they take entropy from the system unless they get a seed."""


def impurities(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"import of {name}" for name in names if name.partition(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            yield from of_call(node)
        if isinstance(node, ast.arg) and node.arg == "seed" and is_optional(node.annotation):
            yield "a seed that may be left out"


def of_call(call: ast.Call) -> Iterator[str]:
    if isinstance(call.func, ast.Name) and call.func.id in FUNCTIONS:
        yield f"{call.func.id}()"
    called = ast.unparse(call.func)
    name = called.rpartition(".")[2]
    if isinstance(call.func, ast.Attribute) and name in METHODS:
        yield f"{called}()"
    if name in GENERATORS:
        first = next(iter([*call.args, *(keyword.value for keyword in call.keywords)]), None)
        if first is None or (isinstance(first, ast.Constant) and first.value is None):
            yield f"{called}() without a seed"
    elif "random." in called and name not in {"Generator", "random"}:
        yield f"{called}() of a generator that all share"


def is_optional(annotation: ast.expr | None) -> bool:
    return annotation is None or "None" in ast.unparse(annotation)


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_a_module_of_the_protocol_is_pure(path: Path) -> None:
    assert list(impurities(path.read_text(encoding="utf-8"))) == []


def test_all_modules_were_looked_at() -> None:
    names = {path.name for path in FILES}
    assert {"manifest.py", "randomness.py", "edge_session.py", "thinned.py"} <= names


@pytest.mark.parametrize(
    "source",
    [
        "import os.path",
        "from time import monotonic",
        "def f():\n    import secrets",
        "from pathlib import Path",
        "open(name)",
        "path.open('rb')",
        "folder.read_text()",
        "(folder / name).write_text(text)",
        "np.fromfile(name)",
        "np.random.default_rng()",
        "np.random.Philox(None)",
        "np.random.Philox(seed=None)",
        "np.random.uniform()",
        "hash(text)",
        "def coins(seed: int | None = None): ...",
        "def coins(seed=None): ...",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert len(list(impurities(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "np.random.Generator(np.random.Philox(seed)).random",
        "def coins(seed: int): ...",
        "hashlib.blake2b(data).digest()",
        "data.read(4)",
        "self.open_rounds(3)",
    ],
)
def test_the_search_lets_pass(source: str) -> None:
    assert list(impurities(source)) == []
