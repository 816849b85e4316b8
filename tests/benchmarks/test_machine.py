"""Facts about the machine: the keys of the registry, and nothing made up where nothing is known."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.record import Record

RECORDED = Path(__file__).parents[1] / "device_runtime" / "recorded"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one committed file."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    return tmp_path


def test_the_facts_of_this_machine_make_a_record() -> None:
    facts = machine.collect()
    assert Record("demo", facts, {}, {}).machine == facts
    assert facts["numpy_version"] == np.__version__
    assert facts["python_version"] == sys.version.split()[0]
    assert {"architecture", "num_cpus", "os", "load_1min", "date"} <= facts.keys()


def test_a_recorded_pi_is_recognised(tmp_path: Path) -> None:
    facts = machine.collect(RECORDED / "raspberry-pi-5" / "root", tmp_path)
    assert "Raspberry Pi 5" in facts["board"]
    assert facts["cpu_model"] == "Cortex-A76"
    assert facts["governor"] == "ondemand"
    assert facts["cpu_max_hz"] == 2.4e9
    assert 2**30 < facts["memory_bytes"] < 2**34


def test_unknown_facts_are_left_out(tmp_path: Path) -> None:
    facts = machine.collect(tmp_path, tmp_path)
    unknown = {"board", "cpu_max_hz", "governor", "memory_bytes", "git_commit", "git_dirty"}
    assert not unknown & facts.keys()
    assert None not in facts.values()


def test_the_commit_is_named_and_a_changed_file_makes_it_dirty(checkout: Path) -> None:
    facts = machine.collect(checkout=checkout)
    assert (facts["git_commit"], facts["git_dirty"]) == (git(checkout, "rev-parse", "HEAD"), False)
    (checkout / "file").write_text("2")
    assert machine.collect(checkout=checkout)["git_dirty"] is True


def test_a_folder_inside_a_strange_repository_has_no_commit(checkout: Path) -> None:
    inside = checkout / "inside"
    inside.mkdir()
    assert "git_commit" not in machine.collect(checkout=inside)


def test_packages_are_looked_up_without_importing_them() -> None:
    script = "import sys; from benchmarks.machine import collect; collect(); "
    check = (
        "sys.exit(', '.join({'torch', 'transformers', 'onnxruntime'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script + check],
        cwd=machine.CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
