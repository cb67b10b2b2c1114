"""Model names: what a user may type, checked once and turned into a type that cannot be wrong.

    smollm2   smollm2:135m                a short name of the catalogue, with an optional tag
    org/repo   hf.co/org/repo:Q4_K_M      a repository on Hugging Face, perhaps a quantization
    org/repo/sub/folder@revision          a folder of it, at a branch, tag or commit
    ./model.gguf   /folder/of/a/model     a file or folder on this machine

Owns the grammar of names. It touches no file and no network, and a name never becomes a path inside
the store: the store derives file names by hashing (`Name.key`).
"""

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Literal

from pagemill.errors import InvalidRequest

Kind = Literal["catalogue", "hub", "file"]

MAX_LENGTH = 255  # of catalogue and hub names
MAX_PATH_LENGTH = 4096
FORMS = "smollm2, smollm2:135m, org/repo, hf.co/org/repo:Q4_K_M, ./file.gguf or ./folder"

# ASCII only, so that no Unicode dot, slash or direction mark can pass for another character.
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
_HUB_HOSTS = ("hf.co/", "huggingface.co/")
_LOCAL = re.compile(r"(?:/|\.{1,2}(?:/|$)|~(?:/|$))")
# Names that are devices on some file systems, whatever follows the first dot.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul"] + [f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)]
)


@dataclass(frozen=True, slots=True)
class Name:
    """One valid name. `model` is a short name, "org/repo" or a path; the rest may be empty.

    Short names and their tags are lower case, quantizations are upper case. A repository keeps the
    case that was typed, but two that differ only in case have the same `key`; folders and revisions
    that differ in case are different ones. `revision` is "" for the hub's own choice.
    """

    kind: Kind
    model: str
    tag: str = ""
    folder: str = ""
    revision: str = ""

    @classmethod
    def parse(cls, text: str, *, allow_files: bool = True) -> "Name":
        """Read what a user typed. Raises InvalidRequest for anything else.

        Pass `allow_files=False` for names that arrive over the network: they may not name files.
        """
        if _LOCAL.match(text):
            if not allow_files:
                raise _invalid(text, "files and folders are named on the command line only")
            if len(text) > MAX_PATH_LENGTH:
                raise _invalid(text, f"{len(text)} characters long, the limit is {MAX_PATH_LENGTH}")
            if not text.isprintable():
                raise _invalid(text, "it holds control characters")
            return cls("file", text)
        if len(text) > MAX_LENGTH:
            raise _invalid(text, f"{len(text)} characters long, the limit is {MAX_LENGTH}")
        return _parse_remote(text)

    def at(self, revision: str) -> "Name":
        """The same files at another revision. Raises InvalidRequest if there can be none."""
        return _with_revision(self, revision, f"{self}@{revision}")

    def __str__(self) -> str:
        folder = f"/{self.folder}" if self.folder else ""
        tag = f":{self.tag}" if self.tag else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{'hf.co/' if self.kind == 'hub' else ''}{self.model}{folder}{tag}{revision}"

    @property
    def key(self) -> str:
        """A file name for this name: readable, then a hash that tells any two names apart."""
        base = str(replace(self, folder="", revision="")).casefold()
        exact = str(replace(self, model="", tag="", kind="catalogue"))
        readable = re.sub(r"[^a-z0-9.]+", "-", str(self).casefold()).strip("-.")[:60]
        return f"{readable}.{hashlib.sha256((base + exact).encode()).hexdigest()[:16]}"


def _parse_remote(text: str) -> Name:
    host = next((h for h in _HUB_HOSTS if text.startswith(h)), "")
    rest, at, revision = text[len(host) :].partition("@")
    # The tag may stand on either side: org/repo:Q8_0@main, org/repo@main:Q8_0.
    revision, late_colon, late_tag = revision.partition(":")
    model, colon, tag = rest.partition(":")
    if colon and late_colon:
        raise _invalid(text, "it has two tags")
    tag = tag or late_tag
    if (colon or late_colon) and not tag:
        raise _invalid(text, "nothing follows the colon")
    words = model.split("/")
    if host and len(words) < 2:
        raise _invalid(text, f"{host} must be followed by org/repo")
    for word in [*words, *([tag] if tag else [])]:
        _check_word(text, word)
    if len(words) == 1:
        name = Name("catalogue", model.lower(), tag.lower())
    else:
        tag = "" if tag.lower() == "latest" else tag.upper()
        name = Name("hub", "/".join(words[:2]), tag, "/".join(words[2:]))
    return _with_revision(name, revision, text) if at else name


def _with_revision(name: Name, revision: str, text: str) -> Name:
    if name.kind != "hub":
        raise _invalid(text, "only a repository (org/repo) has revisions")
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise _invalid(text, "a revision is a branch, a tag or a commit")
    return replace(name, revision=revision)


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
