"""Reads the JSON of a model folder, which nobody vouches for.

Owns the limits on a file's size, its nesting and how many values it may make. It must not know what
any key means. Standard library only.
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


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> Mapping[str, Any]:
    """The JSON object in a file of at most `limit` bytes. BadModelFile names file and place.

    NaN and Infinity are taken, for the libraries that write such folders write them; whoever wants
    a finite number must look.
    """
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
    return parse_json(raw, shown)


def parse_json(raw: bytes, shown: str, *, unique: bool = False) -> Mapping[str, Any]:
    """The JSON object in `raw`. `shown` is where it is from, for messages; `unique` refuses an
    object that has a key twice."""
    try:
        pairs = _unique if unique else None
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs)
    except RecursionError:
        raise BadModelFile(f"{shown}: nested deeper than {MAX_JSON_DEPTH} levels") from None
    except ValueError as error:  # also bytes that are no UTF-8, and numbers of too many digits
        raise BadModelFile(f"{shown} is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise BadModelFile(f"{shown} must hold a JSON object, not {type(value).__name__}")
    _check_depth(value, shown)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {ascii(twice)[:80]} is there twice")
    return made


def _check_depth(value: Mapping[str, Any], shown: str) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        members = (item.values() if isinstance(item, dict) else item for item in level)
        level = [one for part in members for one in part if isinstance(one, dict | list)]
        if not level:
            return
    raise BadModelFile(f"{shown}: nested deeper than {MAX_JSON_DEPTH} levels")
