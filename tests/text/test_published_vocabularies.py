"""Vocabularies of published models: the ids that llama.cpp, SentencePiece and tiktoken give."""

import json
import shutil
from pathlib import Path

import pytest

from pagemill.text.tokenizer import Tokenizer
from pagemill.weights.gguf import GGUFFile
from tests.text.texts import TEXTS, hash_of

GOLDEN = Path(__file__).parent.parent / "golden" / "vocabularies.json"
EXPECTED: dict[str, list[str]] = json.loads(GOLDEN.read_text())
GGUF = [name for name in EXPECTED if name.endswith(".gguf")]
# Of these no list of expected ids is published.
UNLISTED = {"aquila", "baichuan", "gpt-neox", "nomic-bert-moe"}
BREAK = "\n__ggml_vocab_test__\n"


def load(folder: Path, name: str, scratch: Path) -> Tokenizer:
    if name.endswith(".gguf"):
        with GGUFFile.open(folder / name) as file:
            return Tokenizer.from_gguf(file.metadata)
    target = "tekken.json" if name.startswith("tekken") else "tokenizer.model"
    shutil.copy(folder / name, scratch / target)
    return Tokenizer.from_folder(scratch)


@pytest.mark.parametrize("name", EXPECTED)
def test_ids(published_vocabularies: Path, name: str, tmp_path: Path) -> None:
    tokenizer = load(published_vocabularies, name, tmp_path)
    plain, prompts = EXPECTED[name]
    assert hash_of(map(tokenizer.encode, TEXTS)) == plain
    assert hash_of(map(tokenizer.encode_prompt, TEXTS)) == prompts


@pytest.mark.parametrize("name", GGUF)
def test_listed_ids(published_vocabularies: Path, name: str, tmp_path: Path) -> None:
    """The vocabularies' own lists of texts and ids."""
    texts, ids = (published_vocabularies / f"{name}.{end}" for end in ("inp", "out"))
    assert texts.exists() == (name[len("ggml-vocab-") : -len(".gguf")] not in UNLISTED)
    if texts.exists():
        tokenizer = load(published_vocabularies, name, tmp_path)
        with texts.open(encoding="utf-8", newline="") as file:
            given = file.read().split(BREAK)
        listed = [list(map(int, line.split())) for line in ids.read_text().split("\n")]
        assert list(map(tokenizer.encode, given)) == listed[: len(given)]


def test_nothing_is_left_out(published_vocabularies: Path) -> None:
    found = {path.name for path in published_vocabularies.glob("ggml-vocab-*.gguf")}
    assert found == set(GGUF)
