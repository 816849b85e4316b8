"""Links set with tc: the commands, what undoes them, and what is said where they fail."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.link import tc
from benchmarks.link.settings import Extras, from_profile
from benchmarks.link.tc import Done, TcError
from hw_profiles import load_link

NOQUEUE = json.dumps([{"kind": "noqueue", "handle": "0:", "root": True, "options": {}}])
NETEM = json.dumps([{"kind": "netem", "handle": "8001:", "root": True}, {"kind": "ingress"}])
LTE = from_profile(load_link("lte"))


class FakeTc:
    """A kernel that remembers its commands and fails at those that hold a word."""

    def __init__(self, queues: str = NOQUEUE, fails: dict[str, Done] | None = None) -> None:
        self.commands: list[str] = []
        self._queues = queues
        self._fails = fails or {}

    def __call__(self, command: tc.Command) -> Done:
        text = " ".join(command)
        if "show" in command and "show" not in self._fails:
            return Done(0, self._queues)
        self.commands.append(text)
        return next((done for word, done in self._fails.items() if word in text), Done(0, ""))


def test_the_uplink_is_shaped_on_the_device_and_the_downlink_on_its_ifb() -> None:
    fake = FakeTc()
    tc.apply(LTE, "wlan0", fake)
    assert fake.commands == [
        "tc qdisc add dev wlan0 root netem delay 32.25ms rate 31000000bit limit 342",
        "ip link add ifb-wlan0 type ifb",
        "ip link set dev ifb-wlan0 up",
        "tc qdisc add dev ifb-wlan0 root netem delay 32.25ms rate 117000000bit limit 1289",
        "tc qdisc add dev wlan0 handle ffff: ingress",
        "tc filter add dev wlan0 parent ffff: matchall action mirred egress redirect dev ifb-wlan0",
    ]


def test_jitter_and_losses_are_passed_on() -> None:
    starlink = from_profile(load_link("starlink"))
    up = tc.apply_commands(starlink, "eth0")[0]
    assert " ".join(up[7:13]) == "delay 25ms 6.50538ms distribution normal rate"
    lossy = replace(starlink, up=replace(starlink.up, loss_ratio=0.01))
    assert "loss random 1%" in " ".join(tc.apply_commands(lossy, "eth0")[0])
    bursts = replace(lossy, up=replace(lossy.up, loss_burst=4.0))
    assert "loss gemodel 0.252525% 25%" in " ".join(tc.apply_commands(bursts, "eth0")[0])


def test_undoing_removes_all_that_was_added() -> None:
    fake = FakeTc(NETEM)
    tc.undo("wlan0", fake)
    assert fake.commands == [
        "tc qdisc del dev wlan0 ingress",
        "tc qdisc del dev wlan0 root",
        "ip link del ifb-wlan0",
    ]


def test_names_of_ifb_devices_fit_the_kernel() -> None:
    assert len(tc.ifb_of("enx001122334455")) <= 15


def test_a_failure_half_way_takes_back_what_was_set() -> None:
    fake = FakeTc(fails={"type ifb": Done(2, "Error: Unknown device type.")})
    with pytest.raises(TcError, match="modprobe ifb"):
        tc.apply(LTE, "eth0", fake)
    assert fake.commands[2:] == [" ".join(command) for command in tc.undo_commands("eth0")]


@pytest.mark.parametrize(
    ("word", "done", "sentence"),
    [
        (
            "netem",
            Done(2, "Error: Specified qdisc kind is unknown."),
            "no netem .*tandem link run",
        ),
        ("netem", Done(2, "RTNETLINK answers: Operation not permitted"), "sudo"),
        ("show", Done(1, 'Cannot find device "eth0"'), "no network interface eth0"),
        ("show", Done(127, "tc: not found"), "install iproute2"),
        ("netem", Done(1, "something new"), "status 1: something new"),
    ],
)
def test_the_first_failure_says_what_to_do(word: str, done: Done, sentence: str) -> None:
    fake = FakeTc(fails={word: done})
    with pytest.raises(TcError, match=sentence):
        tc.apply(LTE, "eth0", fake)
    assert not any(" del " in command for command in fake.commands)


def test_a_queue_that_somebody_set_is_left_alone() -> None:
    fake = FakeTc(json.dumps([{"kind": "htb", "root": True}]))
    with pytest.raises(TcError, match="htb"):
        tc.apply(LTE, "eth0", fake)
    with pytest.raises(TcError, match="already has"):
        tc.apply(LTE, "eth0", FakeTc(NETEM))
    assert fake.commands == []


def test_undoing_nothing_is_said_and_changes_nothing() -> None:
    fake = FakeTc()
    with pytest.raises(TcError, match="nothing was changed"):
        tc.undo("eth0", fake)
    assert fake.commands == []


def test_undoing_goes_on_where_a_part_is_gone_and_tells_of_other_failures() -> None:
    gone = FakeTc(NETEM, {"ingress": Done(2, "Error: Invalid argument.")})
    tc.undo("eth0", gone)
    assert len(gone.commands) == 3
    refused = FakeTc(NETEM, {"root": Done(2, "RTNETLINK answers: Operation not permitted")})
    with pytest.raises(TcError, match="sudo"):
        tc.undo("eth0", refused)


@pytest.mark.parametrize("answer", ["qdisc noqueue 0: root", "[1]", '[{"root": true}]'])
def test_an_old_tc_without_json_is_named(answer: str) -> None:
    with pytest.raises(TcError, match="iproute2"):
        tc.apply(LTE, "eth0", FakeTc(answer))


def test_what_tc_cannot_do_is_listed() -> None:
    assert tc.left_out(from_profile(load_link("ethernet"))) == []
    (text,) = tc.left_out(LTE)
    assert "wake-up" in text
    assert tc.left_out(from_profile(load_link("lte"), Extras(radio_sleeps=False))) == []
