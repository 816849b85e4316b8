"""Units in keys, and numbers as people read them."""

from __future__ import annotations

import pytest

from hw_profiles.units import format_value, unit_of


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("read_one_core_bytes_per_s", "_bytes_per_s"),
        ("speed_tokens_per_s", "_tokens_per_s"),
        ("rtt_s", "_s"),
        ("smallest_bytes", "_bytes"),
        ("up_j_per_bit", "_j_per_bit"),
        ("num_cores", "num_"),
        ("idle", None),
    ],
)
def test_a_key_names_its_unit_and_the_longest_ending_wins(key: str, unit: str | None) -> None:
    assert unit_of(key) == unit


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("read_bytes_per_s", 14.877e9, "14.88 GB/s"),
        ("smallest_bytes", 512 * 2**20, "512 MiB"),
        ("model_bytes", 100, "100 B"),
        ("rtt_s", 0.054, "54 ms"),
        ("rtt_s", 0.0, "0 s"),
        ("frame_j", 0.126e-3, "126 µJ"),
        ("up_j_per_bit", 76.68e-9, "76.68 nJ/bit"),
        ("down_bps", 180e3, "180 kbit/s"),
        ("max_clock_hz", 1.4976e9, "1.498 GHz"),
        ("idle_w", 0.6, "600 mW"),
        ("soft_limit_c", 80.0, "80 °C"),
        ("loss_ratio", 0.01, "0.01"),
        ("num_cores", 4.0, "4"),
        ("name_without_unit", 2.0, "2"),
    ],
)
def test_numbers_are_printed_with_prefix_and_unit(key: str, value: float, text: str) -> None:
    assert format_value(key, value) == text
