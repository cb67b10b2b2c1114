"""A cursor over untrusted bytes: every length is compared with what is left before it is used.

It knows the encodings of GGUF (numbers, strings, arrays) and none of its keys.
"""

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NoReturn, overload

from pagemill.errors import BadModelFile


@dataclass(frozen=True, slots=True)
class Limits:
    """What a header may ask for, whatever its file's size. The largest known models need a fifth.

    Together they bound the work on any file: one pass over at most `header_bytes`.
    """

    header_bytes: int = 64 << 20
    keys: int = 1 << 14
    tensors: int = 1 << 15
    parts: int = 1 << 10
    key_bytes: int = (1 << 16) - 1
    tensor_name_bytes: int = 64
    string_bytes: int = 16 << 20
    array_items: int = 1 << 26
    array_strings: int = 1 << 22
    dims: int = 4
    alignment: int = 1 << 16


LIMITS = Limits()

BOOL, STRING, ARRAY = 7, 8, 9
_SHOWN = 64  # characters of a name in a message
_LENGTH_BYTES = 8  # before each string
# Value type: (format of struct and memoryview, bytes).
_NUMBERS = MappingProxyType(
    {
        0: ("B", 1),
        1: ("b", 1),
        2: ("H", 2),
        3: ("h", 2),
        4: ("I", 4),
        5: ("i", 4),
        6: ("f", 4),
        BOOL: ("?", 1),
        10: ("Q", 8),
        11: ("q", 8),
        12: ("d", 8),
    }
)
_TYPE_NAMES = "uint8 int8 uint16 int16 uint32 int32 float32 bool string array uint64 int64 float64"


def type_name(code: int) -> str:
    """The format's own word for a value type; its number when there is none."""
    words = _TYPE_NAMES.split()
    return words[code] if code < len(words) else f"type {code}"


def type_code(word: str) -> int:
    """What `type_name` undoes; ValueError for a word that names no type."""
    return _TYPE_NAMES.split().index(word)


def number_layout(code: int) -> str:
    """A number type's format for struct; KeyError when `code` is none."""
    return _NUMBERS[code][0]


