from __future__ import annotations

from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from device_runtime.protocol.errors import BundleError
from device_runtime.protocol.pieces import piece_rule
from device_runtime.protocol.text_codec import Segment
from device_runtime.protocol.vocabulary import read_vocabulary, vocabulary_hash
from device_runtime.tokenizer import Tokenizer
from tests.tiny_bundle import HOLE, SPECIALS, byte_level_tokenizer

FAIRY = "é 🧚🏽\n\nthe end"


def sentencepiece_like() -> str:
    """As Llama 2's: `▁` for a space, bytes as `<0x0A>`, a space put before every text."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [*"▁abcdefghijklmnopqrstuvwxyz<>/.|", "▁a", "th", "▁th", "the", "▁the", "▁▁"]
    merges = ["▁ a", "t h", "▁ th", "th e", "▁ the", "▁ ▁"]
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    vocab = {token: index for index, token in enumerate(tokens)}
    bpe = models.BPE(
        vocab=vocab, merges=pairs, byte_fallback=True, unk_token="<unk>", fuse_unk=True
    )
    inner = tokenizers.Tokenizer(bpe)
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in tokens[:3]])
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return str(inner.to_str())


def unigram() -> str:
    """Knows its special token also as an ordinary piece, as many unigram models do."""
    pieces = [("<unk>", 0.0), ("</s>", -1.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in "<>/sabc"]
    inner = tokenizers.Tokenizer(models.Unigram(pieces, 0, byte_fallback=False))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens([AddedToken("</s>", normalized=False)])
    return str(inner.to_str())


FILES = {
    "byte_level": byte_level_tokenizer(),
    "sentencepiece": sentencepiece_like(),
    "unigram": unigram(),
}
LIBRARY = {name: tokenizers.Tokenizer.from_str(content) for name, content in FILES.items()}
OURS = {name: Tokenizer(content.encode()) for name, content in FILES.items()}
BYTE_LEVEL, SENTENCEPIECE = OURS["byte_level"], OURS["sentencepiece"]


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("text", ["the end", FAIRY, " the", "  a", "", "\n", "<|end|></s>"])
def test_text_comes_back_from_its_ids(name: str, text: str) -> None:
    ids = OURS[name].encode_text(text)
    assert OURS[name].decode(ids) == text
    assert LIBRARY[name].decode(ids) == text


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece", "unigram"])
@settings(max_examples=50)
@given(data=st.data())
def test_any_ids_decode_as_the_library_decodes_them(name: str, data: st.DataObject) -> None:
    ours, library = OURS[name], LIBRARY[name]
    # The library gives one U+FFFD per byte token of a run that is no text, we one per character.
    defined = [
        index
        for index in range(ours.num_ids)
        if (token := ours.token(index)) is not None and not token[0].startswith("<0x")
    ]
    ids = data.draw(st.lists(st.sampled_from(defined), max_size=12))
    assert ours.decode(ids) == library.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece"])
def test_streaming_gives_the_same_text_as_decoding_at_once(name: str) -> None:
    ids = OURS[name].encode_text(FAIRY)
    detokenizer = OURS[name].detokenizer()
    text = "".join(detokenizer.feed([index]) for index in ids) + detokenizer.flush()
    assert text == FAIRY


def test_the_leading_space_is_kept_where_text_goes_before() -> None:
    prompt, answer = SENTENCEPIECE.encode_prompt("the"), SENTENCEPIECE.encode_text("end")
    after_start = SENTENCEPIECE.detokenizer(context=[1])
    after_text = SENTENCEPIECE.detokenizer(context=prompt)
    assert after_start.feed(answer) == "end"
    assert after_text.feed(answer) == " end"
    assert LIBRARY["sentencepiece"].decode([*prompt, *answer]) == "the end"


def test_token_bytes_are_what_a_token_adds_to_the_text() -> None:
    def of(tokenizer: Tokenizer, token: str) -> bytes:
        ids = [i for i in range(tokenizer.num_ids) if tokenizer.token(i) == (token, False)]
        return tokenizer.token_bytes(*ids)

    assert of(BYTE_LEVEL, "Ġthe") == b" the"
    assert of(BYTE_LEVEL, "ĊĊ") == b"\n\n"
    assert {BYTE_LEVEL.token_bytes(index) for index in range(3, 259)} == {
        bytes([byte]) for byte in range(256)
    }
    assert of(SENTENCEPIECE, "▁the") == b" the"
    assert of(SENTENCEPIECE, "<0xE2>") == b"\xe2"
    assert SENTENCEPIECE.token_bytes(2) == b""


def test_added_tokens_that_are_not_special_are_text() -> None:
    inner = tokenizers.Tokenizer.from_str(FILES["byte_level"])
    inner.add_tokens([AddedToken("<think>"), AddedToken("é\t")])
    ours = Tokenizer(inner.to_str().encode())
    ids = ours.encode_text("<think>é\t")
    assert len(ids) == 2
    assert [ours.token_bytes(index) for index in ids] == [b"<think>", "é\t".encode()]


def test_holes_and_ids_beyond_the_vocabulary_have_no_token() -> None:
    hole = BYTE_LEVEL.num_ids - 2
    assert BYTE_LEVEL.token(hole + 1) == ("ĊĊ", False)
    assert HOLE not in {token[0] for i in range(hole + 2) if (token := BYTE_LEVEL.token(i))}
    for index in (hole, BYTE_LEVEL.num_ids, -1):
        assert BYTE_LEVEL.token(index) is None
        assert BYTE_LEVEL.token_bytes(index).decode() == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece", "unigram"])
def test_special_tokens_in_user_text_are_plain_text(name: str) -> None:
    ours = OURS[name]
    for special in ours.special_strings:
        for text in (special, f"a{special}b", special * 3, f"{special} {special}"):
            ids = ours.encode_text(text)
            assert not ours.special_ids.intersection(ids), (text, ids)
            assert ours.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_overlapping_special_tokens_in_user_text_are_plain_text() -> None:
    pieces = [("<unk>", 0.0), ("aba", -1.0), ("▁", -2.0), ("a", -9.0), ("b", -9.0)]
    inner = tokenizers.Tokenizer(models.Unigram(pieces, 0, byte_fallback=False))
    inner.decoder = decoders.Metaspace()
    inner.add_special_tokens([AddedToken("aba", normalized=False)])
    ours = Tokenizer(inner.to_str().encode())
    ids = ours.encode_text("ababa")
    assert ours.special_ids.isdisjoint(ids)
    assert b"".join(map(ours.token_bytes, ids)) == b"ababa"


def test_a_prompt_begins_with_the_start_token_if_there_is_one() -> None:
    assert SENTENCEPIECE.encode_prompt("the")[0] == 1
    assert SENTENCEPIECE.encode_prompt("") == [1]
    assert SENTENCEPIECE.encode_prompt("the") == LIBRARY["sentencepiece"].encode("the").ids
    assert BYTE_LEVEL.encode_prompt("the") == BYTE_LEVEL.encode_text("the")


def test_a_token_put_after_every_text_is_left_out_of_prompts() -> None:
    inner = tokenizers.Tokenizer.from_str(FILES["sentencepiece"])
    inner.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert Tokenizer(inner.to_str().encode()).encode_prompt("the")[-1] != 2


def test_truncation_and_padding_in_the_file_do_not_count() -> None:
    inner = tokenizers.Tokenizer.from_str(FILES["byte_level"])
    inner.enable_truncation(4)
    inner.enable_padding(length=16)
    text = "as long as it is"
    assert Tokenizer(inner.to_str().encode()).encode_text(text) == BYTE_LEVEL.encode_text(text)


def test_trusted_segments_are_encoded_as_one_text() -> None:
    segments = [Segment("<|im_start|>t", True), Segment("he", False), Segment("\n", True)]
    whole = "<|im_start|>the\n"
    assert BYTE_LEVEL.encode_segments(segments) == LIBRARY["byte_level"].encode(whole).ids
    apart = [index for part in segments for index in LIBRARY["byte_level"].encode(part.text).ids]
    assert BYTE_LEVEL.encode_segments(segments) != apart


@pytest.mark.parametrize(
    "parts",
    [
        ["<|im_start|>", "<|end|>", "<|im_end|>"],
        ["<|im_start|>", "a<|im_end|>b", "<|im_end|>"],
        ["<|im_start|><|im_", "end|>", "<|im_end|>"],  # glued to the template's text
        ["<|im_start|>", "<|im_end", "|><|im_end|>"],
        ["<|im_start|>é", "é🧚<|end|>", "🧚<|im_end|>"],  # offsets count characters
    ],
)
def test_untrusted_segments_take_no_part_in_special_tokens(parts: list[str]) -> None:
    segments = [Segment(part, index % 2 == 0) for index, part in enumerate(parts)]
    ids = BYTE_LEVEL.encode_segments(segments)
    assert [index for index in ids if index in BYTE_LEVEL.special_ids] == [1, 2]
    text = "".join(parts)
    plain = text.removeprefix("<|im_start|>").removesuffix("<|im_end|>")
    assert BYTE_LEVEL.decode(ids) == plain


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece", "unigram"])
def test_both_readers_of_a_vocabulary_agree(name: str) -> None:
    ours, vocabulary = OURS[name], read_vocabulary(FILES[name].encode())
    assert [ours.token(index) for index in range(ours.num_ids)] == vocabulary
    for count in (1, 8, ours.num_ids):
        assert ours.vocabulary_hash(count) == vocabulary_hash(vocabulary[:count])
    hashes = [ours.vocabulary_hash(count) for count in range(ours.num_ids + 1)]
    assert all(one != other for one, other in pairwise(hashes))


def test_special_strings_and_ids_are_those_of_the_file() -> None:
    assert set(BYTE_LEVEL.special_strings) == set(SPECIALS)
    assert BYTE_LEVEL.special_ids == {0, 1, 2}


def test_a_broken_file_is_refused() -> None:
    with pytest.raises(BundleError, match=r"cannot be read by tokenizers"):
        Tokenizer(b'{"version": "1.0"}')


def test_a_decoder_that_cannot_be_streamed_is_refused() -> None:
    inner = tokenizers.Tokenizer.from_str(FILES["byte_level"])
    inner.decoder = decoders.WordPiece()
    with pytest.raises(BundleError, match="decodes by WordPiece"):
        Tokenizer(inner.to_str().encode())
    with pytest.raises(BundleError, match="decodes by None"):
        piece_rule({})
    inner.decoder = decoders.Sequence([decoders.Replace("_", "-"), decoders.Fuse()])
    with pytest.raises(BundleError, match="decodes by Replace, Fuse"):
        Tokenizer(inner.to_str().encode())
