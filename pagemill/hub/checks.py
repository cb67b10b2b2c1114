"""What may name bytes and places, checked once: digests, and paths below a folder.

For text that a catalogue, a hub or a manifest holds. Knows no store and no hub.
"""

import hashlib
import re
from pathlib import Path

from pagemill.errors import InvalidRequest

HASH_CHUNK = 1 << 20
MAX_PATH_LENGTH = 512

_HEX = re.compile(r"[0-9a-f]{64}")
# Separators of other systems, and what some file systems refuse or read as something else.
_FORBIDDEN = frozenset('\\:*?"<>|')


def checked_hex(digest: str) -> str:
    """The 64 lower-case hex digits of "<hex>" or "sha256:<hex>"; InvalidRequest for all else."""
    digits = digest.removeprefix("sha256:")
    if not _HEX.fullmatch(digits):
        shown = ascii(digest[:80])
        raise InvalidRequest(f"digest {shown} is not sha256: and 64 lower-case hex digits")
    return digits


def checked_path(text: str) -> str:
    """`text` if it is a path below a folder, in plain words; ValueError says what is wrong."""
    shown = ascii(text[:80])
    if not text or len(text) > MAX_PATH_LENGTH:
        raise ValueError(f"path {shown} must have 1 to {MAX_PATH_LENGTH} characters")
    if leaves(text):
        raise ValueError(f"path {shown} leads out of its folder")
    if not text.isprintable() or _FORBIDDEN & set(text):
        raise ValueError(f"path {shown} holds characters that a file name may not have")
    for part in text.split("/"):
        if not part or part.startswith(".") or part.endswith((".", " ")):
            raise ValueError(f"a part of path {shown} is empty, hidden or ends with a dot or space")
    return text


def leaves(text: str) -> bool:
    """Whether a path is absolute or climbs, as any system may read it, or holds a NUL."""
    parts = text.replace("\\", "/").split("/")
    return text.startswith(("/", "\\")) or ".." in parts or "\0" in text


def file_sha256(path: Path) -> str:
    """The SHA-256 of a whole file, as hex digits."""
    return _hash(path, hashlib.sha256())


def file_git_id(path: Path) -> str:
    """The name that git gives to a whole file."""
    return _hash(path, _git_hash(path.stat().st_size))


def git_id(body: bytes) -> str:
    """The name that git gives to bytes."""
    digest = _git_hash(len(body))
    digest.update(body)
    return digest.hexdigest()


def _hash(path: Path, digest: "hashlib._Hash") -> str:
    with open(path, "rb") as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _git_hash(size: int) -> "hashlib._Hash":
    # Git's own name for bytes, no protection of ours: all that a hub tells of its small files.
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(b"blob %d\0" % size)
    return digest
