"""Model names: what a user may type, checked once and turned into a type that cannot be wrong.

    smollm2   smollm2:135m              a short name of the catalogue, with an optional tag
    hf.co/org/repo   org/repo:Q4_K_M    a repository on Hugging Face, with an optional quantization
    ./model.gguf   /abs/model.gguf      a file on this machine

Owns the grammar of names. It touches no file and no network, and a name never becomes a path inside
the store: the store derives file names by hashing (`Name.key`).
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from pagemill.errors import InvalidRequest

Kind = Literal["catalogue", "hub", "file"]

MAX_LENGTH = 255  # of catalogue and hub names
MAX_PATH_LENGTH = 4096
FORMS = "smollm2, smollm2:135m, hf.co/org/repo:Q4_K_M or ./file.gguf"

# ASCII only, so that no Unicode dot, slash or direction mark can pass for another character.
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_HUB_HOSTS = ("hf.co/", "huggingface.co/")
# Names that are devices on some file systems, whatever follows the first dot.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul"] + [f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)]
)


@dataclass(frozen=True, slots=True)
class Name:
    """One valid name. `model` is a short name, "org/repo" or a path; `tag` may be empty.

    Short names and their tags are lower case, quantizations are upper case; a repository keeps the
    case that was typed, but two names that differ only in case have the same `key`.
    """

    kind: Kind
    model: str
    tag: str = ""

    @classmethod
    def parse(cls, text: str, *, allow_files: bool = True) -> "Name":
        """Read what a user typed. Raises InvalidRequest for anything else.

        Pass `allow_files=False` for names that arrive over the network: they may not name files.
        """
        if text.endswith(".gguf") and text.startswith(("/", "./", "../", "~/")):
            if not allow_files:
                raise _invalid(text, "files are named on the command line only")
            if len(text) > MAX_PATH_LENGTH:
                raise _invalid(text, f"{len(text)} characters long, the limit is {MAX_PATH_LENGTH}")
            if not text.isprintable():
                raise _invalid(text, "it holds control characters")
            return cls("file", text)
        if len(text) > MAX_LENGTH:
            raise _invalid(text, f"{len(text)} characters long, the limit is {MAX_LENGTH}")
        return _parse_remote(text)

    def __str__(self) -> str:
        prefix = "hf.co/" if self.kind == "hub" else ""
        return f"{prefix}{self.model}:{self.tag}" if self.tag else f"{prefix}{self.model}"

    @property
    def key(self) -> str:
        """A file name for this name: readable, then a hash that tells any two names apart."""
        folded = str(self).casefold()
        readable = re.sub(r"[^a-z0-9.]+", "-", folded).strip("-.")[:60]
        return f"{readable}.{hashlib.sha256(folded.encode()).hexdigest()[:16]}"


def _parse_remote(text: str) -> Name:
    host = next((h for h in _HUB_HOSTS if text.startswith(h)), "")
    model, colon, tag = text[len(host) :].partition(":")
    words = model.split("/")
    if colon and not tag:
        raise _invalid(text, "nothing follows the colon")
    if host and len(words) != 2:
        raise _invalid(text, f"{host} must be followed by org/repo")
    for word in [*words, *([tag] if tag else [])]:
        _check_word(text, word)
    if len(words) == 1:
        return Name("catalogue", model.lower(), tag.lower())
    if len(words) == 2:
        return Name("hub", model, tag.upper())
    raise _invalid(text, "it has too many parts")


def _check_word(text: str, word: str) -> None:
    if not word:
        raise _invalid(text, "a part of it is empty")
    if not _WORD.fullmatch(word):
        raise _invalid(
            text,
            "its parts are letters a-z, digits, '.', '_' and '-', "
            "begin with a letter or digit and do not end with a dot",
        )
    if ".." in word:
        raise _invalid(text, "it holds '..'")
    if word.split(".")[0].lower() in _DEVICES:
        raise _invalid(text, f"{word.split('.')[0]!r} is a device on some systems")


def _invalid(text: str, reason: str) -> InvalidRequest:
    # ascii(): a message never carries control characters or marks that change how it is read.
    shown = ascii(text if len(text) <= 80 else text[:77] + "...")
    return InvalidRequest(f"model name {shown} is invalid: {reason}; try {FORMS}", param="model")
