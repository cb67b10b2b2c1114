"""What the readers of vocabulary files share: sizes, JSON as known types, how errors are told."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pagemill.errors import BadModelFile, Unsupported

MAX_BYTES = 64 << 20  # twice the largest that is known

T = TypeVar("T")


class Added(msgspec.Struct, frozen=True):
    """A token that is found in texts before the rest of them is encoded."""

    content: str
    id: int = -1
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


def parse(data: bytes | msgspec.Raw, kind: type[T], path: Path, part: str = "") -> T:
    """JSON as a value of that type. `part` names the place in the file."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad(path, part, str(error)) from None
    except RecursionError:
        raise bad(path, part, "is nested too deep") from None


def convert(value: Any, kind: type[T], path: Path, part: str = "") -> T:
    """A JSON value as one of that type."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise bad(path, part, str(error)) from None


def bad(path: Path, part: str, why: str) -> BadModelFile:
    """The error for a place in a file."""
    return BadModelFile(": ".join(filter(None, (ascii(path.name), part, why))))


def unsupported(path: Path, part: str, why: str) -> Unsupported:
    """The error for something that is well-formed and not understood."""
    return Unsupported(": ".join(filter(None, (ascii(path.name), part, why))))


def shown(value: Any) -> str:
    """A value from a file, short and in plain characters."""
    return ascii(value)[:64]
