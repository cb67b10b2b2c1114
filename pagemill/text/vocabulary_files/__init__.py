"""The vocabulary of a folder as the Hugging Face hub holds it.

Owns which file is read: the first of a list that is there.
"""

from pathlib import Path
from types import MappingProxyType

from pagemill.errors import BadModelFile
from pagemill.text.vocabulary import Vocabulary
from pagemill.text.vocabulary_files import sentencepiece, tekken, tokenizer_json, vocab_txt
from pagemill.text.vocabulary_files.settings import read_settings

READERS = MappingProxyType(
    {
        "tokenizer.json": tokenizer_json.read,
        "tokenizer.model": sentencepiece.read,
        "spiece.model": sentencepiece.read,
        "tekken.json": tekken.read,
        "vocab.txt": vocab_txt.read,
    }
)


def read_folder(folder: Path) -> Vocabulary:
    """BadModelFile names the file and the place in it; Unsupported what is not understood."""
    settings = read_settings(folder)
    for name, read in READERS.items():
        path = folder / name
        if path.is_file():
            return read(path, settings)
    raise BadModelFile(f"{folder}: no tokenizer: none of {', '.join(READERS)} is there")
