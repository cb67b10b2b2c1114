"""Token lists that nobody vouches for."""

import time
from array import array
from typing import Any

import pytest

from pagemill.errors import BadModelFile, Unsupported
from pagemill.text import gguf_keys
from pagemill.text.kinds import bpe, read_vocabulary
from pagemill.text.spelling import byte_alphabet
from pagemill.weights.cursor import StringArray
from tests.text.vocabularies import SPECIAL, metadata, tokenizer

TOKENS: list[str] = metadata()["tokenizer.ggml.tokens"]
KINDS: list[int] = metadata()["tokenizer.ggml.token_type"]

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("no tokens key", {"tokens": None}, "tokens: is missing"),
    ("no tokens", {"tokens": []}, "is empty"),
    ("tokens not a list", {"tokens": "abc"}, "is a str"),
    ("tokens not text", {"tokens": [1, 2]}, "something else than strings"),
    ("empty token", {"tokens": [*TOKENS[:-1], ""]}, "item 272 is empty"),
    ("many empty tokens", {"tokens": [""] * 100_000}, "is empty"),
    ("duplicate", {"tokens": [*TOKENS[:-1], "hello"]}, "both 'hello'"),
    ("long token", {"tokens": [*TOKENS[:-1], "x" * 5000]}, "limit is 4096"),
    ("too few kinds", {"token_type": KINDS[1:]}, "for 273 tokens"),
    ("unknown kind", {"token_type": [7, *KINDS[1:]]}, "outside 0 to 6"),
    ("kind not a number", {"token_type": ["a", *KINDS[1:]]}, "outside 0 to 6"),
    ("no merges", {"merges": None}, "merges: is missing"),
    ("merge of a missing token", {"merges": ["h zz"]}, "item 0"),
    ("merge to a missing token", {"merges": ["h e", "q z"]}, "item 1"),
    ("merge without a border", {"merges": ["he"]}, "item 0"),
    ("merge of three", {"merges": ["h e l"]}, "item 0"),
    ("bos past the end", {"bos_token_id": 273}, "is 273, there are 273"),
    ("eos negative", {"eos_token_id": -1}, "is -1"),
    ("eos not a number", {"eos_token_id": 2.0}, "is a float"),
    ("eos a bool", {"eos_token_id": True}, "is a bool"),
    ("model not text", {"model": 5}, "model: is a int"),
    ("no model", {"model": None}, "model: is missing"),
    ("pre not text", {"pre": 5}, "pre: is a int"),
    ("add_bos not a bool", {"add_bos_token": 1}, "is a int"),
]


@pytest.mark.parametrize(("changes", "says"), [row[1:] for row in BAD], ids=[r[0] for r in BAD])
def test_nonsense_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadModelFile, match=says):
        read_vocabulary(metadata(**changes))


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["a" * (1 << 25)], "a token has 33554432 characters, the limit is 4096"),
        ([""] * 10_000_000, "tokens: has 10000000 items, the limit is 1048576"),
        ([""] * (1 << 20), "item 0 is empty"),
    ],
    ids=["32 MiB", "ten million", "a million"],
)
def test_size_takes_no_time(tokens: list[str], says: str) -> None:
    start = time.thread_time()
    with pytest.raises(BadModelFile, match=says):
        read_vocabulary(metadata(tokens=tokens))
    assert time.thread_time() - start < 1


def test_tokens_that_are_not_utf8() -> None:
    data = [b"a", b"\xff"]
    raw = b"".join(len(item).to_bytes(8, "little") + item for item in data) + bytes(8)
    tokens = StringArray(raw, array("q", [8, 17, 26]), "tokens")
    with pytest.raises(BadModelFile, match="tokens: item 1 is not UTF-8 at its byte 0"):
        read_vocabulary(metadata(tokens=tokens))


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, key in [
        (gguf_keys, "MAX_TOKENS", "tokens"),
        (bpe, "MAX_MERGES", "merges"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 10)
            with pytest.raises(BadModelFile, match=f"{key}: has .* the limit is 10"):
                read_vocabulary(metadata())
    monkeypatch.setattr(gguf_keys, "MAX_SPECIAL", 3)
    with pytest.raises(BadModelFile, match="marks 6 tokens as special"):
        read_vocabulary(metadata())


def test_what_is_not_supported_lists_what_is() -> None:
    with pytest.raises(Unsupported, match="supported: gpt2"):
        read_vocabulary(metadata(model="rwkv"))
    with pytest.raises(Unsupported, match=r"qwen2.*smollm"):
        read_vocabulary(metadata(pre="gpt-99"))


def test_kinds_of_tokens() -> None:
    read = read_vocabulary(metadata())
    assert read.kinds.special == set(range(len(SPECIAL)))
    assert read.kinds.marks == {3}
    assert read.eos_ids == {0, 2}
    assert not read_vocabulary(metadata(token_type=None)).kinds.added


def test_the_bos_token_is_added_where_the_file_or_its_family_says_so() -> None:
    assert not tokenizer().add_bos
    assert tokenizer(add_bos_token=True).encode_prompt("") == [1]
    assert tokenizer(pre="llama-bpe").add_bos
    assert not tokenizer(pre="llama-bpe", add_bos_token=False).add_bos
    assert not tokenizer(add_bos_token=True, bos_token_id=None).add_bos


def test_the_byte_alphabet_is_a_bijection() -> None:
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert byte_alphabet()["Ġ"] == ord(" ")
    assert byte_alphabet()["a"] == ord("a")
