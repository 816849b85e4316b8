"""Sentences and headlines say who wins, whoever it is."""

from __future__ import annotations

from typing import Any

from benchmarks.report.cells import Group
from benchmarks.report.findings import overview, verdicts
from benchmarks.report.headlines import DEFAULT_GAMMA, headlines
from device_runtime import writing_options
from tests.benchmarks.report.hand_made import DEVICE, EDGE, EDGE_DRAFT, LOSSY, at, group

AHEAD = group(
    at(20, 1.0), at(21, 1.0, arm="sqs/4", scheme="sqs"), at(55, 1.0, engine_s=0.44, **EDGE)
)
BEHIND = group(
    at(31, link="nb-iot"), at(7, link="nb-iot", **EDGE), at(12, link="nb-iot", **EDGE_DRAFT)
)


def test_a_split_arm_wins() -> None:
    fastest, edge, engine = verdicts(AHEAD)
    assert fastest == (
        "Fastest: dssd-thinned/4, 20.0 ms per token [19.0–21.0]; not told apart from sqs/4. "
        "edge takes 55.0 ms, 2.75 times as much."
    )
    assert edge == (
        "The split pays here: dssd-thinned/4 (the fastest of 2 split arms) is faster than edge."
    )
    assert engine == (
        "Least engine time: dssd-thinned/4, 10.0 ms per token [10.0–10.0]; not told apart from "
        "sqs/4. edge takes 40.0 ms, 4.00 times as much."
    )


def test_the_edge_wins() -> None:
    fastest, edge, engine = verdicts(BEHIND)
    assert fastest.startswith(
        "Fastest: edge, 7.00 ms per token [7.00–7.00]. dssd-thinned/4 takes 31.0 ms"
    )
    assert edge == "The edge needs no device here: edge and edge-draft beat dssd-thinned/4."
    assert engine.startswith("Least engine time: edge, 10.0 ms")


def test_lossy_arms_that_are_faster_are_named_apart() -> None:
    found = verdicts(group(at(20), at(18, **LOSSY), at(3, **DEVICE)))
    assert found[0].startswith("Fastest: dssd-thinned/4, 20.0 ms")
    assert (
        "Faster, but with another text than the LLM's: device (3.00 ms) and u-hlm/4 (18.0 ms)."
        in found
    )


def test_where_intervals_meet_nothing_is_claimed() -> None:
    found = verdicts(group(at(20, 4.0), at(19, 4.0, **LOSSY), at(22, 4.0, **EDGE)))
    assert found[0].startswith(
        "Fastest: dssd-thinned/4, 20.0 ms per token [16.0–24.0]; not told apart"
    )
    assert found[1:3] == [
        "Undecided whether the split pays here: dssd-thinned/4 is not told apart from edge.",
        "Perhaps faster (undecided), but with another text than the LLM's: u-hlm/4 (19.0 ms).",
    ]


def test_one_reference_that_is_level_is_enough_not_to_pay() -> None:
    _, edge, _ = verdicts(group(at(20, 1.0), at(55, **EDGE), at(20.5, 1.0, **EDGE_DRAFT)))
    assert edge == (
        "Undecided whether the split pays here: dssd-thinned/4 is not told apart from edge-draft."
    )


def test_a_single_repeat_tells_no_arms_apart() -> None:
    found = verdicts(group(at(10, repeats=1), at(99, repeats=1, **EDGE)))
    assert found[0].startswith(
        "Fastest: dssd-thinned/4, 10.0 ms per token; by its median alone: the repeats are too few"
    )
    assert found[1].startswith("Undecided whether the split pays here")


def test_nothing_measured_nothing_said() -> None:
    silent = group(at(20, token_ids=None, engine_s=None))
    assert verdicts(silent) == [] and headlines([silent]) == []


def test_a_single_repeat_shows_no_interval() -> None:
    assert verdicts(group(at(20, repeats=1)))[0] == "Fastest: dssd-thinned/4, 20.0 ms per token."


def test_the_overview_names_the_best_and_marks_the_winner() -> None:
    table = overview([AHEAD, BEHIND])
    assert table.heads == ("link", "best split arm", "edge", "edge-draft", "least engine time")
    shown = [[entry.markdown for entry in row] for row in table.rows]
    assert shown == [
        ["lte", "**20.0 ms** dssd-thinned/4", "55.0 ms", "–", "10.0 ms dssd-thinned/4"],
        ["nb-iot", "31.0 ms dssd-thinned/4", "**7.00 ms**", "12.0 ms", "10.0 ms edge"],
    ]
    assert table.rows[1][0].anchor == "nb-iot-t-1"


def said(*groups: Group) -> list[str]:
    return [str(headline) for headline in headlines(groups)]


def test_headlines_tell_the_greatest_gain_and_the_greatest_loss() -> None:
    gain, loss, load, traffic = said(AHEAD, BEHIND)
    assert gain == (
        "Up to 2.75× faster: dssd-thinned/4 writes a token in 20.0 ms [19.0–21.0] over lte; the LLM "
        "alone on the edge takes 55.0 ms [54.0–56.0]. The best of 2 cases: ahead in 1, behind in 1."
    )
    assert loss == (
        "Up to 4.43× slower: Over nb-iot edge needs 7.00 ms [7.00–7.00] a token, dssd-thinned/4 "
        "31.0 ms [31.0–31.0]."
    )
    assert load == (
        "2.50× less edge time: A token takes 10.0 ms of the edge's engine with dssd-thinned/4; edge "
        "25.0 ms."  # edge-draft was measured over one of the links alone
    )
    assert traffic.startswith("70.0 B per token: A token of dssd-thinned/4 puts 70.0 B on the link")
    assert [headline.is_gain for headline in headlines([AHEAD, BEHIND])] == [
        True,
        False,
        True,
        True,
    ]


