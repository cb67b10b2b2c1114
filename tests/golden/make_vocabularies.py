"""Makes vocabularies.json: hashes of the ids that other programs give texts of tests/text/texts.py.

Needs packages that the project does not, the vocabularies that `.ci/run` fetches, and llama.cpp:

    python -m venv /tmp/golden && /tmp/golden/bin/pip install gguf mistral-common[sentencepiece]
    g++ -O1 -std=c++17 -I llama.cpp/include -I llama.cpp/ggml/include tests/golden/llama_ids.cpp \\
        -o /tmp/llama_ids -L llama.cpp/build/bin -lllama -lggml -lggml-base
    PYTHONPATH=. /tmp/golden/bin/python tests/golden/make_vocabularies.py /tmp/llama_ids FOLDER

WordPiece is held to the library `tokenizers`: llama.cpp decomposes characters only in part.
"""

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from gguf import GGUFReader
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from tests.text.texts import TEXTS, hash_of

Rows = list[list[int]]


def main(program: str, folder: Path) -> None:
    found = {}
    for path in sorted(folder.glob("ggml-vocab-*.gguf")):
        keys = GGUFReader(path).fields
        is_bert = keys["tokenizer.ggml.model"].contents() == "bert"
        plain, prompts = of_bert(keys) if is_bert else of_llama_cpp(program, path)
        found[path.name] = [hash_of(plain), hash_of(prompts)]
    for path in sorted(folder.glob("*.model*")):
        rows = SentencePieceProcessor(model_file=str(path)).encode(list(TEXTS))
        found[path.name] = [hash_of(rows), hash_of([[1, *row] for row in rows])]
    for path in sorted(folder.glob("tekken*.json")):
        tekken = Tekkenizer.from_file(path)
        rows = [tekken.encode(text, bos=False, eos=False) for text in TEXTS]
        found[path.name] = [hash_of(rows), hash_of([[1, *row] for row in rows])]
    target = Path(__file__).parent / "vocabularies.json"
    target.write_text(json.dumps(found, indent=1) + "\n")


def of_llama_cpp(program: str, path: Path) -> tuple[Rows, Rows]:
    with tempfile.NamedTemporaryFile() as texts:
        for text in TEXTS:
            data = text.encode()
            texts.write(struct.pack("<I", len(data)) + data)
        texts.flush()
        done = subprocess.run([program, path, texts.name], capture_output=True, check=True)
    rows = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    return rows[0::2], rows[1::2]


def of_bert(keys: dict[str, object]) -> tuple[Rows, Rows]:
    tokens = keys["tokenizer.ggml.tokens"].contents()  # type: ignore[attr-defined]
    vocab = {piece(token): number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    rows = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    return rows, [[101, *row, 102] for row in rows]


def piece(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[1:] if token.startswith("▁") else f"##{token}"


main(sys.argv[1], Path(sys.argv[2]))
