"""Quantities as people write them. Standard library only.

Each function takes what was written and raises ValueError, whose text completes "it must be".
"""

import re
from collections.abc import Mapping
from typing import Any

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_GIB = re.compile(r"\d{1,6}(\.\d{1,9})?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")
_SECONDS: Mapping[str, float] = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}
_SHARE = re.compile(r"0?\.\d{1,6}|1(\.0{1,6})?")
_LAYERS = re.compile(r"\d{1,6}")


def size(value: Any) -> int:
    """Bytes: 512M, 2G."""
    match = _match(_SIZE, value)
    if match is None:
        raise ValueError("a number of bytes, such as 512M or 2G")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


def gib(value: Any) -> int:
    """Bytes, from a number of GiB."""
    match = _match(_GIB, value)
    if match is None:
        raise ValueError("a number of GiB, such as 8 or 0.5")
    return int(float(match[0]) * (1 << 30))


def duration(value: Any) -> float:
    """Seconds: 500ms, 30s, 2m."""
    match = _match(_DURATION, value)
    if match is None:
        raise ValueError("a duration, such as 500ms, 30s or 2m")
    return float(match[1]) * _SECONDS[match[2]]


def share(value: Any) -> float:
    """Above 0 and up to 1."""
    match = _match(_SHARE, value)
    if match is None or not float(match[0]):
        raise ValueError("a share above 0 and up to 1, such as 0.9")
    return float(match[0])


def layers(value: Any) -> int:
    """A number of layers; -1 is "auto"."""
    if str(value).strip().lower() in ("auto", "-1"):
        return -1
    match = _match(_LAYERS, value)
    if match is None:
        raise ValueError("auto or a number of layers")
    return int(match[0])


def _match(pattern: "re.Pattern[str]", value: Any) -> "re.Match[str] | None":
    return pattern.fullmatch(str(value).strip()) if type(value) in (int, float, str) else None
