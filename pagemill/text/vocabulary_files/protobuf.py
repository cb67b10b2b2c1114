"""Protocol buffers, read field by field: every length is compared with what is left.

Owns the wire format. It must not know any message.
"""

from collections.abc import Iterator

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_SIZES = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}

Value = int | bytes


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Numbers and values in the order of the message. ValueError says what is wrong with it."""
    place, end = 0, len(data)
    while place < end:
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"a field has number 0, before byte {place}")
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == _BYTES:
            size, place = _varint(data, place)
        elif kind in _SIZES:
            size = _SIZES[kind]
        else:
            raise ValueError(f"field {number} has kind {kind}, before byte {place}")
        if size > end - place:
            raise ValueError(f"field {number} has {size} bytes, {end - place} are left")
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number, and the place behind it."""
    if place < len(data) and data[place] < 0x80:
        return data[place], place + 1
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("ends inside of a number")
        number |= (data[place] & 0x7F) << shift
        place += 1
        if data[place - 1] < 0x80:
            return number & (1 << 64) - 1, place
    raise ValueError(f"a number has more than 10 bytes, before byte {place}")
