"""The device package on emulated ARM boards: it imports, computes the same and passes its tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.arm.agreement import INT8_CACHE, require_same_tokens
from tests.arm.board import CPUS, JETSON_ONNXRUNTIME, PYTHON, Board, build

pytestmark = pytest.mark.arm

MODEL_TESTS = ("test_onnx_drafter.py", "test_cached_graph.py", "test_bundle.py")
DEVICE_TESTS = (
    *MODEL_TESTS,
    "test_link.py",
    "test_turn.py",
    "protocol/test_bit_arrays.py",
    "protocol/test_detokenizer.py",
    "protocol/test_edge_session.py",
    "protocol/test_exact_mutants.py",
    "protocol/test_grid.py",
    "protocol/test_lattice.py",
    "protocol/test_law.py",
    "protocol/test_messages.py",
    "protocol/test_packing.py",
    "protocol/test_padding.py",
    "protocol/test_randomness.py",
    "protocol/test_sampling.py",
    "protocol/test_single_precision.py",
    "protocol/test_tokens.py",
    "protocol/test_vocabulary.py",
    "protocol/test_wire.py",
    "protocol/schemes",
)
TESTS_TIMEOUT_S = 4 * 3600.0
"""A quarter of an hour on two idle cores of a PC; more where something else runs."""
LONG_TESTS = ("protocol/test_exact_law.py",)
"""Arithmetic of float64 is the same on all of them: once is enough, at minutes under emulation."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A board, the onnxruntime on it, and which of the device's tests it runs."""

    cpu: str
    onnxruntime: str | None = None
    tests: tuple[str, ...] = DEVICE_TESTS

    def __str__(self) -> str:
        return f"{self.cpu}-ort-{self.onnxruntime}" if self.onnxruntime else self.cpu


SUBJECTS = [
    Subject("cortex-a53"),
    Subject("cortex-a72"),
    Subject("cortex-a76", tests=(*DEVICE_TESTS, *LONG_TESTS)),
    Subject("cortex-a76", JETSON_ONNXRUNTIME, MODEL_TESTS),
]


@pytest.fixture(scope="module", params=SUBJECTS, ids=str)
def subject(request: pytest.FixtureRequest) -> Subject:
    chosen: Subject = request.param
    return chosen


@pytest.fixture(scope="module")
def board(subject: Subject) -> Board:
    return build(subject.cpu, onnxruntime=subject.onnxruntime)


@pytest.fixture(scope="module")
def there(subject: Subject, board: Board, bundles: Path, wide_caches: Path) -> dict[str, Any]:
    """The probe's report from the board."""
    folder = bundles if subject.onnxruntime is None else wide_caches
    done = board.run("-m", "tests.arm.probe", str(folder))
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_the_report_comes_from_the_board(subject: Subject, there: dict[str, Any]) -> None:
    assert there["machine"] == "aarch64"
    assert there["python"].startswith(f"{PYTHON}.")
    if subject.onnxruntime is not None:
        assert there["onnxruntime"] == subject.onnxruntime
    print(f"\n{subject}: {CPUS[subject.cpu].board}, onnxruntime {there['onnxruntime']}")


@pytest.mark.parametrize("what", ["streams", "packing", "lattice"])
def test_whole_numbers_give_the_same_bytes(
    what: str, here: dict[str, Any], there: dict[str, Any]
) -> None:
    assert there[what] == here[what]


def test_the_schemes_decide_the_same(here: dict[str, Any], there: dict[str, Any]) -> None:
    """Tokens, acceptances and requests; bytes may differ where a law's last bit does."""
    ours, theirs = here["schemes"], there["schemes"]
    assert theirs.keys() == ours.keys()
    for name in ours:
        assert theirs[name]["decisions"] == ours[name]["decisions"], name
    other = [name for name in ours if theirs[name]["messages"] != ours[name]["messages"]]
    print(f"\nbytes of messages differ in {len(other)} of {len(ours)} schemes {other}", end="")


def test_every_named_cpu_is_a_subject() -> None:
    assert {subject.cpu for subject in SUBJECTS} == set(CPUS)


def test_bundles_give_the_same_greedy_tokens(
    subject: Subject, here: dict[str, Any], there: dict[str, Any]
) -> None:
    unread = INT8_CACHE if subject.onnxruntime is not None else ()
    require_same_tokens(here["drafts"], there["drafts"], unread)


def test_the_devices_own_tests_pass(subject: Subject, board: Board) -> None:
    paths = [f"tests/device_runtime/{name}" for name in subject.tests]
    options = ("-q", "-p", "no:cacheprovider", "--durations=5")
    done = board.run("-m", "pytest", *options, *paths, timeout_s=TESTS_TIMEOUT_S)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    print(f"\n{subject}: {done.stdout.splitlines()[-1]}")
