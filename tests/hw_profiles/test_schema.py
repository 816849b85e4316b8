"""What the reader refuses, and how it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw_profiles import ProfileError, load, load_either, load_link
from hw_profiles.schema import DeviceProfile, LinkProfile

DEVICE = """
name = "mine"
title = "My board"
summary = "Made for this test."

[sources]
meter = "measured on my desk"

[match]
compatibles = ["acme,board"]

[cpu]
isa = "aarch64"
features = ["dotprod"]
features_source = "meter"

[[cpu.clusters]]
core = "Cortex-A76"
num_cores = { value = 4, kind = "measured", source = "meter" }

[memory]
[memory.read_one_core_bytes_per_s]
value = 9e9
low = 8e9
high = 10e9
kind = "measured"
source = "meter"

[power]
idle_w = { value = 2.5, kind = "measured", source = "meter", measuring_point = "wall" }
active_w = { value = 6, kind = "measured", source = "meter", measuring_point = "wall" }

[power.sensor]
kind = "none"
covers = "Nothing."
source = "meter"

[runtime]
num_context_tokens = { value = 2048, kind = "assumption", source = "meter" }
num_threads = { value = 4, kind = "assumption", source = "meter" }
weights = { value = "int4", why = "it is small" }
accuracy_level = { value = 4, why = "dot product" }
allow_spinning = { value = false, why = "waiting" }
providers = { value = ["CPUExecutionProvider"], why = "nothing else" }
"""

THEORY = """
[memory]
theoretical_bytes_per_s = { value = 1e9, kind = "derived", source = "meter" }
"""

MODE = """
[[modes]]
id = "0"
name = "ALL"
firmware = "original"
num_cores = { value = 6, kind = "datasheet", source = "meter" }

[runtime]
"""

LINK = """
name = "string-and-cans"
title = "Two cans and a string"
summary = "Made for this test."
confidence = "low"
down_bps = { value = 1e3, kind = "measured", source = "cans" }
up_bps = { value = 1e3, kind = "measured", source = "cans" }
rtt_s = { value = 0.1, kind = "measured", source = "cans" }

[sources]
cans = "measured in the garden"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def refusal(folder: Path, old: str, new: str, text: str = DEVICE) -> str:
    """The message about a profile in which `old` was replaced."""
    assert text.count(old) >= 1
    with pytest.raises(ProfileError) as raised:
        load_either(write(folder, text.replace(old, new, 1)))
    return str(raised.value)


def test_a_profile_of_ones_own_loads_from_a_path(tmp_path: Path) -> None:
    path = write(tmp_path, DEVICE)
    profile = load(path)
    assert profile == load(str(path)) == load_either(path)
    assert profile.power.idle_w is not None
    assert profile.power.idle_w.source == "measured on my desk"
    assert profile.memory.read_one_core_bytes_per_s is not None
    assert profile.memory.read_one_core_bytes_per_s.low == 8e9
    assert profile.runtime.providers.value == ("CPUExecutionProvider",)


def test_a_profile_may_say_every_kind_of_weights_and_how_long_a_run_is(tmp_path: Path) -> None:
    text = DEVICE.replace('weights = { value = "int4"', 'weights = { value = "int8-dynamic"')
    more = '[runtime]\nnum_prefill_tokens = { value = 8, kind = "assumption", source = "meter" }'
    profile = load(write(tmp_path, text.replace("[runtime]", more)))
    assert profile.runtime.weights.value == "int8-dynamic"
    assert profile.runtime.num_prefill_tokens is not None
    assert profile.runtime.num_prefill_tokens.value == 8


def test_a_link_of_ones_own_loads_from_a_path(tmp_path: Path) -> None:
    path = write(tmp_path, LINK)
    assert isinstance(load_either(path), LinkProfile)
    assert load_link(path).rtt_s.value == 0.1


def test_a_name_finds_a_device_or_a_link() -> None:
    assert isinstance(load_either("raspberry-pi-5"), DeviceProfile)
    assert isinstance(load_either("papers-20ms-50mbps"), LinkProfile)


