from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.errors import ConfigError

FAIRY = "a🧚🏽é"  # 1 + 4 + 4 + 2 bytes


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """The bytes cut into tokens in every way."""
    for places in range(1 << (len(data) - 1)):
        tokens, start = [], 0
        for end in range(1, len(data) + 1):
            if end == len(data) or places >> (end - 1) & 1:
                tokens.append(data[start:end])
                start = end
        yield tokens


def stream(tokens: Sequence[bytes], stops: Sequence[str] = ()) -> tuple[str, Detokenizer]:
    """The text given out one token at a time, and the detokenizer afterwards."""
    detokenizer = Detokenizer(tokens.__getitem__, stops)
    text = "".join(detokenizer.feed([index]) for index in range(len(tokens)))
    return text + detokenizer.flush(), detokenizer


def whole_characters(data: bytes) -> str:
    """What of the bytes is complete text, found by trying."""
    for size in range(len(data), -1, -1):
        try:
            return data[:size].decode()
        except UnicodeDecodeError:
            continue
    raise AssertionError


def stop_in(data: bytes, stops: Sequence[str]) -> tuple[int, str] | None:
    """Start and name of the stop string that is complete first, found byte by byte."""
    for end in range(len(data) + 1):
        done = [stop for stop in stops if data[:end].endswith(stop.encode())]
        if done:
            longest = max(done, key=lambda stop: len(stop.encode()))
            return end - len(longest.encode()), longest
    return None


def test_characters_split_over_tokens_in_every_way_come_out_whole() -> None:
    for tokens in cuts(FAIRY.encode()):
        detokenizer = Detokenizer(tokens.__getitem__)
        text, data = "", b""
        for index, token in enumerate(tokens):
            text += detokenizer.feed([index])
            data += token
            assert text == whole_characters(data)
        assert detokenizer.flush() == ""
        assert text == FAIRY


@pytest.mark.parametrize("stops", [["🧚"], ["é!", "!?"], ["a🧚🏽"], ["🏽é"]])
def test_stop_strings_split_over_tokens_in_every_way_are_found(stops: list[str]) -> None:
    data = "a🧚🏽é!?".encode()
    found = stop_in(data, stops)
    assert found is not None
    for tokens in cuts(data):
        text, detokenizer = stream(tokens, stops)
        assert text == data[: found[0]].decode()
        assert detokenizer.stop == found[1]
        ends = list(accumulate(map(len, tokens)))
        assert detokenizer.num_tokens == sum(end <= found[0] for end in ends)


def test_text_is_held_exactly_while_it_may_begin_a_stop_string() -> None:
    stops = ["###", "##\n"]
    for tokens in cuts(b"a#b##c##d\n"):
        detokenizer = Detokenizer(tokens.__getitem__, stops)
        text, data = "", b""
        for index, token in enumerate(tokens):
            text += detokenizer.feed([index])
            data += token
            num_held = next((n for n in (2, 1) if data.endswith(b"##"[:n])), 0)
            assert text == data[: len(data) - num_held].decode()
        assert text + detokenizer.flush() == "a#b##c##d\n"
        assert detokenizer.num_tokens == len(tokens)


@pytest.mark.parametrize(
    ("stops", "before", "stop"),
    [
        (["abcd", "abce"], "x", "abce"),
        (["abcd", "bc"], "xa", "bc"),  # complete one byte earlier than any other could be
        (["bce", "abce", "ce"], "x", "abce"),  # complete together: the longest
        (["abcex", "ab"], "x", "ab"),
        (["e", "yab", "xabd"], "xabc", "e"),
    ],
)
def test_of_several_stop_strings_the_first_complete_one_counts(
    stops: list[str], before: str, stop: str
) -> None:
    for tokens in cuts(b"xabceyz"):
        text, detokenizer = stream(tokens, stops)
        assert (text, detokenizer.stop) == (before, stop)


