"""Makes the files in golden/sentencepiece: small models of it, and what it makes of texts.

Needs a package that the project does not: run it in an environment of its own and commit what it
makes.

    python -m venv /tmp/golden && /tmp/golden/bin/pip install sentencepiece
    PYTHONPATH=. /tmp/golden/bin/python tests/golden/make_sentencepiece.py
"""

import io
import json
import os
from pathlib import Path

import sentencepiece

from tests.text.texts import TEXTS

HERE = Path(__file__).resolve().parent / "sentencepiece"
RULES = {
    "é": "e",
    "e\u0301": "e",
    "ﬁ": "fi",
    "\t": " ",
    "\u00a0": " ",
    "a\u0308\u0304": "ae",
    "\u200b": "",
}
KINDS = {
    "unigram": {"model_type": "unigram", "vocab_size": 300},
    "unigram_bytes": {
        **{"model_type": "unigram", "vocab_size": 500, "byte_fallback": True},
        **{"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    },
    "suffix": {"model_type": "unigram", "vocab_size": 300, "treat_whitespace_as_suffix": True},
    "bpe": {
        **{"model_type": "bpe", "vocab_size": 600, "byte_fallback": True},
        **{"remove_extra_whitespaces": False, "user_defined_symbols": "<think>,\t\t,  "},
    },
}


def points(text: str) -> str:
    return " ".join(f"{ord(char):X}" for char in text)


def main() -> None:
    corpus = [line for path in sorted(Path("docs").glob("*.md")) for line in path.open()]
    rules = HERE / "rules.tsv"
    lines = (f"{points(old)}\t{points(new)}\n" for old, new in RULES.items())
    rules.write_text("".join(lines))
    os.chdir(HERE)  # the models keep the path of their rules
    expected = {}
    for name, options in KINDS.items():
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=model,
            normalization_rule_tsv=rules.name,
            num_threads=1,
            minloglevel=2,
            **options,
        )
        (HERE / f"{name}.model").write_bytes(model.getvalue())
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        ids = [processor.encode(text) for text in TEXTS]
        expected[name] = {"ids": ids, "texts": [processor.decode(row) for row in ids]}
    rules.unlink()
    (HERE / "expected.json").write_text(json.dumps(expected, separators=(",", ":")))


main()