@pytest.mark.parametrize(
    ("old", "new", "path", "hint"),
    [
        ("num_threads", "num_thread", "`runtime.num_thread`", "did you mean 'num_threads'?"),
        ("idle_w", "idel_w", "`power.idel_w`", "did you mean 'idle_w'?"),
        ("[memory]", "[memroy]", "`memroy`", "did you mean 'memory'?"),
        ('core = "C', 'cores = 1\ncore = "C', "`cpu.clusters[0].cores`", "did you mean 'core'?"),
        ("low = 8e9", "lowest = 8e9", "read_one_core_bytes_per_s.lowest`", "did you mean 'low'?"),
        ('why = "waiting"', 'because = "waiting"', "`runtime.allow_spinning`", "`why`"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    old: str, new: str, path: str, hint: str, tmp_path: Path
) -> None:
    message = refusal(tmp_path, old, new)
    assert "mine.toml" in message
    assert path in message
    assert hint in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (', source = "meter", measuring_point', ", measuring_point", "source` is missing"),
        ('source = "meter", measuring_point', 'source = "metre", measuring_point', "'meter'?"),
        ('source = "meter", measuring_point', 'source = ["meter"], measuring_point', "'meter'?"),
        ('meter = "measured on my desk"', 'meter = ""', "`sources.meter` must be a citation"),
        ('kind = "measured"', 'kind = "mesured"', "did you mean 'measured'?"),
        (', measuring_point = "wall"', "", "needs a measuring_point"),
        ('measuring_point = "wall"', 'measuring_point = "roof"', "must be one of wall"),
        (
            'num_threads = { value = 4, kind = "assumption"',
            'num_threads = { value = 4, measuring_point = "wall", kind = "assumption"',
            "is not power or energy",
        ),
        ("idle_w = { value = 2.5,", "idle_w = {", "value` is missing"),
        ("value = 2.5", "value = -1", "finite and not negative"),
        ("value = 2.5", "value = nan", "finite and not negative"),
        ("value = 2.5", "value = inf", "finite and not negative"),
        ("value = 2.5", f"value = 1{'0' * 400}", "finite and not negative, got 1000"),
        ("value = 2.5", "value = true", "must be a number"),
        ("value = 2.5", 'value = "2.5"', "must be a number"),
        ("low = 8e9", "low = 9.5e9", "lies outside"),
        ("high = 10e9", "high = 8.5e9", "lies outside"),
        ("num_cores = { value = 4", "num_cores = { value = 4.5", "whole number from 1"),
        ("num_cores = { value = 4", "num_cores = { value = 0", "whole number from 1"),
        ('idle_w = { value = 2.5, kind = "measured"', "idle_w = 2.5 #", "must be a table"),
        ('isa = "aarch64"', 'isa = "riscv64"', "must be one of aarch64"),
        ('isa = "aarch64"', f"isa{'.a' * 900} = 1", "must be one of aarch64"),
        ('features = ["dotprod"]', 'features = ["dotpord"]', "did you mean 'dotprod'?"),
        ('features = ["dotprod"]', 'features = "dotprod"', "must be a list"),
        ('name = "mine"', "name = 7", "must be of type str"),
        ('name = "mine"\n', "", "`name` is missing"),
        ('value = "int4"', 'value = "int5"', "must be one of fp32, fp16, int8, int8-dynamic, int4"),
        ("value = false", "value = 0", "must be of type bool"),
        ("accuracy_level = { value = 4", "accuracy_level = { value = true", "must be one of 0"),
        ('"acme,board"', "7", "`match.compatibles[0]`"),
    ],
)
def test_nonsense_is_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, old, new)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("value = 2.5", "value = 7", "idle_w is above power.active_w"),
        (
            '"meter", measuring_point = "wall" }\nactive_w',
            '"meter", measuring_point = "rails" }\nactive_w',
            "at different points",
        ),
        ("num_threads = { value = 4", "num_threads = { value = 5", "above the 4 cores"),
        ('["dotprod"]', "[]", "needs the feature dotprod"),
        ('value = "int4"', 'value = "fp16"', "providers wishes for none"),
        (
            "[memory]",
            THEORY,
            "one core reads faster",
        ),
        ('covers = "Nothing."', 'covers = "All."\ntotal_rail = "VIN"', "is not one of its rails"),
        (
            "[runtime]",
            MODE,
            "more cores than the 4",
        ),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    assert said in refusal(tmp_path, old, new)


@pytest.mark.parametrize("cpu_weights", ["", 'cpu_weights = { value = "fp16", why = "slip" }'])
def test_half_precision_comes_with_weights_for_the_cpu(cpu_weights: str, tmp_path: Path) -> None:
    on_gpu = DEVICE.replace('["CPUExec', '["CUDAExecutionProvider", "CPUExec')
    new = f'weights = {{ value = "fp16", why = "a GPU" }}\n{cpu_weights}'
    said = refusal(tmp_path, 'weights = { value = "int4", why = "it is small" }', new, on_gpu)
    assert "needs other runtime.cpu_weights" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("down_bps = { value = 1e3", "down_bps = { value = 0", "must carry something"),
        ("confidence", 'loss_ratio = { value = 1, kind = "measured", source = "cans" }\nconfidence',
         "must be below 1"),
        ('confidence = "low"', 'confidence = "lowish"', "did you mean 'low'?"),
        ("up_bps", "up_mbps", "did you mean 'up_bps'?"),
    ],
)  # fmt: skip
def test_impossible_links_are_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, old, new, LINK)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ProfileError, match="did you mean 'raspberry-pi-5'"):
        load("raspberry-pi5")
    with pytest.raises(ProfileError, match="did you mean 'starlink'"):
        load_link("starlnik")
    with pytest.raises(ProfileError, match="no device profile 'lte'"):
        load("lte")


def test_a_file_that_is_not_there_or_no_toml_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot read the profile"):
        load(tmp_path / "gone.toml")
    for text in ("name = ", f"name = {'1' * 5000}", f"name = {'[' * 3000}"):
        with pytest.raises(ProfileError, match="not valid TOML"):
            load(write(tmp_path, text))
    with pytest.raises(ProfileError, match="`sources` must be a table"):
        load(write(tmp_path, "sources = 1"))