@given(
    tokens=st.lists(st.text("ab🧚", max_size=3).map(str.encode), max_size=8),
    stops=st.lists(st.text("ab🧚", min_size=1, max_size=4), max_size=3),
)
def test_any_text_ends_where_a_search_byte_by_byte_ends_it(
    tokens: list[bytes], stops: list[str]
) -> None:
    data = b"".join(tokens)
    text, detokenizer = stream(tokens, stops)
    found = stop_in(data, stops)
    start = len(data) if found is None else found[0]
    assert text == data[:start].decode()
    assert detokenizer.stop == (None if found is None else found[1])
    kept = b"".join(tokens[: detokenizer.num_tokens])
    assert len(kept) <= start
    if detokenizer.num_tokens < len(tokens):
        assert len(kept) + len(tokens[detokenizer.num_tokens]) > start


def test_a_stop_string_at_the_very_start_leaves_nothing() -> None:
    for tokens in cuts(b"Stop!"):
        text, detokenizer = stream(tokens, ["Stop"])
        assert (text, detokenizer.num_tokens) == ("", 0)


def test_a_token_that_reaches_into_the_stop_string_does_not_stand() -> None:
    text, detokenizer = stream([b"One", b" two.\n", b"\nThree"], ["\n\n"])
    assert text == "One two."
    assert detokenizer.num_tokens == 1


def test_tokens_without_text_before_the_stop_string_stand() -> None:
    text, detokenizer = stream([b"a", b"", b"\n", b""], ["\n"])
    assert (text, detokenizer.num_tokens) == ("a", 2)


def test_tokens_after_the_stop_string_are_ignored() -> None:
    tokens = [b"a", b"\n", b"b", b"c"]
    detokenizer = Detokenizer(tokens.__getitem__, ["\n"])
    assert detokenizer.feed([0, 1, 2]) == "a"
    assert detokenizer.feed([3]) == ""
    assert detokenizer.flush() == ""
    assert detokenizer.num_tokens == 1


def test_half_a_character_becomes_a_replacement_only_at_the_end() -> None:
    tokens = ["🧚".encode()[:3]]
    detokenizer = Detokenizer(tokens.__getitem__)
    assert detokenizer.feed([0]) == ""
    assert detokenizer.flush() == "\N{REPLACEMENT CHARACTER}"


def test_half_a_character_before_a_stop_string_becomes_a_replacement() -> None:
    text, _ = stream(["🧚".encode()[:2], b"stop"], ["stop"])
    assert text == "\N{REPLACEMENT CHARACTER}"


def test_bytes_that_are_no_character_do_not_hold_up_what_follows() -> None:
    tokens = [b"\xff", b"a", b"\xe2", b"b"]
    detokenizer = Detokenizer(tokens.__getitem__)
    expected = ["\N{REPLACEMENT CHARACTER}", "a", "", "\N{REPLACEMENT CHARACTER}b"]
    assert [detokenizer.feed([index]) for index in range(4)] == expected


def test_a_held_start_of_a_stop_string_comes_out_at_the_end() -> None:
    text, detokenizer = stream([b"a", b"##"], ["###"])
    assert (text, detokenizer.stop, detokenizer.num_tokens) == ("a##", None, 2)


def test_one_leading_space_is_dropped_if_asked_for() -> None:
    tokens = [b"", b" Once", b" upon"]
    detokenizer = Detokenizer(tokens.__getitem__, ["upon"], strip_leading_space=True)
    assert detokenizer.feed([0, 1, 2]) == "Once "
    assert detokenizer.num_tokens == 2


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="stop string is empty"):
        Detokenizer(lambda _: b"", ["a", ""])


@pytest.mark.parametrize(
    "tokens", list(cuts(b"abcab!")), ids=lambda tokens: b"|".join(tokens).decode()
)
def test_settled_tokens_are_never_taken_back(tokens: list[bytes]) -> None:
    for stops in ([], ["cab!"], ["bca"], ["!!"], ["ab!", "x"]):
        detokenizer = Detokenizer(tokens.__getitem__, stops)
        text, settled = "", 0
        for index in range(len(tokens)):
            text += detokenizer.feed([index])
            assert settled <= detokenizer.num_settled <= detokenizer.num_tokens
            settled = detokenizer.num_settled
            assert text.encode().startswith(b"".join(tokens[:settled]))
        detokenizer.flush()
        assert detokenizer.num_settled == detokenizer.num_tokens
