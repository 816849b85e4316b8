"""The verbs of `tandem`: where each one's code is, what it needs, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb's code is, what it needs, and its line of help."""

    module: str
    extra: str
    """Extras of the distribution that hold what the verb imports; empty if the base is enough."""
    summary: str
    example: str = ""
    """What follows the verb on a command line."""


VERBS = {
    "demo": Verb(
        "benchmarks.demo", "device,edge,export", "show both halves at work on this machine"
    ),
    "export": Verb(
        "export.cli", "export,device", "turn a checkpoint into a bundle for the device",
        "Qwen/Qwen2.5-0.5B-Instruct --out qwen-0.5b --device raspberry-pi-5",
    ),
    "edge": Verb(
        "edge_server.cli", "edge", "serve a large model to devices",
        "--model ./Qwen2.5-7B-Instruct --host 0.0.0.0 --tokens-file tokens.txt --tls-cert cert.pem "
        "--tls-key key.pem",
    ),
    "top": Verb(
        "edge_server.top_cli", "edge", "watch what an edge is doing",
        "--edge https://edge.local:8600 --token-file token.txt --ca-file cert.pem",
    ),
    "run": Verb(
        "device_runtime.run_cli", "device", "write text on this device, checked by an edge",
        "--bundle qwen-0.5b --edge https://edge.local:8600 --token-file token.txt --ca-file cert.pem "
        "--chat 'Why is the sky blue?'",
    ),
    "bench": Verb("benchmarks.cli", "bench", "measure latency, bytes and energy", "run --quick"),
    "link": Verb(
        "benchmarks.link.cli", "device", "put an emulated link before the edge",
        "run lte --edge edge.local:8600 --listen 127.0.0.1:8700",
    ),
    "energy": Verb("device_runtime.energy.cli", "", "list power meters and read one"),
    "profiles": Verb(
        "hw_profiles.cli", "", "list and show hardware profiles", "show raspberry-pi-5"
    ),
    "doctor": Verb(
        "device_runtime.doctor", "", "check this machine and say what to improve", "--json"
    ),
}  # fmt: skip
