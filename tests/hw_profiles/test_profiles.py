"""The shipped profiles: complete, sourced, and free of contradictions."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import hw_profiles
from hw_profiles import link_names, load, load_link, names, papers_grid, schema
from hw_profiles.schema import Choice, DeviceProfile, LinkProfile, Quantity
from hw_profiles.units import POWER_UNITS, unit_of

FOLDER = Path(hw_profiles.__file__).parent
DEVICES = (
    "generic-x86",
    "jetson-agx-orin",
    "jetson-agx-thor",
    "jetson-orin-nano",
    "jetson-orin-nx",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "raspberry-pi-zero-2w",
    "rk3588",
)
LINKS = (
    "5g-low",
    "5g-mmwave",
    "ethernet",
    "lte",
    "lte-m",
    "lte-slow",
    "nb-iot",
    "starlink",
    "wifi4-home",
    "wifi5-home",
    "wifi6-home",
)

# One token of cache: 30 layers × 3 key-value heads × 64 × (key and value) × 4 bytes.
CACHE_BYTES_PER_TOKEN = 30 * 3 * 64 * 2 * 4


def profile_of(name: str) -> DeviceProfile | LinkProfile:
    return load(name) if name in DEVICES else load_link(name)


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a profile with its path."""
    yield path, value
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}[{index}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, Quantity):
        for field in dataclasses.fields(value):
            yield from walk(getattr(value, field.name), f"{path}.{field.name}")


def quantities(profile: DeviceProfile | LinkProfile) -> list[tuple[str, Quantity]]:
    return [(path, value) for path, value in walk(profile) if isinstance(value, Quantity)]


def test_the_promised_profiles_are_there() -> None:
    assert names() == DEVICES
    assert link_names()[: len(LINKS)] == LINKS
    assert set(names()).isdisjoint(link_names())


@pytest.mark.parametrize("name", [*DEVICES, *link_names()])
def test_a_profile_loads_under_its_own_name(name: str) -> None:
    profile = profile_of(name)
    assert profile.name == name
    assert profile.title
    assert profile.summary


@pytest.mark.parametrize("name", [*DEVICES, *link_names()])
def test_every_number_has_unit_source_and_kind(name: str) -> None:
    found = quantities(profile_of(name))
    assert found
    for path, quantity in found:
        key = path.rpartition(".")[2]
        assert unit_of(key), f"{path} names no unit"
        assert len(quantity.source) > 10, f"{path} has no real source"
        assert quantity.kind in get_args(schema.Kind)
        assert math.isfinite(quantity.value)
        assert (quantity.measuring_point is not None) == (unit_of(key) in POWER_UNITS), path


@pytest.mark.parametrize("name", [*DEVICES, *link_names()])
def test_no_bare_number_hides_in_a_profile(name: str) -> None:
    for path, value in walk(profile_of(name)):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        assert not is_number or path == ".runtime.accuracy_level.value", path


def schema_classes() -> list[type]:
    classes = [value for value in vars(schema).values() if dataclasses.is_dataclass(value)]
    assert len(classes) > 10
    return [cls for cls in classes if isinstance(cls, type)]


@pytest.mark.parametrize("cls", schema_classes())
def test_every_quantity_of_the_schema_ends_in_a_unit(cls: type) -> None:
    for key, hint in get_type_hints(cls).items():
        if hint is Quantity or Quantity in get_args(hint):
            assert unit_of(key), f"{cls.__name__}.{key} names no unit"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*.toml")), ids=lambda path: path.stem)
def test_every_source_of_a_file_is_used(path: Path) -> None:
    text = path.read_text()
    block = text.partition("[sources]\n")[2].partition("\n\n")[0]
    keys = re.findall(r"^([\w-]+) = ", block, re.MULTILINE)
    assert keys
    for key in keys:
        assert f'source = "{key}"' in text, f"{path.name} lists {key} and never uses it"


@pytest.mark.parametrize("name", DEVICES)
def test_the_context_cap_follows_its_rule(name: str) -> None:
    profile = load(name)
    smallest = profile.memory.smallest_bytes
    room = math.inf if smallest is None else smallest.value / 8 / CACHE_BYTES_PER_TOKEN
    expected = 8192 if room >= 8192 else 2 ** int(math.log2(room))
    assert profile.runtime.num_context_tokens.value == expected


@pytest.mark.parametrize("name", DEVICES)
def test_int8_activations_are_asked_for_exactly_where_the_cpu_has_them(name: str) -> None:
    profile = load(name)
    capable = {"dotprod", "avx2"} & set(profile.cpu.features)
    assert profile.runtime.accuracy_level.value == (4 if capable else 0)


@pytest.mark.parametrize("name", DEVICES)
def test_threads_spin_in_a_run_and_only_the_measured_machine_says_how_much_that_gains(
    name: str,
) -> None:
    spinning = load(name).runtime.allow_spinning
    assert spinning.value is True
    assert ("not measured on this board" in spinning.why) is (name != "generic-x86")


