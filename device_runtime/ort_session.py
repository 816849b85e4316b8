"""The one place that imports onnxruntime: its telemetry is off before it starts."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

# Official builds report usage unless this is set before the library is initialised.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

from device_runtime.protocol.errors import BundleError, TandemError
from device_runtime.protocol.manifest import Manifest
from device_runtime.protocol.runtime_versions import (
    FIRST_WITH_INT8_CACHE,
    FIRST_WITH_RIGHT_WINDOWS,
    WINDOW_KEY,
    in_words,
    version_of,
)
from device_runtime.providers import choose_providers
from device_runtime.settings import RuntimeSettings
from hw_profiles.schema import GPU_PROVIDERS

Session: TypeAlias = ort.InferenceSession

logger = logging.getLogger(__name__)
_redirecting = threading.Lock()

_ERRORS_ONLY = 3


def open_session(
    path: Path, settings: RuntimeSettings, manifest: Manifest, max_len: int
) -> Session:
    """A session on the best provider there is; BundleError if it cannot load the model."""
    if manifest.cache_dtype == "int8" and version_of(ort.__version__) < FIRST_WITH_INT8_CACHE:
        raise BundleError(
            f"{path.parent} has a cache of 8 bits, which onnxruntime {ort.__version__} cannot read; "
            f"export the model again with --cache fp32, or install onnxruntime "
            f"{in_words(FIRST_WITH_INT8_CACHE)} or newer"
        )
    options = session_options(settings)
    available = ort.get_available_providers()
    providers, passed_over = choose_providers(available, manifest, settings, max_len)
    try:
        # It prints where a provider does not start; standard output belongs to the text. One thread
        # at a time: two would take each other's redirection for the original and leave it so.
        with _redirecting, redirect_stdout(sys.stderr):
            session: Session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        raise BundleError(
            f"onnxruntime {ort.__version__} cannot load {path} ({_first_line(error)}); "
            "export the model again or install a newer onnxruntime"
        ) from error
    failed = [name for name, _ in providers if name not in session.get_providers()]
    passed_over += [f"{name} is passed over: onnxruntime could not start it." for name in failed]
    for warning in (
        *passed_over,
        *_slow_halves(session, manifest),
        *_wide_windows(session, max_len),
    ):
        logger.warning("%s", warning)
    return session


def _slow_halves(session: Session, manifest: Manifest) -> Iterator[str]:
    if manifest.cache_dtype == "float16" and not is_on_gpu(session):
        yield (
            "A bundle of float16 runs on the CPU, which computes float16 by way of float32; export the "
            "model with --weights int4 for this machine."
        )


def _wide_windows(session: Session, max_len: int) -> Iterator[str]:
    """Nothing where the model has no window, or where it never gets that far."""
    told = session.get_modelmeta().custom_metadata_map.get(WINDOW_KEY, "")
    window = int(told) if re.fullmatch("[0-9]{1,9}", told) else max_len
    if window < max_len and version_of(ort.__version__) < FIRST_WITH_RIGHT_WINDOWS:
        yield (
            f"onnxruntime {ort.__version__} lets this model's window of {window} positions see one "
            f"more (1.24 does not): drafts after {window} tokens are a little worse, the text stays "
            "right."
        )


def is_on_gpu(session: Session) -> bool:
    """Whether the session runs on a GPU first of all; onnxruntime falls back without an error."""
    return session.get_providers()[0] in GPU_PROVIDERS


def to_gpu(array: NDArray[Any]) -> Any:
    """A copy on the GPU: an OrtValue, which holds the memory, with its address in `data_ptr()`."""
    try:
        return ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0)
    except Exception as error:  # onnxruntime's own exceptions share no narrower base
        raise run_error(error) from error


def run_error(error: Exception) -> TandemError:
    """What to say where onnxruntime fails after the model was loaded."""
    return TandemError(
        f"onnxruntime {ort.__version__} cannot run the model ({_first_line(error)}); free memory if "
        "it is short, else export the model again"
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


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
    return options
