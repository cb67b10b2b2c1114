"""Writes small GGUF files, good and bad: any field can be given what no honest file has."""

import struct
from dataclasses import dataclass, field
from typing import Any

ALIGNMENT = 32
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_LAYOUTS = {
    U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i",
    F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q", F64: "<d",
}  # fmt: skip


def string(text: str | bytes, length: int | None = None) -> bytes:
    """A string, with a length that may be a lie."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def value(code: int, content: Any) -> bytes:
    """A value with its type; `content` of an array is (item type, items)."""
    return struct.pack("<I", code) + _content(code, content)


def array(item: int, count: int, raw: bytes) -> bytes:
    """An array's type, item type and count, followed by any bytes."""
    return struct.pack("<IIQ", ARRAY, item, count) + raw


def _content(code: int, content: Any) -> bytes:
    if code == STRING:
        return string(content)
    if code == ARRAY:
        item, items = content
        raw = b"".join(_content(item, one) for one in items)
        return struct.pack("<IQ", item, len(items)) + raw
    return struct.pack(_LAYOUTS[code], content)


@dataclass
class Tensor:
    """An entry of the tensor table. What is None is worked out from the rest."""

    name: str | bytes
    dims: tuple[int, ...]  # as in the file: elements of a row first
    data: bytes = b""
    code: int = 0
    offset: int | None = None
    num_dims: int | None = None
    name_length: int | None = None


@dataclass
class File:
    """A GGUF file to be. `keys` maps names to bytes made by `value` or `array`."""

    keys: dict[str, bytes] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    num_tensors: int | None = None
    num_keys: int | None = None
    extra_keys: bytes = b""
    alignment: int = ALIGNMENT

    def to_bytes(self) -> bytes:
        num_tensors = len(self.tensors) if self.num_tensors is None else self.num_tensors
        num_keys = len(self.keys) if self.num_keys is None else self.num_keys
        head = self.magic + struct.pack("<IQQ", self.version, num_tensors, num_keys)
        head += b"".join(string(key) + raw for key, raw in self.keys.items()) + self.extra_keys
        data = b""
        for tensor in self.tensors:
            offset = len(data) if tensor.offset is None else tensor.offset
            num_dims = len(tensor.dims) if tensor.num_dims is None else tensor.num_dims
            head += string(tensor.name, tensor.name_length) + struct.pack("<I", num_dims)
            head += struct.pack(f"<{len(tensor.dims)}QIQ", *tensor.dims, tensor.code, offset)
            data += tensor.data + bytes(-len(tensor.data) % self.alignment)
        return head + bytes(-len(head) % self.alignment) + data
