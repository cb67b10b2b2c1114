"""Typed reads of a model file's settings. What is not as expected is one error that names the key.

Implements `checkpoint.Keys` for metadata in GGUF's layout: architecture settings stand under
"<architecture>.<key>". Must not know: which keys there are.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pagemill.errors import BadModelFile, Unsupported
from pagemill.weights.cursor import StringArray, show

_Value = TypeVar("_Value")


class MetadataKeys:
    """Reads of `metadata`. `name` is the file's, for messages; `prefix` stands before every key."""

    def __init__(self, metadata: Mapping[str, Any], name: str, prefix: str = "") -> None:
        self._metadata, self._name, self._prefix = metadata, name, prefix

    def of(self, architecture: str) -> "MetadataKeys":
        """The same file's settings of an architecture."""
        return MetadataKeys(self._metadata, self._name, f"{architecture}.")

    def has(self, key: str) -> bool:
        return self._full(key) in self._metadata

    def text(self, key: str, default: str | None = None) -> str:
        """A string. Without `default` the key must be there."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.bad(key, f"is {_kind(value)}, not a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.bad(key, f"is {_kind(value)}, not true or false")
        return value

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """An integer of any width in least .. most."""
        return self._whole(key, self._get(key, default), least, most)

    def wholes(
        self, key: str, count: int, least: int, most: int, default: int | None = None
    ) -> tuple[int, ...]:
        """`count` integers, each in least .. most; one stands for all."""
        values = self._items(key, self._get(key, default), count)
        return tuple(self._whole(key, value, least, most) for value in values)

    def real(self, key: str, most: float, default: float | None = None) -> float:
        """A finite number above 0 and at most `most`."""
        return self._real(key, self._get(key, default), most)

    def reals(self, key: str, count: int, most: float) -> tuple[float, ...]:
        values = self._items(key, self._get(key, None), count)
        return tuple(self._real(key, value, most) for value in values)

    def flags(self, key: str, count: int, default: bool) -> tuple[bool, ...]:
        values = self._items(key, self._get(key, default), count)
        for value in values:
            if not isinstance(value, bool):
                raise self.bad(key, f"holds {_kind(value)}, not true or false")
        return tuple(values)

    def strings(self, key: str) -> Sequence[str]:
        value = self._get(key, None)
        if isinstance(value, StringArray):
            return value
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.bad(key, f"is {_kind(value)}, not an array of strings")
        return value

    def bad(self, key: str, what: str) -> BadModelFile:
        return BadModelFile(f"{self._name}: key {self._shown(key)}: {what}")

    def unsupported(self, key: str, what: str) -> Unsupported:
        return Unsupported(f"{self._name}: key {self._shown(key)}: {what}")

    def _shown(self, key: str) -> str:
        """A key as the file calls it."""
        return show(self._full(key))

    def _full(self, key: str) -> str:
        """Settings of the tokenizer stand under no architecture."""
        return key if key.startswith("tokenizer.") else self._prefix + key

    def _get(self, key: str, default: _Value | None) -> Any:
        value = self._metadata.get(self._full(key), default)
        if value is None:
            raise self.bad(key, "is missing")
        return value

    def _items(self, key: str, value: Any, count: int) -> list[Any]:
        if isinstance(value, memoryview):
            value = value.tolist()
        if not isinstance(value, list | tuple):
            return [value] * count
        if len(value) != count:
            raise self.bad(key, f"has {len(value)} items, not {count}")
        return list(value)

    def _whole(self, key: str, value: Any, least: int, most: int) -> int:
        if type(value) is not int:  # bool is a kind of int for isinstance
            raise self.bad(key, f"is {_kind(value)}, not a whole number")
        if not least <= value <= most:
            raise self.bad(key, f"is {value}, not in {least} to {most}")
        return value

    def _real(self, key: str, value: Any, most: float) -> float:
        if not isinstance(value, float):
            raise self.bad(key, f"is {_kind(value)}, not a floating-point number")
        if not (math.isfinite(value) and 0 < value <= most):
            raise self.bad(key, f"is {value}, not above 0 and at most {most}")
        return value


class ConfigKeys(MetadataKeys):
    """The same for settings that were translated from config.json, where a whole number is a real
    one too. `labels` say what keys are called there."""

    def __init__(
        self, metadata: Mapping[str, Any], name: str, labels: Mapping[str, str], prefix: str = ""
    ) -> None:
        there = {key: value for key, value in metadata.items() if value is not None}
        super().__init__(there, name, prefix)
        self._labels = labels

    def of(self, architecture: str) -> "ConfigKeys":
        return ConfigKeys(self._metadata, self._name, self._labels, f"{architecture}.")

    def part(self, key: str) -> "ConfigKeys":
        """The settings of an object within the file."""
        value = self._get(key, None)
        if not isinstance(value, dict):
            raise self.bad(key, f"is {_kind(value)}, not an object")
        return ConfigKeys(value, f"{self._name}: {show(key)}", {})

    def names(self) -> Sequence[str]:
        """All keys."""
        return list(self._metadata)

    def signed(self, key: str, most: float) -> float:
        """A number from -most to most."""
        value = self._get(key, None)
        if not isinstance(value, int | float) or not -most <= value <= most:
            raise self.bad(key, f"is {_kind(value)}, not a number from {-most} to {most}")
        return float(value)

    def strings(self, key: str) -> Sequence[str]:
        value = self._get(key, None)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.bad(key, f"is {_kind(value)}, not an array of strings")
        return value

    def _shown(self, key: str) -> str:
        return show(self._labels.get(self._full(key), key))

    def _real(self, key: str, value: Any, most: float) -> float:
        if type(value) is int and 0 < value <= most:  # also keeps what no float can be apart
            value = float(value)
        return super()._real(key, value, most)


def _kind(value: object) -> str:
    """What the file has in place of what was expected, in a reader's words."""
    if isinstance(value, str):
        return "a string"
    if isinstance(value, StringArray | memoryview | list | tuple):
        return "an array"
    if isinstance(value, dict):
        return "an object"
    return f"{value} ({type(value).__name__})"
