"""What requests may hold: every parameter at and beyond its limits, and nothing unknown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.sampling import Sampling
from edge_server.http_errors import from_validation
from edge_server.openai_requests import ChatRequest, CompletionRequest

PROMPT: dict[str, Any] = {"model": "m", "prompt": "x"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def completion(**more: Any) -> CompletionRequest:
    return CompletionRequest.model_validate_json(json.dumps(PROMPT | more))


def chat(**more: Any) -> ChatRequest:
    return ChatRequest.model_validate_json(json.dumps(CHAT | more))


def refused(make: Any, **more: Any) -> dict[str, Any]:
    """The error that a client gets."""
    with pytest.raises(ValidationError) as caught:
        make(**more)
    error: dict[str, Any] = from_validation(caught.value).body["error"]
    return error


def test_the_defaults_are_openai_s() -> None:
    asked = completion()
    assert asked.sampling == Sampling()
    assert (asked.max_written, asked.num_top, asked.stops) == (16, None, ())
    assert chat().max_written > 100_000


def test_null_stands_for_the_default() -> None:
    names = set(CompletionRequest.model_fields) - {"model", "prompt"}
    assert completion(**dict.fromkeys(names)).sampling == Sampling()
    names = set(ChatRequest.model_fields) - {"model", "messages"}
    assert chat(**dict.fromkeys(names)).sampling == Sampling()


def test_all_sampling_parameters_arrive() -> None:
    asked = completion(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, repetition_penalty=1.1,
        presence_penalty=-1, frequency_penalty=2, logit_bias={"12": -100, "7": 1.5},
    )  # fmt: skip
    assert asked.sampling == Sampling(
        0.5, 40, 0.9, 0.1, 1.1, -1.0, 2.0, logit_bias=((7, 1.5), (12, -100.0))
    )


NUMBERS: dict[str, tuple[list[Any], list[Any]]] = {
    "max_tokens": ([1, 1 << 20], [0, -1, (1 << 20) + 1, 2**63, 1.5]),
    "temperature": ([0, 2, 0.7], [-0.1, 2.1, float("nan"), float("inf"), 2**70]),
    "top_p": ([1, 1e-6], [0, 1.01, -1, float("nan")]),
    "top_k": ([0, 50], [-1, 2**31, 1.5]),
    "min_p": ([0, 1], [-0.1, 1.1]),
    "repetition_penalty": ([0.01, 100], [0, 101]),
    "presence_penalty": ([-2, 2], [-2.1, 2.1, float("-inf")]),
    "frequency_penalty": ([-2, 2], [-2.1, 2.1]),
    "seed": ([0, -1, 2**63 - 1, -(2**63)], [2**63, -(2**63) - 1, 1.5, 2**200]),
    "logprobs": ([0, 20], [-1, 21, 2**64]),
    "n": ([1], [0, 2, -1, 2**31]),
    "best_of": ([1], [2, 0]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_have_limits(name: str) -> None:
    good, bad = NUMBERS[name]
    for value in good:
        completion(**{name: value})
    for value in [*bad, "1", True, [], {}]:
        assert refused(completion, **{name: value})["param"] == name, value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", ""),
        ("prompt", [1, 2]),
        ("prompt", ["one"]),
        ("stop", "x"),
        ("stop", ["x"] * 16),
        ("stop", []),
        ("echo", False),
        ("logit_bias", {"0": 100, "16777215": -100}),
        ("stream_options", {"include_usage": True}),
    ],
)
def test_what_is_allowed(name: str, value: Any) -> None:
    completion(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", []),
        ("prompt", ["one", "two"]),
        ("prompt", [[1, 2]]),
        ("prompt", [-1]),
        ("prompt", [1 << 24]),
        ("prompt", [True]),
        ("prompt", None),
        ("prompt", {"text": "x"}),
        ("model", ""),
        ("model", "m" * 257),
        ("stop", ""),
        ("stop", ["x"] * 17),
        ("stop", ["x", ""]),
        ("stop", "x" * 257),
        ("stop", [1]),
        ("echo", True),
        ("stream", "yes"),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"01": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("logit_bias", [1]),
    ],
)
def test_what_is_refused(name: str, value: Any) -> None:
    error = refused(completion, **{name: value})
    assert error["param"] == name
    assert error["code"] == "invalid_value"


@pytest.mark.parametrize(
    "name", ["tools", "functions", "response_format", "suffix", "user", "messages", "max_tokenz"]
)
def test_what_is_not_known_is_named(name: str) -> None:
    error = refused(completion, **{name: None})
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")
    assert name in error["message"]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate_json('{"model": "m"}')
    error = from_validation(caught.value).body["error"]
    assert (error["param"], error["code"]) == ("prompt", "missing_parameter")


@pytest.mark.parametrize(
    ("make", "more", "words"),
    [
        (completion, {"prompt": ["a", "b"]}, "at most 1 item"),
        (completion, {"prompt": []}, "at least 1 item"),
        (completion, {"prompt": [3, -1]}, "greater than or equal to 0"),
        (completion, {"stop": ["a", ""]}, "at least 1 character"),
        (completion, {"stop": ["a"] * 17}, "at most 16 items"),
        (chat, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "'text'"),
    ],
)
def test_a_list_where_a_string_would_do_is_told_what_is_wrong_with_the_list(
    make: Any, more: dict[str, Any], words: str
) -> None:
    error = refused(make, **more)
    assert error["param"] == next(iter(more))
    assert words in error["message"]


def test_errors_do_not_repeat_what_was_written() -> None:
    text = json.dumps(refused(completion, prompt=["secret words", "more"], seed="secret"))
    assert "secret" not in text


@pytest.mark.parametrize("body", ["", "[]", "1", "{", '{"model": "\\ud800", "prompt": "x"}', "NaN"])
def test_what_is_no_json_object_is_refused(body: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate_json(body)
    assert from_validation(caught.value).status == 400


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate_json('{"model":"m","prompt":' + "[" * 100_000)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "User", "content": "x"},
        {"role": "user<|end|>", "content": "x"},
        {"role": "user\n", "content": "x"},
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
        {"role": "user", "content": "x", "name": "me"},
        "hello",
    ],
)
def test_messages_are_checked(message: Any) -> None:
    assert refused(chat, messages=[message])["param"].startswith("messages")


def test_chats_are_limited() -> None:
    turn = CHAT["messages"][0]
    chat(messages=[turn] * 1024)
    refused(chat, messages=[turn] * 1025)
    refused(chat, messages=[])


def test_parts_of_a_message_are_lines() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    asked = chat(messages=[{"role": "user", "content": parts}])
    assert asked.messages[0].text == "one\ntwo"


def test_contradictions_are_refused() -> None:
    for asked, words in (
        (chat(top_logprobs=2), "logprobs = true"),
        (chat(max_tokens=3, max_completion_tokens=4), "one of them"),
        (chat(stream_options={}), "stream = true"),
        (completion(logit_bias={"400": 1}), "400"),
    ):
        with pytest.raises(ConfigError, match=words):
            asked.check(num_ids=400)
    chat(max_completion_tokens=3, logprobs=True, top_logprobs=2).check(num_ids=400)
    completion(logit_bias={"399": 1}, stream=True, stream_options={}).check(num_ids=400)


def test_logprobs_of_chats_name_as_many_as_asked() -> None:
    assert chat().num_top is None
    assert chat(logprobs=True).num_top == 0
    assert chat(logprobs=True, top_logprobs=5).num_top == 5
    assert chat(max_completion_tokens=7).max_written == 7
