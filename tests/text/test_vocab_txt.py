"""vocab.txt, held to the library."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers.implementations import BertWordPieceTokenizer

from pagemill.errors import BadModelFile
from pagemill.text.tokenizer import Tokenizer
from tests.text.texts import TEXTS
from tests.text.tokenizer_files import of_words

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [word for word in of_words()["vocab"] if not word.startswith(("<", "[SEP"))]


def load(folder: Path, lines: str, **config: Any) -> Tokenizer:
    (folder / "vocab.txt").write_text(lines, encoding="utf-8", newline="")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_folder(folder)


@pytest.mark.parametrize("lower", [True, False])
def test_ids_are_those_of_the_library(tmp_path: Path, lower: bool) -> None:
    tokens = [*SPECIAL, *WORDS]
    tokenizer = load(tmp_path, "\n".join(tokens) + "\n", do_lower_case=lower, model_max_length=9)
    library = BertWordPieceTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, lowercase=lower
    )
    for text in TEXTS:
        assert tokenizer.encode_prompt(text, special=True) == library.encode(text).ids
    pair = library.encode("a b", "c")
    assert tokenizer.encode_pair("a b", "c") == pair.ids
    assert tokenizer.token_type_ids(pair.ids) == pair.type_ids
    assert tokenizer.decode(tokenizer.encode_prompt("the hello")) == "the hello"
    assert tokenizer.max_length == 9


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("", "item 0 is empty"),
        ("[UNK]\n\na", "item 1 is empty"),
        ("[UNK]\na\na", "items 1 and 2 are both 'a'"),
        ("a\nb", "'.UNK.', the unknown token, is not there"),
        ("[UNK]\n" + "a" * 5000, "the limit is 4096"),
        ("a\n" * (1 << 21), "has 2097152 lines, the limit is 1048576"),
    ],
    ids=range(6),
)
def test_broken_files(tmp_path: Path, lines: str, says: str) -> None:
    with pytest.raises(BadModelFile, match=f"vocab.txt.*{says}"):
        load(tmp_path, lines)
