"""A strict reader of safetensors files that nobody vouches for.

Owns the container: the header and read-only views of tensor bytes. It must not know what a tensor
is for. Every length, offset and product is compared as a Python int, which cannot wrap, before
numpy or mmap see it. Format: https://github.com/huggingface/safetensors
"""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import BadModelFile
from pagemill.small_files import parse_json
from pagemill.weights.cursor import show
from pagemill.weights.mapped import map_whole, open_regular, read_start

_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000  # the format's own limit
# Marks that make values: they bound what parsing can take. A tensor has about ten.
_MARKS = (b",", b"[", b"{")
_MOST_MARKS = 1 << 21
_MOST_TENSORS = 1 << 17
_MOST_DIMS = 8
_MOST_ELEMENTS = (1 << 63) - 1
_FIELDS = frozenset({"dtype", "shape", "data_offsets"})
_DTYPE_BITS = MappingProxyType(
    {
        **dict.fromkeys(("F4",), 4),
        **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
        **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
        **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
        **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
        **dict.fromkeys(("U32", "I32", "F32"), 32),
        **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    }
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file, checked: its bytes lie inside it and are as many as its elements."""

    name: str
    dtype: str  # "BF16"
    shape: tuple[int, ...]
    offset: int  # from the start of the file
    nbytes: int


class SafetensorsFile:
    """An open file. `data` gives views of the mapped file; no tensor is copied."""

    def __init__(self, mapping: mmap.mmap, tensors: Mapping[str, StoredTensor]) -> None:
        self._mapping = mapping
        self.tensors = tensors

    @classmethod
    def open(cls, path: Path) -> "SafetensorsFile":
        """Read and check the header. BadModelFile says what is wrong and where.

        Links are followed; what they lead to must be a regular file.
        """
        name = show(path.name)
        with open_regular(path, name) as file:
            start = read_start(file, _LENGTH_BYTES, name)
            if len(start) < _LENGTH_BYTES:
                raise BadModelFile(f"{name}: header: the file has {len(start)} bytes, not even 8")
            header_len = int.from_bytes(start, "little")
            if not 2 <= header_len <= _MOST_HEADER_BYTES:
                raise BadModelFile(
                    f"{name}: header: its length is {header_len} bytes, "
                    f"not in 2 to {_MOST_HEADER_BYTES}"
                )
            mapping = map_whole(file, name)
        data_start = _LENGTH_BYTES + header_len
        if data_start > len(mapping):
            raise BadModelFile(
                f"{name}: header: ends at byte {data_start} of a file of {len(mapping)} bytes"
            )
        tensors = _Header(name, mapping[_LENGTH_BYTES:data_start]).tensors(
            data_start, len(mapping) - data_start
        )
        return cls(mapping, MappingProxyType(tensors))

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor as a read-only view of the file. KeyError when there is none."""
        info = self.tensors[name]
        return np.frombuffer(self._mapping, np.uint8, info.nbytes, info.offset)


class _Header:
    """A header's JSON on its way to a table of tensors; `place` says in errors what is read."""

    def __init__(self, name: str, raw: bytes) -> None:
        self._name, self.place = name, "header"
        if not raw.startswith(b"{"):
            self.fail(f"begins with {raw[:1]!r} instead of b'{{'")
        marks = sum(raw.count(mark) for mark in _MARKS)
        if marks > _MOST_MARKS:
            self.fail(f"has {marks} commas and brackets, the limit is {_MOST_MARKS}")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"is not UTF-8 at its byte {error.start}")
        self._entries = dict(parse_json(text, f"{name}: header", unique=True))

    def fail(self, what: str) -> NoReturn:
        raise BadModelFile(f"{self._name}: {self.place}: {what}")

    def tensors(self, data_start: int, data_bytes: int) -> dict[str, StoredTensor]:
        """The table; the tensors, one after another, must be all of the data."""
        self._check_metadata(self._entries.pop("__metadata__", {}))
        if len(self._entries) > _MOST_TENSORS:
            self.fail(f"has {len(self._entries)} tensors, the limit is {_MOST_TENSORS}")
        table = [self._tensor(*entry) for entry in self._entries.items()]
        end, before = 0, "the header"
        for info in sorted(table, key=lambda info: (info.offset, info.nbytes)):
            if info.offset != end:
                self.place = f"tensor {show(info.name)}"
                what = "overlaps" if info.offset < end else "leaves a hole after"
                self.fail(f"begins at byte {info.offset} of the data and {what} {before}")
            end, before = info.offset + info.nbytes, show(info.name)
        self.place = "header"
        if end != data_bytes:
            self.fail(f"its tensors end at byte {end} of {data_bytes} bytes of data")
        return {
            info.name: StoredTensor(
                info.name, info.dtype, info.shape, data_start + info.offset, info.nbytes
            )
            for info in table
        }

    def _check_metadata(self, metadata: Any) -> None:
        strings = isinstance(metadata, dict) and all(
            isinstance(value, str) for value in metadata.values()
        )
        if not strings:
            self.fail("'__metadata__' does not map strings to strings")

    def _tensor(self, name: str, entry: Any) -> StoredTensor:
        """One entry; its offset is still relative to the data."""
        self.place = f"tensor {show(name)}"
        if not isinstance(entry, dict) or entry.keys() != _FIELDS:
            self.fail(f"must have {', '.join(sorted(_FIELDS))} and nothing else")
        dtype = entry["dtype"]
        if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
            self.fail(f"dtype {show(str(dtype))} is unknown; there are {', '.join(_DTYPE_BITS)}")
        shape = self._wholes(entry["shape"], "shape")
        if len(shape) > _MOST_DIMS:
            self.fail(f"has {len(shape)} dimensions, the limit is {_MOST_DIMS}")
        elements = 1
        for size in shape:
            elements *= size
        if elements > _MOST_ELEMENTS:
            self.fail(f"shape {shape} makes {elements} elements, there can be 2^63 - 1")
        offsets = self._wholes(entry["data_offsets"], "data_offsets")
        if len(offsets) != 2 or offsets[0] > offsets[1]:
            self.fail(f"data_offsets {str(offsets)[:80]} are no begin and end")
        begin, end = offsets
        bits = elements * _DTYPE_BITS[dtype]
        if bits != (end - begin) * 8:
            self.fail(f"{dtype} of shape {shape} takes {bits / 8:g} bytes, it has {end - begin}")
        return StoredTensor(name, dtype, shape, begin, end - begin)

    def _wholes(self, value: Any, field: str) -> tuple[int, ...]:
        good = isinstance(value, list) and all(
            type(item) is int and 0 <= item <= _MOST_ELEMENTS for item in value
        )
        if not good:
            self.fail(f"{field} must be a list of whole numbers from 0 to 2^63 - 1")
        return tuple(value)
