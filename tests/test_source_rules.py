"""Rules of the house that no linter holds: what code must not call, lean on or grow to."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("export", "device_runtime", "edge_server", "benchmarks", "hw_profiles")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PROTOCOL = [path for path in FILES if ROOT / "device_runtime" / "protocol" in path.parents]

OBJECT_LOADERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 40


def each(paths: list[Path]) -> pytest.MarkDecorator:
    """One test a file, named by its path."""
    return pytest.mark.parametrize("path", paths, ids=[str(p.relative_to(ROOT)) for p in paths])


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def dangers(source: str) -> list[str]:
    """Everything in the source that can run code out of data."""
    tree = ast.parse(source)
    found = [
        f"line {line}: import of {name}"
        for line, name in imported(tree)
        if name.partition(".")[0] in OBJECT_LOADERS or name == "torch.load"
    ]
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return found + [f"line {call.lineno}: {why}" for call in calls for why in call_dangers(call)]


def call_dangers(call: ast.Call) -> Iterator[str]:
    called = ast.unparse(call.func)
    if called in {"eval", "exec", "builtins.eval", "builtins.exec", "torch.load"}:
        yield called
    for keyword in call.keywords:
        is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in {"allow_pickle", "trust_remote_code"} and not is_off:
            yield f"{keyword.arg}={ast.unparse(keyword.value)}"


@each(FILES)
def test_no_code_is_run_out_of_data(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "from dill import loads",
        "def f():\n    from joblib.numpy_pickle import load",
        "from torch import load",
        "torch.load(path, weights_only=True)",
        "eval(text)",
        "exec(text)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds_code_run_out_of_data(source: str) -> None:
    assert len(dangers(source)) == 1


@pytest.mark.parametrize(
    "source", ["model.eval()", "np.load(path, allow_pickle=False)", "safetensors.torch.load(data)"]
)
def test_the_search_lets_harmless_code_pass(source: str) -> None:
    assert dangers(source) == []


@each(PROTOCOL)
def test_the_protocol_leans_on_numpy_alone(path: Path) -> None:
    names = [name for _, name in imported(ast.parse(path.read_text(encoding="utf-8")))]
    foreign = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert foreign <= {"numpy", "device_runtime"}
    own = [name for name in names if name.startswith("device_runtime")]
    assert all(name.startswith("device_runtime.protocol") for name in own)


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """Length in lines and place of every function; decorators are not counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            place = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
            yield (node.end_lineno or node.lineno) - node.lineno + 1, place


def test_modules_stay_short() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > MAX_MODULE_LINES} == {}


def test_functions_stay_short() -> None:
    found = (entry for path in FILES for entry in functions(path))
    assert [entry for entry in found if entry[0] > MAX_FUNCTION_LINES] == []
