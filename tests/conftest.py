"""Settings that hold for all tests."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Where workers share the cores (make test), models with threads of their own would wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run, and no time limit: a busy machine is no failure.
settings.register_profile(
    "tandem", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tandem")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that was asked for and cannot run has failed."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.fail("it needs a CUDA device", pytrace=False)
