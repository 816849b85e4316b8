"""Keep the libraries' chatter off the terminal, so that a user sees only our own lines."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

_TALKATIVE = ("transformers", "optimum", "torch", "torch.onnx", "onnxruntime", "huggingface_hub")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within: no warnings, no log lines below ERROR, nothing on stdout or stderr.

    Libraries are to be imported inside, because some speak while they load. A console that is to be
    heard meanwhile must have taken hold of the real stderr before.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(redirect_stderr(nowhere))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
