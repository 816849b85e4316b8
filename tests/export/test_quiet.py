"""Libraries keep silent while we work, and speak again afterwards."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from export.quiet import quiet_libraries


def test_nothing_a_library_says_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_libraries():
        sys.stdout.write("out")
        sys.stderr.write("err")
        warnings.warn("careful", stacklevel=1)
        logging.getLogger("transformers.modeling_utils").warning("hm")
    assert capsys.readouterr() == ("", "")


def test_everything_is_as_before_afterwards() -> None:
    logger = logging.getLogger("optimum")
    before = (logger.level, sys.stdout, sys.stderr, warnings.filters[:])

    def fail() -> None:
        with quiet_libraries():
            assert logger.level == logging.ERROR
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (logger.level, sys.stdout, sys.stderr, warnings.filters[:]) == before
