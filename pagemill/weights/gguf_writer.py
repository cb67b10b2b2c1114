"""Writes GGUF files, version 3, little-endian, that a strict reader accepts.

The header comes first, from names, formats and shapes alone; then tensors follow in its order, in
pieces of any size, so that no more of a model than its caller wants is ever in memory. The file
appears under its name when it is complete and on disk, or never. Must not know: what a key means,
nor what the bytes of a tensor mean.
"""

import contextlib
import errno
import math
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import InvalidRequest, PagemillError
from pagemill.weights.cursor import ARRAY, LIMITS, STRING, number_layout, show, type_code
from pagemill.weights.ggml import TYPES
from pagemill.weights.gguf import GGUFFile

ALIGNMENT: Final = 32  # what readers assume where no key says otherwise
_ALIGNMENT_KEY: Final = "general.alignment"
_NAME_BYTES: Final = LIMITS.tensor_name_bytes - 1  # others end a name with a zero byte


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written. `shape` is (rows, K) in the order of numpy."""

    name: str
    format: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        _, block_size, block_bytes = TYPES[self._code()]
        return math.prod(self.shape) // block_size * block_bytes

    def entry(self, offset: int) -> bytes:
        """Its place in the tensor table; ValueError for what no reader would accept."""
        name = self.name.encode()
        code = self._code()
        block_size = TYPES[code][1]
        if not 0 < len(name) <= _NAME_BYTES:
            raise ValueError(f"tensor {self.name!r}: a name has 1 to {_NAME_BYTES} bytes")
        if not 1 <= len(self.shape) <= LIMITS.dims or min(self.shape) < 1:
            raise ValueError(f"tensor {self.name!r}: shape {self.shape}")
        if self.shape[-1] % block_size:
            raise ValueError(
                f"tensor {self.name!r}: rows of {self.shape[-1]} elements are not whole "
                f"{self.format} blocks of {block_size}"
            )
        dims = struct.pack(f"<I{len(self.shape)}Q", len(self.shape), *self.shape[::-1])
        return struct.pack("<Q", len(name)) + name + dims + struct.pack("<IQ", code, offset)

    def _code(self) -> int:
        for code, (name, _, _) in TYPES.items():
            if name == self.format:
                return code
        raise ValueError(f"tensor {self.name!r}: format {self.format!r} is unknown")


def encode(kind: str, content: Any) -> bytes:
    """A value for the metadata: its type, then its content.

    `kind` is the format's own word ("uint32", "string", "bool"); in brackets ("[float32]") it means
    an array of these.
    """
    word = kind.strip("[]")
    code = type_code(word)
    if kind == word:
        return struct.pack("<I", code) + _contents(code, [content])
    return struct.pack("<IIQ", ARRAY, code, len(content)) + _contents(code, content)


def _contents(code: int, items: Sequence[Any]) -> bytes:
    if code != STRING:
        return struct.pack(f"<{len(items)}{number_layout(code)}", *items)
    strings = [item.encode() for item in items]
    return b"".join(struct.pack("<Q", len(raw)) + raw for raw in strings)


def _header(values: Mapping[str, bytes], tensors: Sequence[NewTensor]) -> bytes:
    if _ALIGNMENT_KEY in values:
        raise ValueError(f"{_ALIGNMENT_KEY} is given, but tensors are aligned to {ALIGNMENT}")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError("two tensors have the same name")
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(values))]
    for key, value in values.items():
        raw = key.encode()
        parts += [struct.pack("<Q", len(raw)), raw, value]
    offset = 0
    for tensor in tensors:
        parts.append(tensor.entry(offset))
        offset += _aligned(tensor.nbytes)
    header = b"".join(parts)
    return header.ljust(_aligned(len(header)), b"\0")


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class GGUFWriter:
    """A file being written, as a context: leaving it completes the file, an error removes it.

    `values` are the metadata as `encode` or `GGUFFile.encoded` give it.
    """

    def __init__(
        self,
        path: Path,
        values: Mapping[str, bytes],
        tensors: Sequence[NewTensor],
        *,
        overwrite: bool = False,
    ) -> None:
        self._path, self._overwrite = path, overwrite
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._header = _header(values, tensors)
        self._sizes = [tensor.nbytes for tensor in tensors]
        self._left = 0  # bytes missing of the tensor being written
        self._file: BinaryIO

    def __enter__(self) -> "GGUFWriter":
        self._refuse_to_overwrite()
        self._upcoming = iter(self._sizes)
        with self._clear_errors():
            size = len(self._header) + sum(map(_aligned, self._sizes))
            free = shutil.disk_usage(self._path.parent).free
            if size > free:
                raise OSError(errno.ENOSPC, f"it needs {size} bytes, {free} are free")
            self._file = self._part.open("xb")
        try:
            self._append(self._header)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, raw: NDArray[np.uint8]) -> None:
        """Append bytes of the tensor whose turn it is; ValueError if there are more than it has."""
        self._left = self._left or next(self._upcoming, 0)
        if raw.nbytes > self._left:
            raise ValueError(f"{raw.nbytes} bytes of a tensor that lacks {self._left}")
        self._left -= raw.nbytes
        self._append(np.ascontiguousarray(raw).data)
        if not self._left:
            self._append(bytes(-self._file.tell() % ALIGNMENT))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._complete()
        finally:
            self._discard()

    def _append(self, raw: bytes | memoryview) -> None:
        with self._clear_errors():
            self._file.write(raw)

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # closing writes what is left, to a full disk perhaps
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _complete(self) -> None:
        missing = self._left + sum(self._upcoming)
        if missing:
            raise ValueError(f"{missing} bytes of tensors were never written")
        with self._clear_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
        GGUFFile.open(self._part).close()  # what we write, we can read
        self._refuse_to_overwrite()  # somebody may have been faster
        with self._clear_errors():
            self._part.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _refuse_to_overwrite(self) -> None:
        if self._path.exists() and not (self._overwrite and self._path.is_file()):
            raise InvalidRequest(f"{show(self._path.name)} is there already")

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PagemillError(
                f"{show(self._path.name)} cannot be written: {error.strerror or error}"
            ) from None
