"""The head of a report: which machine, which models, how much was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.record import Record
from benchmarks.report.figures import Results

MODELS = {
    "llm": "LLM", "slm": "SLM", "weights": "weights of the SLM", "dtype": "numbers of the LLM",
    "device_profile": "device profile",
}  # fmt: skip
SOFTWARE = ("python", "numpy", "onnxruntime", "torch", "transformers")


def facts(records: Sequence[Record]) -> dict[str, str]:
    """By name, those that are known."""
    machine = records[0].machine
    found = (*_machine(machine), *_models(records), *_extent(records))
    return {name: value for name, value in found if value}


def meters(answers: Iterable[Results]) -> list[str]:
    """Measured or modelled, by what, and where: each way once."""
    names = ("energy_kind", "energy_meter", "energy_point")
    found = (
        ", ".join(str(results[name]) for name in names if name in results) for results in answers
    )
    return list(dict.fromkeys(text for text in found if text))


def _machine(machine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "machine", machine.get("board", "")
    cores = machine.get("num_usable_cpus", machine.get("num_cpus"))
    number = f"{cores} × " if cores else ""
    clock = f", up to {machine['cpu_max_hz'] / 1e9:.2f} GHz" if "cpu_max_hz" in machine else ""
    yield "processor", f"{number}{machine['cpu_model']}{clock}" if "cpu_model" in machine else ""
    yield "governor", machine.get("governor", "")
    yield (
        "memory",
        f"{machine['memory_bytes'] / 2**30:.1f} GiB" if "memory_bytes" in machine else "",
    )
    yield "system", ", ".join(machine[n] for n in ("os", "kernel", "architecture") if n in machine)
    versions = ((name, machine.get(f"{name}_version")) for name in SOFTWARE)
    yield "software", ", ".join(f"{name} {version}" for name, version in versions if version)
    dirty = ", with changes that are not committed" if machine.get("git_dirty") else ""
    yield "commit", f"{machine['git_commit'][:12]}{dirty}" if "git_commit" in machine else ""
    load = f", load {machine['load_1min']:g} before" if "load_1min" in machine else ""
    yield "begun", f"{machine['date']}{load}" if "date" in machine else ""


def _models(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    for key, name in MODELS.items():
        found = {str(record.settings[key]) for record in records if key in record.settings}
        yield name, ", ".join(sorted(found))


def _extent(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    yield "energy", "; ".join(meters(record.results for record in records)) or "no meter"
    counts = {
        "link": len({record.settings["link"] for record in records}),
        "arm": len({record.settings["arm"] for record in records}),
        "prompt": len({record.settings.get("prompt") for record in records}),
        "repeat": len({record.repeat for record in records}),
    }
    parts = (f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items())
    yield "measured", f"{len(records):,} answers: {', '.join(parts)}"
