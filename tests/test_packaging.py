"""The wheel: three packages with their data, one command, and nothing that needs a checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SHIPPED = ("device_runtime", "edge_server", "hw_profiles")


def sources(folder: Path) -> set[str]:
    """Every file below the three packages that the wheel must hold."""
    files = (path for name in SHIPPED for path in (folder / name).rglob("*") if path.is_file())
    return {str(p.relative_to(folder)) for p in files if "__pycache__" not in p.parts}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads: setuptools leaves folders behind where it builds."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (*SHIPPED, "export", "benchmarks"):
        left_out = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, copy / name, ignore=left_out)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Built with the setuptools installed here: nothing is fetched."""
    out = tmp_path_factory.mktemp("wheels")
    script = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    command = [sys.executable, "-W", "ignore", "-c", script, str(out)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return zipfile.Path(built)


def files(wheel: zipfile.Path) -> set[str]:
    """Everything installed, without the metadata."""
    names = wheel.root.namelist()
    return {name for name in names if not name.endswith("/") and ".dist-info/" not in name}


def test_the_wheel_holds_three_packages_whole_and_nothing_else(
    wheel: zipfile.Path, checkout: Path
) -> None:
    assert files(wheel) == sources(checkout)
    assert {f"{name}/py.typed" for name in SHIPPED} <= files(wheel)


def test_the_wheel_names_its_command_and_licence(wheel: zipfile.Path) -> None:
    (info,) = (path for path in wheel.iterdir() if path.name.endswith(".dist-info"))
    assert "tandem = device_runtime.cli:main" in (info / "entry_points.txt").read_text()
    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text()
    licence = (info / "licenses" / "LICENSE").read_text()
    assert licence == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("extra", ["edge", "export"])
def test_loading_models_needs_a_transformers_that_takes_dtype(
    wheel: zipfile.Path, extra: str
) -> None:
    """Before 4.56 the argument was called torch_dtype."""
    (info,) = (path for path in wheel.iterdir() if path.name.endswith(".dist-info"))
    lines = (info / "METADATA").read_text().splitlines()
    (line,) = (
        line.removeprefix("Requires-Dist: ")
        for line in lines
        if line.startswith("Requires-Dist: transformers") and f'extra == "{extra}"' in line
    )
    requirement = Requirement(line)
    assert requirement.specifier.contains("4.56.0") and requirement.specifier.contains("4.57.6")
    assert not requirement.specifier.contains("4.55.4")


def test_every_verb_without_a_checkout_is_in_the_wheel(wheel: zipfile.Path) -> None:
    from device_runtime.cli import CHECKOUT_PACKAGES
    from device_runtime.verbs import VERBS

    modules = [verb.module for verb in VERBS.values()]
    shipped = [m for m in modules if m.partition(".")[0] not in CHECKOUT_PACKAGES]
    assert len(shipped) >= 4
    assert {f"{module.replace('.', '/')}.py" for module in shipped} <= files(wheel)
