"""Readers of untrusted JSON bodies, shared by all dialects.

A reader returns a value that is right, or raises `InvalidRequest` that names the field, the value
and the limit. Booleans are no numbers, NaN and infinities are refused, null means "not given".
Knows JSON only: no model, no endpoint.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from pagemill.errors import InvalidRequest

Default = TypeVar("Default")

_SHOWN = 40  # characters of a wrong value that an error repeats


def parse_object(raw: bytes) -> "Fields":
    """The JSON object in a request body."""
    try:
        value = msgspec.json.decode(raw)
    except RecursionError:
        raise InvalidRequest("The body nests too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _blame_a_field(raw)
        where = str(error).split(" - at ")[0]
        raise InvalidRequest(f"The body is not valid JSON: {where}.") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {show(value)}.")
    return Fields(value)


def _blame_a_field(raw: bytes) -> None:
    """Raise an error that names the field when all that is wrong is NaN, Infinity or 1e999."""
    try:
        value = json.loads(raw)  # more lenient: takes the three
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict):
        for name, item in value.items():
            numbers = item.values() if isinstance(item, dict) else [item]
            for number in numbers:
                if isinstance(number, float) and not math.isfinite(number):
                    raise InvalidRequest(
                        f"{name} must be a finite number, not {number}.", param=name
                    )


def show(value: object) -> str:
    """A wrong value as an error repeats it: short, ASCII, no control characters."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        cut = value[:_SHOWN]
        return json.dumps(cut) + ("..." if len(value) > _SHOWN else "")
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return "an integer of more than 128 bits"
    return json.dumps(value)


class Fields:
    """A JSON object and its path (`messages[0].`), read field by field."""

    __slots__ = ("_path", "_values")

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self._values = values
        self._path = path

    @property
    def raw(self) -> Mapping[str, Any]:
        """The object as it came, for values that are handed on unread."""
        return self._values

    def path(self, name: str) -> str:
        """The field's name as an error says it."""
        return self._path + name

    def get(self, name: str) -> Any:
        """The raw value; None when absent or null."""
        return self._values.get(name)

    def wrong(self, name: str, rule: str) -> InvalidRequest:
        """The error for a field that breaks `rule` ("must be ...")."""
        path = self.path(name)
        return InvalidRequest(f"{path} {rule}, not {show(self._values.get(name))}.", param=path)

    def integer(self, name: str, default: Default, low: int, high: int) -> int | Default:
        """An integer from `low` to `high`, both included. 5.0 counts as 5."""
        value = self._values.get(name)
        if value is None:
            return default
        number = as_integer(value)
        if number is None or not low <= number <= high:
            raise self.wrong(name, f"must be an integer from {low} to {high}")
        return number

    def number(self, name: str, default: Default, low: float, high: float) -> float | Default:
        """A finite number from `low` to `high`, both included."""
        value = self._values.get(name)
        if value is None:
            return default
        number = as_number(value)
        if number is None or not low <= number <= high:
            raise self.wrong(name, f"must be a number from {low:g} to {high:g}")
        return number

    def boolean(self, name: str, default: bool) -> bool:
        """true or false, never 0, 1 or "true"."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return value

    def string(self, name: str, default: Default, max_len: int) -> str | Default:
        """A string of at most `max_len` characters."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.wrong(name, "must be a string")
        if len(value) > max_len:
            path = self.path(name)
            raise InvalidRequest(
                f"{path} has {len(value)} characters; at most {max_len} are allowed.", param=path
            )
        return value

    def object(self, name: str) -> "Fields | None":
        """A nested object."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "must be an object")
        return Fields(value, f"{self._path}{name}.")

    def items(self, name: str, max_len: int) -> Sequence[Any] | None:
        """A list of at most `max_len` entries, entries unchecked."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.wrong(name, "must be a list")
        self.check_count(name, len(value), max_len)
        return value

    def check_count(self, name: str, count: int, max_len: int) -> None:
        """Refuse more than `max_len` entries."""
        if count > max_len:
            path = self.path(name)
            raise InvalidRequest(
                f"{path} has {count} entries; at most {max_len} are allowed.", param=path
            )

    def strings(self, name: str, max_items: int, max_len: int) -> tuple[str, ...]:
        """A non-empty string, or a list of them."""
        value = self._values.get(name)
        if value is None:
            return ()
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list):
            raise self.wrong(name, "must be a string or a list of strings")
        self.check_count(name, len(texts), max_items)
        for text in texts:
            if not isinstance(text, str) or not 1 <= len(text) <= max_len:
                path = self.path(name)
                raise InvalidRequest(
                    f"{path} must hold strings of 1 to {max_len} characters, not {show(text)}.",
                    param=path,
                )
        return tuple(texts)

    def token_ids(self, name: str, max_items: int) -> tuple[int, ...] | None:
        """A list of integers >= 0; the model's vocabulary is checked later."""
        values = self.items(name, max_items)
        return None if values is None else read_token_ids(values, self.path(name))


def read_token_ids(values: Sequence[Any], path: str) -> tuple[int, ...]:
    """Token ids from a JSON list: integers from 0 to 2**31 - 1 and nothing that looks like one."""
    for value in values:
        if type(value) is not int or not 0 <= value < 2**31:
            raise InvalidRequest(f"{path} must hold token ids, not {show(value)}.", param=path)
    return tuple(values)


def as_integer(value: object) -> int | None:
    """The integer that a JSON number is, else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return None


def as_number(value: object) -> float | None:
    """The finite float that a JSON number is, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int) and value.bit_length() > 1000:  # float() would raise
        return None
    number = float(value)
    return number if math.isfinite(number) else None
