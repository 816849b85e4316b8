"""The workstation side: turn a checkpoint into a bundle a small device can run."""

import os

# Official builds of onnxruntime report usage unless this is set before the library is initialised,
# and other libraries here may import it first.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
