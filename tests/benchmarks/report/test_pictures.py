"""Pictures show what the data hold, and say why where they cannot."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.report.cells import cells_of
from benchmarks.report.pictures.arms import OTHER, best_of_families, looks_of, pictured
from benchmarks.report.pictures.axis import spread
from benchmarks.report.pictures.bars import joules, ranking, round_breakdown
from benchmarks.report.pictures.ink import PALETTE
from benchmarks.report.pictures.lines import acceptance, against_downlink, against_round_trip
from benchmarks.report.pictures.pareto import LED_PT, frontier, pareto, places_beside
from benchmarks.report.pictures.picture import Absent, Picture
from benchmarks.report.pictures.traffic import bytes_per_token
from tests.benchmarks.report.hand_made import EDGE, LOSSY, at, group

TIME = "time_per_token_s"


def texts(picture: Picture | Absent) -> list[str]:
    assert isinstance(picture, Picture)
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.svg)


def why(picture: Picture | Absent) -> str:
    assert isinstance(picture, Absent)
    return picture.why


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ([10, 50, 90], [10, 50, 90]),
        ([50, 50], [45, 55]),
        ([50, 52, 54], [42, 52, 62]),
        ([99, 98], [100, 90]),
        ([1, 0, 50], [10, 0, 50]),
    ],
)
def test_labels_move_as_little_as_they_must(places: list[float], moved: list[float]) -> None:
    assert spread(places, 10, 100) == pytest.approx(moved)


def test_every_colour_of_the_light_theme_is_one_role_s() -> None:
    """Or a colour in a picture could stand for two variables of the page."""
    light = [pair[0] for pair in PALETTE.values()]
    assert len(set(light)) == len(light)


def test_colours_are_variables_and_text_is_text() -> None:
    picture = ranking(group(at(20, 1.0), at(55, **EDGE), at(10, **LOSSY)), TIME)
    assert isinstance(picture, Picture)
    assert not re.search(r"#[0-9a-f]{6}\b", picture.svg)
    assert set(re.findall(r"var\(--([\w-]+)\)", picture.svg)) <= PALETTE.keys()
    assert "font-family" not in picture.svg and "<style" not in picture.svg
    assert {"u-hlm/4 †", "ms per token", "55.0"} <= set(texts(picture))


def test_the_ranking_begins_with_the_least() -> None:
    shown = texts(ranking(group(at(20), at(55, **EDGE), at(10, **LOSSY)), TIME))
    assert [text for text in shown if "/" in text or text == "edge"] == [
        "u-hlm/4 †",
        "dssd-thinned/4",
        "edge",
    ]
    assert [text for text in shown if text in {"10.0", "20.0", "55.0"}] == ["10.0", "20.0", "55.0"]


def test_a_round_shows_its_length_and_its_tokens() -> None:
    picture = round_breakdown(group(at(20, round_wall_s=0.08, round_draft_s=0.03), at(55, **EDGE)))
    shown = texts(picture)
    assert "80.0 → 2.75" in shown and "edge" not in shown
    assert isinstance(picture, Picture)
    assert [swatch.label for swatch in picture.legend][:3] == ["draft", "encode", "up"]


def test_a_bar_far_longer_than_the_others_is_cut_and_says_so() -> None:
    walls = {"a/1": 0.1, "b/1": 0.1, "c/1": 0.1, "d/1": 2.0}
    parts = [at(20, arm=arm, round_wall_s=s, round_up_s=s) for arm, s in walls.items()]
    shown = texts(round_breakdown(group(*parts)))
    assert "▸ 2,000 → 2.75" in shown and "ms per round; ▸ is cut" in shown


def test_joules_say_how_they_were_found() -> None:
    modelled = {
        "energy_kind": "modelled",
        "energy_meter": "pi-5",
        "compute_j": 0.11,
        "wait_j": 0.22,
        "radio_j": 0.11,
    }
    picture = joules(group(at(20, 0.0, 5, **modelled)))
    assert isinstance(picture, Picture)
    assert picture.note == "Modelled, pi-5. The radio is modelled." and "40.0" in texts(picture)
    measured = joules(
        group(at(20, 0.0, 5, energy_kind="measured", energy_point="board", gross_j=0.22, net_j=0.1))
    )
    assert isinstance(measured, Picture) and measured.note == "Measured, board."


def test_bytes_have_a_mark_for_payload_and_for_all() -> None:
    picture = bytes_per_token(group(at(20), at(55, **EDGE)))
    assert {"10 B", "bytes per token, logarithmic"} <= set(texts(picture))


def test_lines_join_links_that_share_the_bandwidth() -> None:
    near = group(at(20), at(19, **EDGE))
    far = group(at(30, link="far", link_rtt_s=0.2), at(19, link="far", link_rtt_s=0.2, **EDGE))
    other = group(at(30, link="slow", link_down_bps=1e6))
    (picture,) = against_round_trip(
        [far, near, other], looks_of([*near.cells, *far.cells, *other.cells])
    )
    assert isinstance(picture, Picture)
    assert picture.subtitle == "lte, far: all with 117 Mbit/s down, 31 up"
    assert {"64.5", "200", "dssd-thinned/4", "edge", "round trip, ms"} <= set(texts(picture))


def test_marks_at_zero_stand_clear_of_the_other_axis_s_numbers() -> None:
    near = group(at(20, link="near", link_rtt_s=0.0))
    far = group(at(30, link="far", link_rtt_s=0.2))
    (picture,) = against_round_trip([near, far], looks_of(near.cells))
    assert isinstance(picture, Picture)
    zeros = dict(re.findall(r'text-anchor: (\w+);[^>]* x="([\d.]+)"[^>]*>0<', picture.svg))
    assert float(zeros["middle"]) - float(zeros["end"]) > 10


@pytest.mark.parametrize(("ms", "is_logarithmic"), [(55, False), (500, True)])
def test_an_axis_says_that_it_is_logarithmic(ms: float, is_logarithmic: bool) -> None:
    shown = texts(ranking(group(at(20), at(ms, **EDGE)), TIME))
    assert f"ms per token{', logarithmic' * is_logarithmic}" in shown


def test_lines_join_links_that_share_the_round_trip() -> None:
    fast = group(at(20))
    slow = group(at(30, link="slow", link_down_bps=1e6))
    (picture,) = against_downlink([fast, slow], looks_of([*fast.cells, *slow.cells]))
    assert isinstance(picture, Picture)
    assert picture.subtitle == "slow, lte: all with a round trip of 64.5 ms"


def test_uplinks_that_differ_at_the_same_downlink_give_pictures_of_their_own() -> None:
    links = [(down, share) for share in (1, 10) for down in (10e6, 50e6)]
    groups = [
        group(at(20, link=f"{down:g}/{share}", link_down_bps=down, link_up_bps=down / share))
        for down, share in links
    ]
    found = against_downlink(groups, looks_of(groups[0].cells))
    subtitles = [picture.subtitle for picture in found if isinstance(picture, Picture)]
    assert [subtitle.partition(":")[0] for subtitle in subtitles] == [
        "1e+07/1, 5e+07/1",
        "1e+07/10, 5e+07/10",
    ]


def test_acceptance_leaves_out_places_that_were_hardly_judged() -> None:
    found = group(at(20, judged_at=(40, 20, 2), accepted_at=(20, 5, 2)))
    shown = texts(acceptance([found], looks_of(found.cells)))
    assert {"1", "2", "dssd-thinned/4"} <= set(shown) and "3" not in shown


def test_acceptance_has_a_plain_scale_even_where_hardly_anything_is_accepted() -> None:
    found = group(at(20, judged_at=(40, 20), accepted_at=(36, 1)))
    assert {"0", "0.2", "share accepted"} <= set(texts(acceptance([found], looks_of(found.cells))))


def test_the_frontier_holds_what_nothing_beats_in_both() -> None:
    cells = cells_of(r for arm in "abcd" for r in at(20, arm=f"{arm}/1"))
    at_point = {"a/1": (1.0, 9.0), "b/1": (2.0, 3.0), "c/1": (3.0, 4.0), "d/1": (4.0, 1.0)}
    assert [cell.arm for cell in frontier(cells, at_point)] == ["a/1", "b/1", "d/1"]


def test_names_and_the_lines_to_them_cover_no_other_name() -> None:
    """As boxes and points along lines, of dots so near each other that most names need lines."""
    rng, size, half = np.random.default_rng(1), (270.0, 220.0), 5.5
    dots = {str(i): (float(x), float(y)) for i, (x, y) in enumerate(rng.normal(110, 12, (9, 2)))}
    beside = places_beside(dots, dict.fromkeys(dots, 50.0), size)
    assert len(beside) >= 7 and sum(abs(up) > LED_PT for _, up in beside.values()) >= 4
    ends = {arm: (dots[arm][0] + r, dots[arm][1] + up) for arm, (r, up) in beside.items()}
    for arm, (x, y) in ends.items():
        left = x if beside[arm][0] > 0 else x - 50 if beside[arm][0] < 0 else x - 25
        for other in ends.keys() - {arm}:
            is_led = abs(beside[other][1]) > LED_PT
            for px, py in np.linspace(dots[other], ends[other], 50 if is_led else 2):
                assert not (left < px < left + 50 and y - half < py < y + half), (arm, other)


def test_without_joules_the_edge_s_load_is_the_price() -> None:
    found = group(at(20), at(55, **EDGE))
    picture = pareto(found, looks_of(found.cells))
    assert picture.title == "Time against the edge's load"
    assert {"edge engine per token, ms", "edge", "dssd-thinned/4"} <= set(texts(picture))


def test_what_cannot_be_drawn_says_why() -> None:
    silent = group(at(20, token_ids=None, engine_s=None, wire_bytes_up=None, wire_bytes_down=None,
                      bytes_up=None, bytes_down=None))  # fmt: skip
    looks = looks_of(silent.cells)
    assert why(ranking(silent, TIME)) == "no arm has it"
    assert why(round_breakdown(silent)) == "no arm has timed rounds"
    assert why(joules(silent)).startswith("no meter was read")
    assert why(bytes_per_token(silent)).startswith("no arm has counted bytes")
    assert why(acceptance([silent], looks)).startswith("no arm has recorded")
    assert why(pareto(silent, looks)).startswith("fewer than two arms")
    assert why(against_round_trip([silent], looks)[0]).startswith("no two links")
    assert why(against_downlink([silent], looks)[0]).startswith("no two links")


def test_our_scheme_and_the_papers_are_coloured_first_and_the_slowest_are_grey() -> None:
    families = [f"s{i}" for i in range(6)] + ["dsd", "dssd-thinned"]
    cells = cells_of(r for i, name in enumerate(families) for r in at(10 + i, arm=f"{name}/4"))
    looks = looks_of(cells)
    assert looks["dssd-thinned/4"].role == "series-2" and looks["dsd/4"].role == "series-1"
    assert [looks[f"s{i}/4"] is OTHER for i in range(6)] == [False] * 4 + [True] * 2


def test_draft_lengths_share_a_colour_and_differ_in_dashes() -> None:
    looks = looks_of(cells_of(r for n in (2, 4) for r in at(20, arm=f"dssd/{n}", gamma=n)))
    assert looks["dssd/2"].role == looks["dssd/4"].role
    assert looks["dssd/2"].dashes != looks["dssd/4"].dashes


def test_too_many_arms_are_cut_to_the_best_draft_lengths() -> None:
    arms = [(family, n) for family in ("a", "b", "c") for n in range(1, 7)]
    cells = cells_of(r for f, n in arms for r in at(20 + abs(n - 3), arm=f"{f}/{n}", gamma=n))
    assert [cell.arm for cell in pictured(cells)] == ["a/3", "b/3", "c/3"]
    assert len(pictured(cells[:9])) == 9
    assert [cell.arm for cell in best_of_families(cells[:2])] == ["a/2"]
