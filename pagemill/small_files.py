"""Reads the text and JSON files of a model folder, which nobody vouches for.

Owns the limits on a file's size and nesting. It must not know what any key means. Standard library
only.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pagemill.errors import BadModelFile

MAX_JSON_BYTES = 16 << 20
MAX_JSON_DEPTH = 64


def read_bytes(path: Path, limit: int) -> bytes:
    """A file of at most `limit` bytes. BadModelFile names the file."""
    shown = ascii(path.name)
    try:
        # Not blocking: a pipe under a file's name would keep us waiting for its writer.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadModelFile(f"{shown} is not a regular file")
            raw = file.read(limit + 1)
    except OSError as error:
        raise BadModelFile(f"{shown}: {error.strerror or error}") from None
    if len(raw) > limit:
        raise BadModelFile(f"{shown} is longer than {limit} bytes")
    return raw


def read_text(path: Path, limit: int) -> str:
    """The text in a UTF-8 file of at most `limit` bytes. BadModelFile names the file."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        shown = ascii(path.name)
        raise BadModelFile(f"{shown} is not UTF-8 at its byte {error.start}") from None


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> Mapping[str, Any]:
    """The JSON object in a file of at most `limit` bytes. BadModelFile names file and place.

    NaN and Infinity are taken, for the libraries that write such folders write them; whoever wants
    a finite number must look.
    """
    return parse_json(read_text(path, limit), ascii(path.name))


def parse_json(text: str, shown: str, *, unique: bool = False) -> Mapping[str, Any]:
    """The JSON object that `text` is. `shown` is where it is from, for messages; `unique` refuses
    an object that has a key twice."""
    try:
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise BadModelFile(f"{shown}: nested deeper than {MAX_JSON_DEPTH} levels") from None
    except ValueError as error:  # also numbers of too many digits
        raise BadModelFile(f"{shown} is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise BadModelFile(f"{shown} must hold a JSON object, not {type(value).__name__}")
    _check_depth(value, shown)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {ascii(key)[:80]} is there twice")
        made[key] = value
    return made


def _check_depth(value: Mapping[str, Any], shown: str) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        members = (item.values() if isinstance(item, dict) else item for item in level)
        level = [one for part in members for one in part if isinstance(one, dict | list)]
        if not level:
            return
    raise BadModelFile(f"{shown}: nested deeper than {MAX_JSON_DEPTH} levels")
