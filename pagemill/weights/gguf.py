"""A strict reader of GGUF files, versions 2 and 3, little-endian, that nobody vouches for.

Owns the container: header, metadata, tensor table, and read-only views of tensor bytes. It must
not know what a key means, nor what the bytes of a tensor mean. Every count, length, offset and
product is compared as a Python int, which cannot wrap, before numpy, struct or mmap see it.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import BadModelFile
from pagemill.weights.cursor import LIMITS, Cursor, show
from pagemill.weights.ggml import TYPES
from pagemill.weights.mapped import map_whole, open_regular, read_start

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_PREFIX_BYTES = 24  # magic, version, number of tensors, number of keys
_LEAST_KEY_BYTES = 8 + 1 + 4 + 1  # key length, key, type, the smallest value
_LEAST_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # name length, name, dims, one dim, type, offset
_DEFAULT_ALIGNMENT = 32
_LEAST_ALIGNMENT = 8
_MOST_ELEMENTS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of the tensor table, checked: its bytes lie inside the file."""

    name: str
    format: str  # "Q4_1"; may be one that nothing here can unpack
    shape: tuple[int, ...]  # (rows, K), the order of numpy; the file has it the other way round
    offset: int  # from the start of the file
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Header:
    metadata: dict[str, Any]
    places: dict[str, slice]  # where in the file each key's type and value stand
    tensors: dict[str, TensorInfo]


