"""What bytes a token of a vocabulary stands for. Owns the ways in which vocabularies write text.

Each way is a function from a token's text to bytes. None looks at a neighbour: so answers can be
sent token by token.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache

Spelling = Callable[[str], bytes]

BLANK = "▁"  # how SentencePiece writes a blank
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


@cache
def byte_alphabet() -> Mapping[str, int]:
    """The byte that each character of a byte-level vocabulary stands for, as GPT-2 set it down:
    printable Latin-1 characters are themselves, the other 68 bytes follow from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + number): byte for number, byte in enumerate(others)}


@cache
def _byte_chars() -> Mapping[int, str]:
    return {ord(char): chr(byte) for char, byte in byte_alphabet().items()}


@cache
def _alphabet_chars() -> Mapping[int, str]:
    return {byte: char for char, byte in byte_alphabet().items()}


def to_byte_alphabet(data: bytes) -> str:
    """Bytes as a byte-level vocabulary writes them."""
    return data.decode("latin-1").translate(_alphabet_chars())


def byte_level(token: str) -> bytes:
    """Each character is a byte; a token with another character in it is plain text."""
    if byte_alphabet().keys() >= set(token):
        return token.translate(_byte_chars()).encode("latin-1")
    return plain(token)


def is_byte(token: str) -> bool:
    """Whether a token is a byte in SentencePiece's spelling."""
    return token.startswith("<0x") and _BYTE.fullmatch(token) is not None


def blanks_marked(token: str) -> bytes:
    """SentencePiece's way: `▁` is a blank, `<0x0A>` the byte 10."""
    match = _BYTE.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else plain(token.replace(BLANK, " "))


def word_starts_marked(token: str) -> bytes:
    """A word's first token begins with `▁`, the others are its rest."""
    return plain(token.replace(BLANK, " ", 1) if token.startswith(BLANK) else token)


def word_rests_marked(token: str, prefix: str | None) -> bytes:
    """A word's first token is written as it is, the others after `prefix`."""
    if prefix and token.startswith(prefix):
        return plain(token[len(prefix) :])
    return plain(f" {token}")


def plain(token: str) -> bytes:
    """The token is its text."""
    return token.encode("utf-8", "replace")
