"""The one place that imports onnxruntime: its telemetry is off before it starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

# Official builds report usage unless this is set before the library is initialised.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

from device_runtime.protocol.errors import BundleError
from device_runtime.settings import RuntimeSettings

Session: TypeAlias = ort.InferenceSession

_ERRORS_ONLY = 3


def open_session(path: Path, settings: RuntimeSettings) -> Session:
    """A session on the CPU; BundleError if this onnxruntime cannot load the model."""
    options = session_options(settings)
    try:
        session: Session = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        reason = str(error).partition("\n")[0]
        raise BundleError(
            f"onnxruntime {ort.__version__} cannot load {path} ({reason}); "
            "export the model again or install a newer onnxruntime"
        ) from error
    return session


def session_options(settings: RuntimeSettings) -> ort.SessionOptions:
    """The settings as onnxruntime names them."""
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = settings.num_threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = settings.memory_arena
    # Config entries are plain strings: a version that does not know one ignores it.
    spinning = "1" if settings.allow_spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    # While a round is on the network nothing runs: no thread may spin beyond the run's end.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return options
