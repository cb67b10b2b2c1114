"""SentencePiece's own files, held to SentencePiece; and files that are broken."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pagemill.errors import BadModelFile, Unsupported
from pagemill.text.tokenizer import Tokenizer
from pagemill.text.vocabulary_files.protobuf import fields
from tests.text.texts import TEXTS

GOLDEN = Path(__file__).parent.parent / "golden" / "sentencepiece"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
UNKNOWN = " \u2047 "  # how SentencePiece shows what is unknown
models = pytest.mark.parametrize("model", EXPECTED)


def load(folder: Path, model: str | bytes, **config: Any) -> Tokenizer:
    data = (GOLDEN / f"{model}.model").read_bytes() if isinstance(model, str) else model
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_folder(folder)


@models
def test_ids_and_texts_are_those_of_sentencepiece(tmp_path: Path, model: str) -> None:
    tokenizer = load(tmp_path, model)
    expected = EXPECTED[model]
    for text, ids, back in zip(TEXTS, expected["ids"], expected["texts"], strict=True):
        # It knows user-defined tokens wherever they are; the marks of them are text to us.
        assert tokenizer.encode(text, special="<think>" in text) == ids, text
        if UNKNOWN not in back and "▁" not in text:
            assert tokenizer.decode(ids) == back


@models
def test_plain_text_never_makes_a_special_id(tmp_path: Path, model: str) -> None:
    tokenizer = load(tmp_path, model)
    for text in ("<s></s>", "<think>", "<unk>", "<0x41>", "\uffff0", "\uffff1"):
        assert not tokenizer.special_ids - {0} & set(tokenizer.encode(text))


def test_prompts(tmp_path: Path) -> None:
    assert load(tmp_path, "bpe").encode_prompt("a")[0] == 1
    assert load(tmp_path, "bpe", add_bos_token=False).encode_prompt("") == []
    assert load(tmp_path, "unigram").encode_prompt("") == [2]
    flags = {"add_bos_token": True, "add_eos_token": True}
    assert load(tmp_path, "unigram", **flags).encode_prompt("") == [1, 2]
    assert load(tmp_path, "bpe", eos_token="<think>").eos_ids == {2, 3}
    assert load(tmp_path, "bpe", model_max_length=77).max_length == 77


def test_the_first_blank_after_special_tokens(tmp_path: Path) -> None:
    text = "<s>model<s>"
    old, new = load(tmp_path, "bpe"), load(tmp_path, "bpe", legacy=False)
    assert old.encode(text, special=True) == [1, *old.encode("model"), 1]
    assert new.decode(new.encode(text, special=True), skip_special=False) == text
    assert new.encode("model") == old.encode("model")


def test_tokens_that_were_added_later(tmp_path: Path) -> None:
    added = {"600": {"content": "<x>", "special": True}, "601": {"content": "words"}}
    tokenizer = load(tmp_path, "bpe", added_tokens_decoder=added)
    assert tokenizer.vocab_size == 602
    assert tokenizer.encode("<x>", special=True) == [600]
    assert tokenizer.encode("words") == [601]
    assert tokenizer.decode([600, 601]) == "words"
    with pytest.raises(BadModelFile, match="'<x>' has id 700, the next is 600"):
        load(tmp_path, "bpe", added_tokens_decoder={"700": added["600"]})


def message(*parts: tuple[int, bytes | int]) -> bytes:
    """A protocol buffer; lengths stay below 128."""
    data = b""
    for number, value in parts:
        if isinstance(value, int):
            data += bytes([number << 3, value])
        elif number == 2 and len(value) == 4:
            data += bytes([number << 3 | 5]) + value
        else:
            data += bytes([number << 3 | 2, len(value)]) + value
    return data


def model_of(*pieces: bytes, trainer: bytes = b"", normalizer: bytes = b"") -> bytes:
    head = message((1, b"<unk>"), (3, 2))
    body = b"".join(message((1, piece)) for piece in (head, *pieces))
    return body + bytes([18, len(trainer)]) + trainer + message((3, normalizer))


A = message((1, b"a"), (2, b"\0\0\0\0"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "has 0 pieces"),
        (b"\x0a", "ends inside of a number"),
        (b"\x0a\x05ab", "field 1 has 5 bytes, 2 are left"),
        (b"\x0a" + b"\xff" * 11, "more than 10 bytes"),
        (b"\x02\x00", "number 0"),
        (b"\x0b", "kind 3"),
        (message((1, 7)), "a piece is a number"),
        (model_of(message((1, b""))), "item 1 is empty"),
        (model_of(A, A), "items 1 and 2 are both 'a'"),
        (model_of(message((1, b"\xff"))), "piece 1, b'.xff', is not UTF-8"),
        (model_of(message((1, b"a"), (3, 9))), "piece 1 has type 9"),
        (model_of(message((1, b"a"), (2, b"\0\0\xc0\x7f"))), "piece 1 has score nan"),
        (model_of(message((2, b"\0\0\0\0"))), "piece 1 has no text"),
        (model_of(A, normalizer=message((2, b"abc"))), "has 3 bytes"),
        (model_of(A, normalizer=message((3, b"abc"))), "field 3 is no number"),
        (model_of(A, trainer=b"\xc8\x02\x63"), "bos_id: is 99"),
    ],
)
def test_broken_files(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(BadModelFile, match=f"tokenizer.model.*{says}"):
        load(tmp_path, data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (model_of(A, trainer=message((3, 3))), "model_type: 3; supported: unigram, bpe"),
        (model_of(A, normalizer=message((5, 0))), "escape_whitespaces"),
        (model_of(A, message((1, b"u"), (3, 5)), trainer=message((3, 2))), "unused"),
    ],
)
def test_what_is_not_supported(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(Unsupported, match=says):
        load(tmp_path, data)


@models
def test_bytes_that_were_changed(tmp_path: Path, model: str) -> None:
    """One clear error, or a tokenizer that works."""
    whole = (GOLDEN / f"{model}.model").read_bytes()
    choose = random.Random(model)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(choose.choice((1, 3, 30))):
            data[choose.randrange(len(data))] = choose.randrange(256)
        data = data[: choose.choice((len(data), choose.randrange(len(data))))]
        try:
            tokenizer = load(tmp_path, bytes(data))
        except (BadModelFile, Unsupported):
            continue
        for text in TEXTS[:40:5]:
            tokenizer.decode(tokenizer.encode(text))


def test_fields_of_all_kinds() -> None:
    data = b"\x08\x96\x01\x11" + bytes(8) + b"\x1a\x02hi\x25\x01\x00\x00\x00"
    assert list(fields(data)) == [(1, 150), (2, bytes(8)), (3, b"hi"), (4, b"\1\0\0\0")]
    assert list(fields(b"\x08" + b"\xff" * 9 + b"\x01")) == [(1, (1 << 64) - 1)]


def test_one_of_the_names_is_enough(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "unigram.model", tmp_path / "spiece.model")
    assert Tokenizer.from_folder(tmp_path).vocab_size == 300
    with pytest.raises(BadModelFile, match="none of tokenizer"):
        Tokenizer.from_folder(tmp_path / "empty")
