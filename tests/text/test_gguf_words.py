"""A folder's tokenizer as GGUF metadata: both read texts alike, or the folder is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pagemill.errors import BadModelFile, PagemillError, Unsupported
from pagemill.text.gguf_words import GGUFWords, gguf_words
from pagemill.text.model_text import read_model_text
from pagemill.text.tokenizer import Tokenizer
from pagemill.text.vocabulary_files.protobuf import fields
from tests.text.texts import TEXTS
from tests.text.tokenizer_files import FILES, split

GOLDEN = Path(__file__).parent.parent / "golden" / "sentencepiece"
DIGITS = {"type": "Digits", "individual_digits": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(**changes: Any) -> dict[str, Any]:
    """Every byte is a token, and nothing is unknown."""
    file = copy.deepcopy(FILES["byte level"])
    file["model"]["unk_token"] = None
    vocab = file["model"]["vocab"]
    known = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324))]
    vocab |= {char: len(vocab) + n for n, char in enumerate(c for c in known if c not in vocab)}
    return {**file, **changes}


def write(folder: Path, file: Any, **config: Any) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(file))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text("{}")
    return folder


def both(folder: Path, more: int = 2) -> "tuple[Tokenizer, Tokenizer, dict[str, Any], GGUFWords]":
    own = Tokenizer.from_folder(folder)
    words = gguf_words(folder, own.vocab_size + more)
    metadata = {word.key: word.content for word in words.words}
    written = Tokenizer.from_gguf(metadata)
    assert written.vocab_size == own.vocab_size + more
    return own, written, metadata, words


@pytest.mark.parametrize(
    ("cut", "name"),
    [
        (BYTES, "gpt-2"),
        ({"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}, "smollm"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [split(QWEN2), {**BYTES, "use_regex": False}],
            },
            "qwen2",
        ),
    ],
)
def test_byte_pairs(tmp_path: Path, cut: Any, name: str) -> None:
    file = byte_level(pre_tokenizer=cut, normalizer=None)
    own, written, metadata, words = both(write(tmp_path, file, bos_token="<s>", eos_token="</s>"))
    assert (metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]) == ("gpt2", name)
    for text in TEXTS:
        assert written.encode_prompt(text) == own.encode_prompt(text)
        assert written.encode(text, special=True) == own.encode(text, special=True)
    assert written.special_ids == own.special_ids
    assert (written.bos_id, written.eos_ids) == (own.bos_id, own.eos_ids) == (1, {2})
    types = metadata["tokenizer.ggml.token_type"]
    assert types[:6] == [3, 3, 3, 4, 4, 3]  # control; user-defined
    assert types[-2:] == [5, 5]  # rows of the embedding that no token has
    assert metadata["tokenizer.ggml.tokens"][-1] == f"[PAD{own.vocab_size + 1}]"
    assert words.notes == ()


@pytest.mark.parametrize("name", ["llama", "gemma", "bert"])
def test_other_kinds(tmp_path: Path, name: str) -> None:
    own, written, metadata, words = both(write(tmp_path, FILES[name]))
    assert metadata["tokenizer.ggml.model"] == ("bert" if name == "bert" else "llama")
    for text in TEXTS:
        if "▁" not in text or name != "bert":  # GGUF marks words with it
            assert written.encode_prompt(text) == own.encode_prompt(text), text
            assert written.decode(own.encode(text)) == own.decode(own.encode(text))
    assert words.notes == ()


def test_what_all_such_files_do_is_told(tmp_path: Path) -> None:
    own, written, _, words = both(write(tmp_path, FILES["new llama"]))
    for text in TEXTS:
        if text[:1] not in (" ", "▁") and "<h1>" not in text:  # nor after such a token
            assert written.encode_prompt(text) == own.encode_prompt(text)
    assert written.encode_prompt(" a") != own.encode_prompt(" a")
    assert "texts that begin with a blank get one more" in words.notes[0]


def test_vocab_txt(tmp_path: Path) -> None:
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "he", "##llo", "##s", "a", "##b", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"do_lower_case": false, "unk_token": "[UNK]"}'
    )
    own, written, metadata, _ = both(tmp_path)
    assert metadata["tokenizer.ggml.tokens"][4:8] == ["▁hello", "▁he", "llo", "s"]
    assert metadata["tokenizer.ggml.normalizer.lowercase"] is False
    for text in ("hello hellos ab.", "Hello", ""):
        assert written.encode_prompt(text) == own.encode_prompt(text)
    assert written.encode_pair("a", "ab") == own.encode_pair("a", "ab")


def test_ends_without_a_known_name_get_keys(tmp_path: Path) -> None:
    folder = write(tmp_path, byte_level(normalizer=None), eos_token="</s>")
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": [2, 8, 9, 10], "temperature": 0.5, "top_k": 7, "max_new_tokens": 3}'
    )
    own, written, metadata, words = both(folder)
    assert own.eos_ids == {2, 8, 9, 10}
    assert written.eos_ids == {2, 8, 9}
    assert "tokens [10] end answers too" in words.notes[0]
    assert "max_new_tokens" in words.notes[1]
    brought = read_model_text(tmp_path / "x.gguf", metadata, own.vocab_size)
    assert (brought.defaults.temperature, brought.defaults.top_k) == (0.5, 7)


def test_the_template_comes_along(tmp_path: Path) -> None:
    named = [
        {"name": "default", "template": "{{ 1 }}"},
        {"name": "tool_use", "template": "{{ 2 }}"},
    ]
    folder = write(tmp_path, byte_level(normalizer=None), bos_token="<s>", chat_template=named)
    metadata = both(folder)[2]
    brought = read_model_text(tmp_path / "x.gguf", metadata, 9)
    assert brought.template is not None
    assert (brought.template.text, brought.template.tool_use) == ("{{ 1 }}", "{{ 2 }}")
    assert brought.tokens["bos_token"] == "<s>"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (FILES["t5"], "model: 'Unigram' cannot be written as GGUF"),
        (FILES["whole words"], "model: 'WordLevel'"),
        (FILES["clip"], "normalizer: ['NFC', 'Replace', 'Lowercase']"),
        (FILES["byte level with a blank before"], "pre_tokenizer: {'type': 'ByteLevel'"),
        (byte_level(pre_tokenizer=split(r"\p{L}+")), "p{L}+'}] has no name in GGUF"),
        # Which bytes are unknown is what only the library's file says.
        (FILES["byte level"], 'it would read "Hello, world!'),
    ],
)
def test_what_gguf_has_no_word_for_is_refused(tmp_path: Path, file: Any, message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        gguf_words(write(tmp_path, file), 2000)
    assert message in caught.value.message


def test_merges_at_several_ranks_are_refused(tmp_path: Path) -> None:
    file = copy.deepcopy(FILES["llama"])
    merges = file["model"]["merges"]
    file["model"]["merges"] = [merges[0], merges[1], *merges]
    with pytest.raises(PagemillError, match="is merged at several ranks"):
        gguf_words(write(tmp_path, file), 2000)


@pytest.mark.parametrize(("name", "message"), [("unigram", "unigram"), ("bpe", "changes texts")])
def test_sentencepiece_files_that_do_more(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "tokenizer.model").write_bytes((GOLDEN / f"{name}.model").read_bytes())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Unsupported, match=message):
        gguf_words(tmp_path, 2000)


def put_sentencepiece(folder: Path, *, prefix: bool) -> Path:
    """The golden one without its rules of normalizing, for which GGUF's kind has no place, and
    with a run of blanks as SentencePiece writes it."""
    data = b""
    for number, value in fields((GOLDEN / "bpe.model").read_bytes()):
        assert isinstance(value, bytes)
        if value.startswith(b"\n\x02  "):
            value = b"\n\x09" + 3 * "▁".encode() + value[4:]
        if number == 3:
            value = bytes([3 << 3, prefix, 4 << 3, 0])
        assert len(value) < 128
        data += bytes([number << 3 | 2, len(value)]) + value
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "config.json").write_text("{}")
    return folder


def test_sentencepiece_files(tmp_path: Path) -> None:
    own, written, metadata, _ = both(put_sentencepiece(tmp_path, prefix=False))
    for text in (text for text in TEXTS if "▁" not in text):  # there it is a blank
        assert written.encode_prompt(text) == own.encode_prompt(text), text
    assert (written.bos_id, written.eos_ids) == (own.bos_id, own.eos_ids) == (1, {2})
    names = ("unknown", "bos", "eos")
    assert [metadata[f"tokenizer.ggml.{name}_token_id"] for name in names] == [0, 1, 2]
    types, tokens = metadata["tokenizer.ggml.token_type"], metadata["tokenizer.ggml.tokens"]
    assert types[:6] == [2, 3, 3, 4, 4, 4]  # unknown, control, user-defined
    assert tokens[3:6] == ["<think>", "\t\t", "   "]  # as they stand in a text
    assert types.count(6) == 256  # bytes
    assert len(metadata["tokenizer.ggml.scores"]) == written.vocab_size


def test_runs_of_blanks_and_a_blank_before_texts(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="it would read '  two blanks"):
        gguf_words(put_sentencepiece(tmp_path, prefix=True), 2000)


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="tokens, the embedding 3 rows"):
        gguf_words(write(tmp_path, byte_level()), 3)
