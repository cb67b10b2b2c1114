"""Each kind of vocabulary: text to tokens and back, on vocabularies small enough to read."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemill.errors import BadModelFile, Unsupported
from pagemill.text import encoder
from pagemill.text.detokenizer import Detokenizer
from pagemill.text.kinds import KINDS, read_vocabulary
from pagemill.text.tokenizer import Tokenizer
from tests.text.vocabularies import metadata, spm, unigram, wordpiece

Metadata = Callable[..., dict[str, Any]]
MAKERS: dict[str, Metadata] = {
    "gpt2": metadata,
    "llama": spm,
    "t5": unigram,
    "bert": wordpiece,
}
OVER_CHARACTERS = {"model": "gemma4", "merges": ["h e", "l l", "▁ t", "▁t he"]}
ALL = {kind: Tokenizer.from_gguf(make()) for kind, make in MAKERS.items()} | {
    "gemma4": Tokenizer.from_gguf(spm(**OVER_CHARACTERS))
}
# Kinds that give back every text but one: its tabs are a token that text does not become.
LOSSLESS = ("gpt2", "llama", "gemma4")
TEXTS = st.lists(
    st.one_of(
        st.text(alphabet="helo tingas<>/你é😀\n\t▁", max_size=12),
        st.sampled_from(["<think>", "</s>", "<s>", "<0x41>", "[SEP]", "hello", " the", "\t\t"]),
    )
).map("".join)
kinds = pytest.mark.parametrize("kind", ALL)


def test_every_kind_is_tested() -> None:
    assert ALL.keys() == KINDS.keys()


def pieces(kind: str, text: str) -> list[str]:
    return [ALL[kind].token_bytes(i).decode("utf-8", "replace") for i in ALL[kind].encode(text)]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("llama", "hello the", [" hello", " the"]),
        ("llama", " hello", [" ", " hello"]),
        ("llama", "the     a", [" the", "    ", " a"]),
        ("llama", "thing", [" t", "h", "ing"]),
        ("llama", "\t\t\nhe", ["\t\t", " ", "\n", "he"]),
        ("llama", "€", [" ", "\ufffd", "\ufffd", "\ufffd"]),
        ("llama", "<0x41>", [" ", "<", "0", "x", "4", "1", ">"]),
        ("llama", "</s>", [" ", "<", "/", "s", ">"]),
        ("gemma4", "hello the", ["he", "ll", "o", " the"]),
        ("gemma4", "<think>", ["<", "t", "h", "i", "n", "k", ">"]),
        ("t5", "  hello    the ", [" hello", " the"]),
        ("t5", "thing", [" t", "h", "ing"]),
        ("t5", "hex", [" he", "<unk>"]),
        ("t5", "</s>", [" ", "<", "/", "s", ">"]),
        ("t5", "<mask>", [" ", "<", "<unk>", "a", "s", "<unk>", ">"]),
        ("t5", "unused", [" ", "unused"]),
        ("bert", "Hello, the hellos.", [" hello", " ,", " the", " hello", "s", " ."]),
        ("bert", "hér you你 THEING", [" h", "er", " you", " 你", " the", "ing"]),
        ("bert", "[SEP]", ["[UNK]", "[UNK]", "[UNK]"]),
        ("bert", "a" * 101, ["[UNK]"]),
    ],
)
def test_text_to_tokens(kind: str, text: str, expected: list[str]) -> None:
    assert pieces(kind, text) == expected


@kinds
@given(TEXTS)
def test_plain_text_never_makes_a_special_id(kind: str, text: str) -> None:
    tokenizer = ALL[kind]
    unknown = {3} if kind == "t5" else {1} if kind == "bert" else set()
    assert not (tokenizer.special_ids - unknown) & set(tokenizer.encode(text))


@pytest.mark.parametrize("kind", LOSSLESS)
@given(TEXTS)
def test_decoding_gives_the_text_back(kind: str, text: str) -> None:
    tokenizer = ALL[kind]
    plain = text.replace("▁", " ") if kind != "gpt2" else text
    if kind != "llama" or "\t\t" not in text:  # what follows such a token begins with a blank
        assert tokenizer.decode(tokenizer.encode(text)) == plain


@kinds
@given(st.data())
def test_a_stream_is_the_whole(kind: str, data: st.DataObject) -> None:
    tokenizer = ALL[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=20))
    skip = data.draw(st.booleans())
    stream = Detokenizer(tokenizer, skip_special=skip)
    text = "".join([stream.push([i]) for i in ids]) + stream.finish()
    assert text == tokenizer.decode(ids, skip_special=skip)


@kinds
@given(st.text(alphabet="helo tingas<你é\n", max_size=300))
def test_cutting_long_texts_changes_no_id(kind: str, text: str) -> None:
    text = " ".join(text[i : i + 15] for i in range(0, len(text), 15))
    whole = ALL[kind].encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "WINDOW", 20)
        assert ALL[kind].encode(text) == whole


def test_the_first_blank_goes_and_no_other() -> None:
    llama = ALL["llama"]
    hello, the, eos = *llama.encode("hello the"), 2
    assert llama.decode([1, hello, the, eos, hello]) == "hello the hello"
    assert llama.decode([eos, hello], skip_special=False) == "</s> hello"
    answer = Detokenizer(llama)
    assert [answer.push([i]) for i in (1, hello, hello)] == ["", "hello", " hello"]
    goes_on = Detokenizer(llama, continues=True)
    assert goes_on.push([hello]) == " hello"


def test_no_blank_where_the_file_says_so() -> None:
    gemma = Tokenizer.from_gguf(spm(add_space_prefix=False))
    assert gemma.decode(gemma.encode(" hello")) == " hello"
    assert [gemma.token_bytes(i) for i in gemma.encode("he")] == [b"he"]


def test_special_tokens_on_request() -> None:
    llama = ALL["llama"]
    assert llama.encode("<s>he<think>", special=True) == [1, *llama.encode("he"), 3]
    assert llama.decode([3]) == "<think>"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("Phi-3 mini", "<s> <think>\n he", ["<s>", "  ", "<think>", " he"]),
        ("Llama", "<s> <think>\n he", ["<s>", "  ", "<think>", " ", "\n", " he"]),
    ],
)
def test_special_tokens_that_take_the_blanks_behind_them(
    name: str, text: str, expected: list[str]
) -> None:
    tokenizer = Tokenizer.from_gguf({**spm(), "general.name": name})
    assert [tokenizer.token_bytes(i).decode() for i in tokenizer.encode(text, special=True)] == (
        expected
    )


def test_prompts_and_pairs() -> None:
    bert, xlm, llama = ALL["bert"], ALL["t5"], ALL["llama"]
    (hello,), (the,) = bert.encode("hello"), bert.encode("the")
    assert bert.encode_prompt("hello") == [2, hello, 3]
    pair = bert.encode_pair("hello", "the the")
    assert pair == [2, hello, 3, the, the, 3]
    assert bert.token_type_ids(pair) == [0, 0, 0, 1, 1, 1]
    assert bert.token_type_ids(bert.encode_prompt("hello")) == [0, 0, 0]
    assert bert.encode_pair("", "") == [2, 3, 3]
    assert bert.token_type_ids([2, 3, 3]) == [0, 0, 1]
    (hello,), (the,) = xlm.encode("hello"), xlm.encode("the")
    assert xlm.encode_prompt("hello") == [0, hello, 2]
    assert xlm.encode_pair("hello", "the") == [0, hello, 2, 2, the, 2]
    assert xlm.token_type_ids([0, hello, 2, 2, the, 2]) == [0] * 6
    assert llama.encode_prompt("") == [1]
    assert llama.add_bos
    bare = Tokenizer.from_gguf(spm(add_bos_token=False, add_eos_token=True))
    assert bare.encode_prompt("he")[-1] == 2
    assert not bare.add_bos


BAD: list[tuple[Metadata, dict[str, Any], str]] = [
    (spm, {"scores": None}, "scores: is missing"),
    (spm, {"scores": [0.0]}, "scores: has 1 items for 290 tokens"),
    (spm, {"scores": ["a"] * 290}, "scores: holds something else than numbers"),
    (spm, {"scores": [float("nan")] * 290}, "scores: holds a number that is not finite"),
    (spm, {"scores": [float("inf")] * 290}, "not finite"),
    (spm, {"add_space_prefix": 1}, "add_space_prefix: is a int, not a bool"),
    (spm, {"unknown_token_id": 290}, "unknown_token_id: is 290, there are 290 tokens"),
    (unigram, {"scores": None}, "scores: is missing"),
    (unigram, {"precompiled_charsmap": [1, 2]}, "precompiled_charsmap: has 2 bytes"),
    (unigram, {"precompiled_charsmap": ["a"] * 9}, "precompiled_charsmap: "),
    (unigram, {"remove_extra_whitespaces": "yes"}, "is a str, not a bool"),
    (wordpiece, {"unknown_token_id": 99}, "is 99, there are 18 tokens"),
    (wordpiece, {"unknown_token_id": None}, "unknown_token_id: is missing"),
    (wordpiece, {"normalizer.lowercase": 1}, "normalizer.lowercase: is a int"),
    (wordpiece, {"tokens": ["▁a", "▁a"]}, "items 0 and 1 are both"),
]


@pytest.mark.parametrize(("make", "changes", "says"), BAD)
def test_nonsense_is_refused(make: Metadata, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadModelFile, match=says):
        read_vocabulary(make(**changes))


def test_what_is_not_supported_lists_what_is() -> None:
    with pytest.raises(Unsupported, match="supported: gpt2, llama, bert, t5, gemma4"):
        read_vocabulary(metadata(model="rwkv"))
