"""A disk that fills up, whoever says so."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from export.errors import ExportError, naming_full_disk

IN_WORDS = "I/O error: IO Error: No space left on device (os error 28)"
"""Of hf_xet 1.8, without a number."""


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError(IN_WORDS)]
)
def test_a_disk_that_fills_up_is_named_with_what_to_do(tmp_path: Path, error: OSError) -> None:
    words = rf"^the disk of {tmp_path} has become full \(.*No space left.*\): free some$"
    with pytest.raises(ExportError, match=words), naming_full_disk(tmp_path, "free some"):
        raise error


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), naming_full_disk(tmp_path, "free some"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