def test_headlines_hide_no_defeat() -> None:
    gain, loss, load, _ = said(BEHIND)
    assert gain.startswith("Never faster: At its best, dssd-thinned/4 writes a token in 31.0 ms")
    assert loss.startswith("Up to 4.43× slower") and load.startswith("No edge time saved")


def test_headlines_own_a_victory() -> None:
    assert said(AHEAD)[1] == "Never slower: Nowhere is edge faster than dssd-thinned/4."


def test_a_rival_that_is_level_forbids_never_slower() -> None:
    level = group(at(20, 1.0), at(55, **EDGE), at(20.5, 1.0, **EDGE_DRAFT))
    assert said(level)[1] == (
        "Undecided whether slower: Over lte edge-draft needs 20.5 ms [19.5–21.5] a token, "
        "dssd-thinned/4 20.0 ms [19.0–21.0]. Their intervals overlap."
    )


def test_headlines_are_of_the_default_arm_whatever_won() -> None:
    lucky: dict[str, Any] = {"arm": "coupled/8", "scheme": "coupled", "gamma": 8, "engine_s": 0.01}
    first, _, load, _ = said(group(at(20), at(10, **lucky), at(55, engine_s=0.44, **EDGE)))
    assert first.startswith("2.75× faster: dssd-thinned/4") and "with dssd-thinned/4" in load


def test_the_default_is_the_command_line_s() -> None:
    assert DEFAULT_GAMMA == writing_options.DEFAULT_GAMMA


def test_another_arm_stands_in_for_the_default_and_says_so() -> None:
    near: dict[str, Any] = {"arm": "dssd-thinned/6", "gamma": 6}
    far: dict[str, Any] = {"arm": "dssd-thinned/8", "gamma": 8}
    (first, *_) = said(group(at(30, **near), at(20, **far), at(55, **EDGE)))
    assert first.startswith("1.83× faster: dssd-thinned/6")
    assert first.endswith("(dssd-thinned/4, the default, was not measured.)")


def test_one_repeat_makes_no_headline() -> None:
    single = group(at(10, repeats=1), at(99, repeats=1, engine_s=0.44, **EDGE))
    found = headlines([single])
    assert [headline.number for headline in found[:3]] == [
        "Undecided whether faster", "Undecided whether slower", "Undecided whether less edge time",
    ]  # fmt: skip
    assert found[0].text.endswith("Too few repeats to tell.")
    assert not any(headline.is_gain for headline in found[:3])


def test_joules_that_overlap_are_no_saving() -> None:
    joules: dict[str, Any] = {"energy_kind": "measured", "gross_j": 0.55}
    records = group(at(20, repeats=3, **joules), at(20, repeats=3, **EDGE, **joules))
    assert said(records)[-1] == (
        "50.0 mJ: A token of dssd-thinned/4 costs the device 50.0 mJ; streamed from the edge, 50.0 mJ, "
        "not told apart (measured)."
    )


def test_a_lead_within_the_intervals_is_no_gain() -> None:
    (first, *_) = headlines([group(at(20, 2.0), at(21, 2.0, **EDGE))])
    assert first.text.endswith("Their intervals overlap.") and not first.is_gain


def test_joules_take_the_place_of_bytes() -> None:
    joules: dict[str, Any] = {
        "energy_kind": "modelled",
        "compute_j": 0.11,
        "wait_j": 0.22,
        "radio_j": 0.22,
    }
    assert said(group(at(20, **joules)))[-1] == (
        "50.0 mJ: A token of dssd-thinned/4 costs the device 50.0 mJ (modelled)."
    )
    streamed = {**joules, "compute_j": 0.0, **EDGE}
    assert said(group(at(20, **joules), at(20, **streamed)))[-1] == (
        "1.25× more energy: A token of dssd-thinned/4 costs the device 50.0 mJ; streamed from the "
        "edge, 40.0 mJ (modelled)."
    )


def test_arms_are_compared_over_the_same_links() -> None:
    """The radio of lte is dear: a stream over another link alone says nothing of it."""
    joules: dict[str, Any] = {"energy_kind": "modelled", "compute_j": 0.11, "wait_j": 0.22}
    wifi = {**joules, "link": "wifi5-home", "radio_j": 0.0}
    found = headlines([
        group(at(20, **joules, radio_j=9.9)), group(at(20, **wifi), at(20, **wifi, **EDGE)),
    ])  # fmt: skip
    assert found[-1].text.endswith("costs the device 480 mJ (modelled).")
    assert not any("edge time" in headline.number for headline in found)


def test_samplings_are_named_where_there_are_several() -> None:
    greedy = group(
        at(40, sampling="greedy", temperature=0.0),
        at(50, sampling="greedy", temperature=0.0, **EDGE),
    )
    assert "over lte at T=1;" in said(AHEAD, greedy)[0]