@pytest.mark.parametrize("name", [name for name in DEVICES if name.startswith("jetson")])
def test_a_jetson_prefers_its_gpu_and_falls_back_to_the_cpu(name: str) -> None:
    providers = load(name).runtime.providers.value
    assert providers == ("CUDAExecutionProvider", "CPUExecutionProvider")


def test_on_an_rk3588_only_the_big_cores_draft() -> None:
    profile = load("rk3588")
    assert profile.num_cores == 8
    assert profile.runtime.num_threads is not None
    assert profile.runtime.num_threads.value == profile.cpu.clusters[0].num_cores.value == 4


def test_the_super_firmware_of_an_orin_nano_lowers_the_cpu_clock_in_its_default_mode() -> None:
    modes = {m.name: m for m in load("jetson-orin-nano").modes if m.firmware == "super"}
    fifteen, default = modes["15W"].cpu_clock_hz, modes["25W"].cpu_clock_hz
    assert fifteen is not None
    assert default is not None
    assert modes["25W"].is_default
    assert default.value < fifteen.value


@pytest.mark.parametrize("name", DEVICES)
def test_each_firmware_has_at_most_one_default_mode_and_no_mode_twice(name: str) -> None:
    modes = load(name).modes
    for firmware in ("original", "super"):
        rows = [mode for mode in modes if mode.firmware == firmware]
        assert sum(mode.is_default for mode in rows) <= 1
        assert len({mode.id for mode in rows}) == len({mode.name for mode in rows}) == len(rows)


def test_published_speeds_of_a_pi_5_agree_with_its_bandwidth() -> None:
    # Decode reads the model once per token: 66 % of what one core reads, 2.4 J per token.
    profile = load("raspberry-pi-5")
    row = next(row for row in profile.published if row.load_w is not None)
    assert row.model_bytes is not None
    assert row.load_w is not None
    assert profile.memory.read_one_core_bytes_per_s is not None
    read = row.speed_tokens_per_s.value * row.model_bytes.value
    assert read / profile.memory.read_one_core_bytes_per_s.value == pytest.approx(0.66, abs=0.01)
    assert row.load_w.value / row.speed_tokens_per_s.value == pytest.approx(2.44, abs=0.01)


def test_the_papers_grid_holds_every_setting_once() -> None:
    links = papers_grid()
    assert len({link.name for link in links}) == len(links) == 27
    seen = {(link.rtt_s.value, link.down_bps.value, link.up_bps.value) for link in links}
    assert seen == {
        (rtt_s, down_bps, down_bps / divisor)
        for rtt_s in (0.0, 0.020, 0.050)
        for down_bps in (10e6, 50e6, 100e6)
        for divisor in (1, 3, 10)
    }


def test_the_papers_worst_cell_has_a_name() -> None:
    link = load_link("papers-50ms-10mbps-up10")
    assert (link.rtt_s.value, link.down_bps.value, link.up_bps.value) == (0.05, 10e6, 1e6)
    assert link in papers_grid(10)
    assert link not in papers_grid(1)


def test_radio_slopes_are_joules_per_bit() -> None:
    # 76.68 mW per Mbit/s, as fitted, is 76.68 nJ per bit; uplink is the dear direction.
    radio = load_link("lte").radio
    assert radio is not None
    assert radio.up_j_per_bit is not None
    assert radio.down_j_per_bit is not None
    assert radio.up_j_per_bit.value == pytest.approx(76.68e-3 / 1e6)
    assert radio.up_j_per_bit.value > 6 * radio.down_j_per_bit.value


def test_choices_give_reasons() -> None:
    for name in DEVICES:
        reasons = [value.why for _, value in walk(load(name)) if isinstance(value, Choice)]
        assert len(reasons) >= 4
        assert all(len(reason) > 10 for reason in reasons)


@pytest.mark.parametrize(
    ("compatibles", "isa", "name"),
    [
        (("raspberrypi,5-model-b", "brcm,bcm2712"), "aarch64", "raspberry-pi-5"),
        (("raspberrypi,500", "brcm,bcm2712"), "aarch64", "raspberry-pi-5"),
        (("raspberrypi,4-compute-module", "brcm,bcm2711"), "aarch64", "raspberry-pi-4"),
        (("raspberrypi,model-zero-2-w", "brcm,bcm2837"), "aarch64", "raspberry-pi-zero-2w"),
        (("raspberrypi,3-model-b", "brcm,bcm2837"), "aarch64", None),
        (
            ("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
            "aarch64",
            "jetson-orin-nano",
        ),
        (("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000"), "aarch64", "jetson-orin-nx"),
        (("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005"), "aarch64", "jetson-agx-orin"),
        (("nvidia,p4071-0000+p3834-0008", "nvidia,tegra264"), "aarch64", "jetson-agx-thor"),
        (("xunlong,orangepi-5", "rockchip,rk3588s"), "aarch64", "rk3588"),
        ((), "x86_64", "generic-x86"),
        ((), None, None),
    ],
)
def test_a_machine_finds_its_profile(
    compatibles: tuple[str, ...], isa: str | None, name: str | None
) -> None:
    found = hw_profiles.find_device(compatibles, isa)
    assert (found.name if found else None) == name