def show(text: str) -> str:
    """A name from the file, short and without raw control characters, fit for a message."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


class StringArray(Sequence[str]):
    """An array of strings, decoded when read: an engine never looks at the 98,000 of a tokenizer.

    Keeps a copy of its bytes, so it outlives the file. Reading an item that is not UTF-8 raises
    BadModelFile.
    """

    __slots__ = ("_place", "_raw", "_starts")

    def __init__(self, raw: bytes, starts: "array[int]", place: str) -> None:
        self._raw = raw  # lengths (8 bytes) and strings in turn, as in the file
        self._starts = starts  # of each string in _raw, and of one more after the last
        self._place = place

    def __len__(self) -> int:
        return len(self._starts) - 1

    def raw(self, index: int) -> bytes:
        """The bytes of one item, 0 <= index < len."""
        return self._raw[self._starts[index] : self._starts[index + 1] - _LENGTH_BYTES]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        positions = range(len(self))[index]
        if isinstance(positions, range):
            return [self._decode(position) for position in positions]
        return self._decode(positions)

    def __iter__(self) -> Iterator[str]:
        raw, starts, tail = self._raw, self._starts, _LENGTH_BYTES
        try:  # all at once: one by one they would be a third of a tokenizer's start
            return iter([raw[a : b - tail].decode() for a, b in pairwise(starts)])
        except UnicodeDecodeError:
            return map(self._decode, range(len(self)))

    def _decode(self, index: int) -> str:
        try:
            return self.raw(index).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadModelFile(
                f"{self._place}: item {index} is not UTF-8 at its byte {error.start}"
            ) from None


class Cursor:
    """Reads little-endian values one after another; `place` says in errors what is being read."""

    def __init__(self, buffer: memoryview, file_name: str, position: int = 0) -> None:
        self._buffer = buffer
        self._file_name = file_name
        self._end = min(len(buffer), LIMITS.header_bytes)
        self.position = position
        self.place = "header"

    def fail(self, what: str) -> NoReturn:
        """Raise BadModelFile with the file, the place and the byte."""
        raise BadModelFile(f"{self._file_name}: {self.place}: {what}, at byte {self.position}")

    def left(self) -> int:
        return self._end - self.position

    def need(self, size: int, what: str) -> None:
        """Refuse `size` bytes that are not there. `size` is a Python int and cannot wrap."""
        if size <= self.left():
            return
        if self.position + size > len(self._buffer):
            rest = len(self._buffer) - self.position
            self.fail(f"{what} needs {size} bytes but {rest} are left in the file")
        self.fail(f"{what} of {size} bytes passes the header limit of {LIMITS.header_bytes} bytes")

    def u32(self, what: str) -> int:
        return self._unsigned("<I", 4, what)

    def u64(self, what: str) -> int:
        return self._unsigned("<Q", 8, what)

    def string(self, what: str, limit: int) -> str:
        """A length of 8 bytes and as much UTF-8."""
        size = self.u64(f"the length of {what}")
        if size > limit:
            self.fail(f"{what} is {size} bytes long, the limit is {limit}")
        self.need(size, what)
        start = self.position
        try:
            text = str(self._buffer[start : start + size], "utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8 at its byte {error.start}")
        self.position += size
        return text

    def value(self, code: int) -> Any:
        """An int, float, bool, str, StringArray or read-only memoryview of numbers."""
        if code == STRING:
            return self.string("the value", LIMITS.string_bytes)
        if code == ARRAY:
            return self._array()
        if code not in _NUMBERS:
            self.fail(f"value type {code} is unknown, the highest is {max(_NUMBERS)}")
        layout, size = _NUMBERS[code]
        self.need(size, "the value")
        start = self.position
        if code == BOOL and self._buffer[start] > 1:
            self.fail(f"a bool is 0 or 1, not {self._buffer[start]}")
        number = struct.unpack_from("<" + layout, self._buffer, start)[0]
        self.position += size
        return number

    def _unsigned(self, layout: str, size: int, what: str) -> int:
        self.need(size, what)
        number: int = struct.unpack_from(layout, self._buffer, self.position)[0]
        self.position += size
        return number

    def _array(self) -> "StringArray | memoryview":
        code = self.u32("the array's item type")
        count = self.u64("the array's length")
        if code == STRING:
            return self._strings(count)
        if code not in _NUMBERS:
            known = "arrays hold numbers, bools or strings"
            self.fail(f"array item type {type_name(code)} is not supported, {known}")
        if count > LIMITS.array_items:
            self.fail(f"the array has {count} items, the limit is {LIMITS.array_items}")
        layout, size = _NUMBERS[code]
        self.need(count * size, f"an array of {count} {type_name(code)}")
        raw = bytes(self._buffer[self.position : self.position + count * size])
        if code == BOOL and raw.translate(None, b"\x00\x01"):
            self.fail("an array of bools holds a byte other than 0 and 1")
        self.position += count * size
        numbers: memoryview = memoryview(raw).cast(layout)  # type: ignore[call-overload]
        return numbers

    def _strings(self, count: int) -> StringArray:
        if count > LIMITS.array_strings:
            self.fail(f"the array has {count} strings, the limit is {LIMITS.array_strings}")
        self.need(count * _LENGTH_BYTES, f"an array of {count} strings")
        first = position = self.position
        buffer, end, limit = self._buffer, self._end, LIMITS.string_bytes
        read_length = struct.Struct("<Q").unpack_from
        starts = array("q")
        note = starts.append
        # The one hot loop of opening a model: 15 ms for a vocabulary of 49,152 and its merges.
        for index in range(count):
            if end - position < _LENGTH_BYTES:
                self.position = position
                self.need(_LENGTH_BYTES, f"the length of item {index}")
            size = read_length(buffer, position)[0]
            position += _LENGTH_BYTES
            if size > limit or size > end - position:
                self.position = position
                if size > limit:
                    self.fail(f"item {index} is {size} bytes long, the limit is {limit}")
                self.need(size, f"item {index}")
            note(position - first)
            position += size
        note(position - first + _LENGTH_BYTES)
        self.position = position
        raw = bytes(buffer[first:position])
        return StringArray(raw, starts, f"{self._file_name}: {self.place}")