class GGUFFile:
    """An open GGUF file. `data` gives views of the mapped file; no tensor is copied."""

    def __init__(self, mapping: mmap.mmap, header: "_Header") -> None:
        self._mapping: mmap.mmap | None = mapping
        self._places = header.places
        self.metadata: Mapping[str, Any] = MappingProxyType(header.metadata)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(header.tensors)

    @classmethod
    def open(cls, path: str | Path) -> "GGUFFile":
        """Read header, metadata and tensor table. BadModelFile says what is wrong and where.

        Links are followed; what they lead to must be a regular file.
        """
        path = Path(path)
        name = show(path.name)
        mapping = _map(path, name)
        try:
            with memoryview(mapping) as buffer:
                header = _parse(Cursor(buffer, name, len(_MAGIC)), len(buffer))
        except BaseException:
            mapping.close()
            raise
        return cls(mapping, header)

    def data(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor as a read-only view of the file. KeyError when there is none."""
        info = self.tensors[name]
        return np.frombuffer(self._open_mapping(), np.uint8, info.nbytes, info.offset)

    def encoded(self, key: str) -> bytes:
        """A value of the metadata as it stands in the file: its type, then its content. KeyError
        when there is none."""
        place = self._places[key]
        return self._open_mapping()[place]

    def _open_mapping(self) -> mmap.mmap:
        if self._mapping is None:
            raise ValueError("the file is closed")
        return self._mapping

    def close(self) -> None:
        """Let go of the file. Views handed out stay valid: the last of them unmaps it."""
        self._mapping = None

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _map(path: Path, name: str) -> mmap.mmap:
    """Map a regular file that starts like a GGUF file."""
    with open_regular(path, name) as file:
        start = read_start(file, len(_MAGIC), name)
        if start != _MAGIC:
            raise BadModelFile(f"{name}: header: begins with {start!r} instead of {_MAGIC!r}")
        mapping = map_whole(file, name)
    if len(mapping) < _PREFIX_BYTES:
        raise BadModelFile(
            f"{name}: header: the file has {len(mapping)} bytes, "
            f"the shortest header {_PREFIX_BYTES}"
        )
    return mapping


def _parse(cursor: Cursor, file_bytes: int) -> _Header:
    version = cursor.u32("the version")
    if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
        cursor.fail("a big-endian file, only little-endian ones can be read")
    if version not in _VERSIONS:
        cursor.fail(f"version {version} cannot be read, only {_VERSIONS}")
    num_tensors = cursor.u64("the number of tensors")
    num_keys = cursor.u64("the number of keys")
    if num_tensors > LIMITS.tensors:
        cursor.fail(f"{num_tensors} tensors, the limit is {LIMITS.tensors}")
    if num_keys > LIMITS.keys:
        cursor.fail(f"{num_keys} keys, the limit is {LIMITS.keys}")
    least = num_keys * _LEAST_KEY_BYTES + num_tensors * _LEAST_TENSOR_BYTES
    cursor.need(least, f"a header of {num_keys} keys and {num_tensors} tensors")
    metadata, places = _metadata(cursor, num_keys)
    alignment = _alignment(cursor, metadata)
    table = [_tensor(cursor, number, alignment) for number in range(num_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
    return _Header(metadata, places, _place(cursor, table, data_start, file_bytes))


def _metadata(cursor: Cursor, num_keys: int) -> tuple[dict[str, Any], dict[str, slice]]:
    metadata: dict[str, Any] = {}
    places: dict[str, slice] = {}
    for number in range(num_keys):
        cursor.place = f"key {number}"
        key = cursor.string("the key", LIMITS.key_bytes)
        cursor.place = f"key {show(key)}"
        if not key:
            cursor.fail("a key is empty")
        if key in metadata:
            cursor.fail("the key is there twice")
        start = cursor.position
        metadata[key] = cursor.value(cursor.u32("the value's type"))
        places[key] = slice(start, cursor.position)
    return metadata, places


def _alignment(cursor: Cursor, metadata: Mapping[str, Any]) -> int:
    cursor.place = "key 'general.alignment'"
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int:
        cursor.fail(f"is a {type(alignment).__name__}, not a whole number")
    if not _LEAST_ALIGNMENT <= alignment <= LIMITS.alignment or alignment & (alignment - 1):
        limits = f"a power of two from {_LEAST_ALIGNMENT} to {LIMITS.alignment}"
        cursor.fail(f"is {alignment}, not {limits}")
    return alignment


def _tensor(cursor: Cursor, number: int, alignment: int) -> TensorInfo:
    """One entry of the table; `offset` is still relative to the data section."""
    cursor.place = f"tensor {number}"
    name = cursor.string("the name", LIMITS.tensor_name_bytes)
    cursor.place = f"tensor {show(name)}"
    if not name:
        cursor.fail("a tensor's name is empty")
    num_dims = cursor.u32("the number of dimensions")
    if not 1 <= num_dims <= LIMITS.dims:
        cursor.fail(f"{num_dims} dimensions, there can be 1 to {LIMITS.dims}")
    dims = tuple(cursor.u64("a dimension") for _ in range(num_dims))
    elements = 1
    for size in dims:
        elements *= size
    if not 1 <= elements <= _MOST_ELEMENTS:
        cursor.fail(f"dimensions {dims} make {elements} elements, there can be 1 to 2^63 - 1")
    code = cursor.u32("the type")
    if code not in TYPES:
        cursor.fail(f"type {code} is unknown")
    form, block_size, block_bytes = TYPES[code]
    if dims[0] % block_size:
        cursor.fail(f"rows of {dims[0]} elements are not whole {form} blocks of {block_size}")
    offset = cursor.u64("the offset")
    if offset % alignment:
        cursor.fail(f"offset {offset} is not a multiple of the alignment {alignment}")
    return TensorInfo(name, form, dims[::-1], offset, elements // block_size * block_bytes)


def _place(
    cursor: Cursor, table: list[TensorInfo], data_start: int, file_bytes: int
) -> dict[str, TensorInfo]:
    """Turn offsets into places in the file: inside it, and no two tensors on the same bytes."""
    tensors: dict[str, TensorInfo] = {}
    for info in table:
        cursor.place = f"tensor {show(info.name)}"
        if info.name in tensors:
            cursor.fail("the tensor is there twice")
        start = data_start + info.offset
        if start + info.nbytes > file_bytes:
            cursor.fail(f"ends at byte {start + info.nbytes} of a file of {file_bytes} bytes")
        tensors[info.name] = TensorInfo(info.name, info.format, info.shape, start, info.nbytes)
    end, before = 0, ""
    for info in sorted(tensors.values(), key=lambda info: info.offset):
        if info.offset < end:
            cursor.place = f"tensor {show(info.name)}"
            cursor.fail(f"begins at byte {info.offset} inside tensor {show(before)}")
        end, before = info.offset + info.nbytes, info.name
    return tensors
