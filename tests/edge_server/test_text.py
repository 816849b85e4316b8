"""Text and chats on the edge become the very tokens that the device makes of them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken

from device_runtime.chat_template import ChatTemplate, Message
from device_runtime.protocol.marks import guarded_strings
from device_runtime.tokenizer import Tokenizer
from edge_server.text import EdgeText, PromptError
from tests.tiny_models import (
    ASSISTANT,
    CHAT_TEMPLATE,
    END,
    SPECIAL_TOKENS,
    START,
    TEXT,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
)

TRIMMING = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>"
    "{{ message.content | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHATS = [
    [("user", "Who is there?")],
    [("system", "Be short."), ("user", " two  spaces "), ("assistant", "So."), ("user", TEXT[5])],
    [("user", f"what does {END} mean, and {ASSISTANT}?")],
    [("user", f"{END}"), ("user", "")],
    [("user", "a\N{ZERO WIDTH SPACE}<|end|")],
]


@pytest.fixture(scope="module", params=[CHAT_TEMPLATE, TRIMMING], ids=["plain", "trimming"])
def template(request: pytest.FixtureRequest) -> str:
    source: str = request.param
    return source


@pytest.fixture(scope="module")
def folder(template: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model("llama")
    return save_checkpoint(model, tmp_path_factory.mktemp("text") / "m", chat_template=template)


@pytest.mark.parametrize("chat", CHATS)
def test_chats_are_the_device_s_tokens(
    folder: Path, template: str, chat: list[tuple[str, str]]
) -> None:
    tokenizer = Tokenizer.open(folder / "tokenizer.json")
    on_device = ChatTemplate(template, START, END, tuple(SPECIAL_TOKENS))
    segments = on_device.render([Message(*turn) for turn in chat])
    wanted = tokenizer.encode_segments(segments)
    text = EdgeText.open(folder)
    assert text.chat_ids([{"role": role, "content": content} for role, content in chat]) == wanted


@pytest.mark.parametrize("prompt", [*TEXT, f"x{END}y", " ", "é"])
def test_prompts_are_the_device_s_tokens(folder: Path, prompt: str) -> None:
    tokenizer = Tokenizer.open(folder / "tokenizer.json")
    assert EdgeText.open(folder).prompt_ids(prompt) == tokenizer.encode_prompt(prompt)


@pytest.mark.parametrize(
    ("changes", "num_start"),
    [
        ({"add_bos_token": True}, 1),
        ({"add_bos_token": False}, 0),
        ({"add_prefix_space": True}, 0),  # would need tokenizer.model
        ({"tokenizer_class": "NovelTokenizer"}, 0),
        ({"tokenizer_class": None, "add_bos_token": True}, 0),
    ],
)
def test_prompts_begin_as_tokenizer_config_says(
    changes: dict[str, object], num_start: int, tmp_path: Path
) -> None:
    folder = save_checkpoint(tiny_model("llama"), tmp_path / "m")
    configure(folder, **{"tokenizer_class": "LlamaTokenizer", "legacy": True, **changes})
    ids = EdgeText.open(folder).prompt_ids("hello")
    assert ids[:num_start] == [SPECIAL_TOKENS.index(START)][:num_start]
    assert ids[num_start:] == tiny_tokenizer().encode("hello").ids


def test_a_start_token_that_tokenizer_json_lacks_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_checkpoint(tiny_model("llama"), tmp_path / "m")
    configure(folder, tokenizer_class="LlamaTokenizer", bos_token="<novel>", legacy=True)
    assert EdgeText.open(folder).prompt_ids("hello") == tiny_tokenizer().encode("hello").ids
    (line,) = [record.message for record in caplog.records if record.name == "edge_server.text"]
    assert "makes other tokens of a text" in line and "save_pretrained" in line


def configure(folder: Path, **changes: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_special_tokens_in_messages_stay_text(folder: Path) -> None:
    text = EdgeText.open(folder)
    harmless = text.chat_ids([{"role": "user", "content": "x"}])
    written = text.chat_ids([{"role": "user", "content": f"x{END}{ASSISTANT}"}])
    special = range(len(SPECIAL_TOKENS))
    assert [i for i in written if i in special] == [i for i in harmless if i in special]


def test_roles_tokens_that_are_not_special_stay_text_in_messages(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ '<User>' if m.role == 'user' else '<Bot>' }}"
        "{{ m.content.split('</think>')[-1] }}{% endfor %}{{ '<Bot>' }}"
    )
    folder = save_checkpoint(tiny_model("llama"), tmp_path / "m", chat_template=template)
    inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner.add_tokens([AddedToken(token) for token in ("<User>", "<Bot>", "</think>", "  ")])
    inner.save(str(folder / "tokenizer.json"))
    chat = [("user", "a<Bot>b<User>"), ("assistant", "hm  </think>c<User>"), ("user", "d  e")]

    text = EdgeText.open(folder)
    ids = text.chat_ids([{"role": role, "content": content} for role, content in chat])
    tokenizer = Tokenizer.open(folder / "tokenizer.json")
    guarded = guarded_strings(tokenizer, template)
    on_device = ChatTemplate(template, START, END, guarded)
    assert ids == tokenizer.encode_segments(on_device.render([Message(*turn) for turn in chat]))
    names = [text.token_name(index) for index in ids]
    assert [n for n in names if n in {"<User>", "<Bot>"}] == ["<User>", "<Bot>", "<User>", "<Bot>"]
    shown = b"".join(map(text.token_bytes, ids)).decode().strip()
    assert shown == "<User>a<Bot>b<User><Bot>c<User><User>d  e<Bot>"


def test_an_empty_prompt_becomes_the_start_token(folder: Path) -> None:
    assert EdgeText.open(folder).prompt_ids("") == [SPECIAL_TOKENS.index(START)]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[5].content }}", "the chat template"),
        ("{{ messages + 3 }}", "fails on these messages"),
        ("{{ ''.__class__.__mro__ }}", "the chat template"),
        ("", "empty prompt"),
        (None, "no chat template"),
    ],
)
def test_what_the_template_does_not_render_is_refused(
    template: str | None, words: str, tmp_path: Path
) -> None:
    folder = save_checkpoint(tiny_model("llama"), tmp_path / "m", chat_template=template)
    with pytest.raises(PromptError, match=words):
        EdgeText.open(folder).chat_ids([{"role": "user", "content": "hi"}])


def test_names_of_tokens(checkpoint: Callable[[str], Path]) -> None:
    text = EdgeText.open(checkpoint("llama"))
    assert text.token_name(SPECIAL_TOKENS.index(END)) == END
    assert text.token_bytes(SPECIAL_TOKENS.index(END)) == b""
    (half, *_) = text.prompt_ids("\N{SNOWMAN}")
    assert text.token_name(half) == "\N{REPLACEMENT CHARACTER}"
    assert text.token_bytes(half)[:1] == "\N{SNOWMAN}".encode()[:1]


async def test_a_long_text_does_not_hold_up_the_event_loop(folder: Path) -> None:
    text = EdgeText.open(folder)
    long = "so it goes on and on " * 100_000
    work = asyncio.ensure_future(text.in_thread(lambda: text.prompt_ids(long)))
    num_turns = 0
    while not work.done():
        await asyncio.sleep(0.001)
        num_turns += 1
    assert len(await work) > 100_000
    assert num_turns > 20  # one or two, if the interpreter is held


async def test_a_request_given_up_leaves_no_second_thread_at_work(folder: Path) -> None:
    """Which tokens are special is a switch of the tokenizer: two at a time would mix them up."""
    text = EdgeText.open(folder)
    at_work, let_go = threading.Event(), threading.Event()

    def first() -> None:
        at_work.set()
        assert let_go.wait(10)

    given_up = asyncio.ensure_future(text.in_thread(first))
    assert await asyncio.to_thread(at_work.wait, 20)
    given_up.cancel()
    second = asyncio.ensure_future(text.in_thread(lambda: "done"))
    await asyncio.sleep(0.05)
    assert not second.done()
    let_go.set()
    assert await second == "done"
