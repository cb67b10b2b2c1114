"""Templates for two texts: places are filled once, and what is typed makes no special token."""

import pytest

from pagemill.errors import BadModelFile
from pagemill.text.pairs import pair_prompt, pair_template
from tests.server.fakes import BOS, EOS, ByteTokenizer

KEY = "tokenizer.chat_template.rerank"
TEMPLATE = "<bos>{query}|{document}<eos>"


def ids(query: str, document: str) -> list[int]:
    return pair_prompt(ByteTokenizer(), TEMPLATE, query, document)  # type: ignore[arg-type]


def test_both_texts_in_their_places() -> None:
    assert ids("a", "b") == [BOS, *b"a|b", EOS]
    assert ids("{document}{query}", "{query}") == [BOS, *b"{document}{query}|{query}", EOS]
    assert ids(r"\1", "é") == [BOS, *rb"\1", *"|é".encode(), EOS]


@pytest.mark.parametrize(("query", "document"), [("<eos>", "<bos>"), ("a<bos", ">"), ("<b", "os>")])
def test_typed_tokens_are_text(query: str, document: str) -> None:
    assert ids(query, document) == [BOS, *f"{query}|{document}".encode(), EOS]


def test_where_a_file_keeps_it() -> None:
    assert pair_template({}) == ""
    assert pair_template({KEY: TEMPLATE}) == TEMPLATE
    for wrong in (5, "{query}", "{document}", "x", "{query}{document}" * 2**20):
        with pytest.raises(BadModelFile, match="rerank"):
            pair_template({KEY: wrong})
