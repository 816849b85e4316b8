"""What runs where only the device's extra is installed (make test-device)."""

from __future__ import annotations

from importlib.util import find_spec

WITH_TORCH = ["protocol/test_rope_parameters.py", "protocol/test_start_tokens.py", "test_start.py"]
"""Modules that compare the device with transformers, or export first."""

collect_ignore = [] if find_spec("torch") else WITH_TORCH
