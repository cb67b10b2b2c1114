"""Text to ids and back, on a vocabulary small enough to read."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemill.errors import InvalidRequest
from pagemill.text import encoder, pretokenizers
from pagemill.text.finder import Finder
from tests.text.vocabularies import SPECIAL, metadata, tokenizer

TINY = tokenizer()
# One name for each way of cutting.
WAYS = sorted({row: name for name, row in pretokenizers.TABLE.items()}.values())
# Text in which special tokens, whole and in part, are likely.
TEXTS = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from([*SPECIAL, "<|im_", "end|>", "|>", "hello"]))
).map("".join)


def tokens_of(text: str, *, special: bool = False) -> list[str]:
    return [TINY.token_bytes(i).decode() for i in TINY.encode(text, special=special)]


def test_merges_and_digits_apart() -> None:
    assert tokens_of("hello hello 12") == ["hello", " hello", " ", "1", "2"]


def test_special_tokens_only_on_request() -> None:
    text = "<|im_start|>hello<|im_end|>"
    assert TINY.encode(text, special=True) == [1, *TINY.encode("hello"), 2]
    assert not TINY.special_ids & set(TINY.encode(text))
    assert TINY.decode(TINY.encode(text)) == text


def test_the_longest_special_token_wins() -> None:
    assert [i for _, i in TINY.split_special("<|im<|im_end|><|im_<|im_start|>")] == [
        *(4, 2, 4),
        *(None, 1),
    ]


def test_a_special_token_that_is_one_plain_character_is_not_made_of_text() -> None:
    for pre in ("smollm", "llama-bpe"):
        tiny = tokenizer(pre=pre)
        assert tiny.encode("€", special=True) == [5]
        assert not tiny.special_ids & set(tiny.encode("€ end"))


def test_a_merge_to_a_special_token_is_left_out() -> None:
    kinds = metadata()["tokenizer.ggml.token_type"]
    kinds[metadata()["tokenizer.ggml.tokens"].index("end")] = 3
    tiny = tokenizer(token_type=kinds, pre="llama-bpe")
    assert not tiny.special_ids & set(tiny.encode("end"))
    assert tiny.decode(tiny.encode("end")) == "end"


def test_what_is_hidden_in_answers() -> None:
    ids = [1, *TINY.encode("he"), 3, 2]
    assert TINY.decode(ids) == "he<think>"
    assert TINY.decode(ids, skip_special=False) == "<|im_start|>he<think><|im_end|>"
    assert TINY.is_special(3)
    assert not TINY.is_special(100)


def test_lone_surrogates_are_replaced() -> None:
    assert TINY.decode(TINY.encode("a\ud800b\udfff")) == "a\ufffdb\ufffd"


@pytest.mark.parametrize("token_id", [-1, len(metadata()["tokenizer.ggml.tokens"]), 1 << 40])
def test_ids_outside_the_vocabulary(token_id: int) -> None:
    with pytest.raises(InvalidRequest, match="outside the vocabulary, 0 to 272"):
        TINY.decode([token_id])


@given(TEXTS)
def test_decoding_gives_the_text_back(text: str) -> None:
    assert TINY.decode(TINY.encode(text)) == text
    assert TINY.decode(TINY.encode(text, special=True), skip_special=False) == text


@given(TEXTS)
def test_plain_text_never_makes_a_special_id(text: str) -> None:
    assert not TINY.special_ids & set(TINY.encode(text))


@pytest.mark.parametrize("pre", WAYS)
def test_every_pre_tokenizer_keeps_every_byte(pre: str) -> None:
    tiny = tokenizer(pre=pre)
    text = "Hi, it's 1234 o'clock!\r\n\n  x\t你好 é½ <|im_end|> \u00a0 12345"
    assert tiny.decode(tiny.encode(text)) == text


@pytest.mark.parametrize("pre", WAYS)
@given(st.text(alphabet="ab1 .,'\n\t<é你。\u0301!", max_size=200))
def test_cutting_long_texts_changes_no_id(pre: str, text: str) -> None:
    # Runs without a blank stay below twice the window here: only those are cut elsewhere.
    text = " ".join(text[i : i + 20] for i in range(0, len(text), 20))
    tiny = tokenizer(pre=pre)
    whole = tiny.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "WINDOW", 24)
        assert tiny.encode(text) == whole


@pytest.mark.parametrize("unit", ["a", " ", "😀", "\ufffd", "<", "<|im_", "hello ", "1"])
def test_time_is_linear(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        start = time.thread_time()
        TINY.encode(text, special=True)
        return time.thread_time() - start

    seconds(10_000)
    assert seconds(400_000) < 20 * seconds(100_000) + 0.5


def test_thousands_of_special_tokens_stay_fast() -> None:
    texts = {f"<|reserved_{n}|>": n for n in range(5000)}
    finder = Finder(texts)
    assert all(list(finder.split(text)) == [(text, n)] for text, n in texts.items())
    nested = Finder({"a" * n: n for n in range(1, 300)})
    assert list(nested.split("a" * 299)) == [("a" * 299, 299)]
    start = time.thread_time()
    assert len(list(finder.split("<|reserved_" * 10_000))) == 1
    assert time.thread_time() - start < 1
