"""The container: good files load, every kind of bad one is a BadModelFile that says where."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pagemill.errors import BadModelFile
from pagemill.weights.safetensors import SafetensorsFile
from tests.weights.safetensors_writer import entry, file_of, raw_file

ONE = {"t": entry("F32", (2, 2), 0, 16)}
DATA = bytes(16)


def two(first: tuple[int, int], second: tuple[int, int]) -> bytes:
    """Two tensors of four bytes each, wherever."""
    return raw_file({"t": entry("F32", (1,), *first), "u": entry("F32", (1,), *second)}, bytes(8))


def text(header: str) -> bytes:
    return raw_file(header.encode(), DATA)


GOOD = {
    "nothing in it": raw_file({}),
    "one tensor": raw_file(ONE, DATA),
    "padded header": raw_file(json.dumps(ONE).encode() + b"   ", DATA),
    "metadata": raw_file({"__metadata__": {"a": "b"}, **ONE}, DATA),
    "a scalar": raw_file({"t": entry("F32", (), 0, 4)}, bytes(4)),
    "an empty tensor": raw_file({"e": entry("F32", (0, 3), 16, 16), **ONE}, DATA),
    "half bytes": raw_file({"t": entry("F4", (3, 2), 0, 3)}, bytes(3)),
    "in any order": two((4, 8), (0, 4)),
}
# name: (file, what the message must hold)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "seven bytes": (bytes(7), "7 bytes"),
    "header length 0": (bytes(16), "length is 0 bytes, not in 2 to 100000000"),
    "header length 2^63": (raw_file(b"{}", length=1 << 63), "length is 9223372036854775808"),
    "header length 2^64 - 1": (raw_file(b"{}", length=(1 << 64) - 1), "18446744073709551615"),
    "header longer than allowed": (raw_file(b"{}", length=100_000_001), "100000001"),
    "header longer than the file": (raw_file(b"{}", length=11), "ends at byte 19 of a file of 10"),
    "header shorter than its text": (raw_file(ONE, DATA, length=30), "not valid JSON"),
    "not JSON": (text("{nonsense"), "not valid JSON"),
    "not UTF-8": (raw_file(b'{"\xff": 1}'), "is not UTF-8 at its byte 2"),
    "an array": (text("[]"), r"begins with b'\['"),
    "a space first": (raw_file(b" {}"), "begins with b' '"),
    "more than one value": (text("{}{}"), "not valid JSON"),
    "nested deeply": (text('{"a":' * 100_000 + "1" + "}" * 100_000), "deeper than 64"),
    "nested a little": (text('{"a":' + "[" * 100 + "]" * 100 + "}"), "deeper than 64"),
    "many values": (text('{"a":[' + "1," * 3_000_000 + "1]}"), "3000002 commas.*2097152"),
    "many tensors": (
        text(json.dumps({str(i): entry("U8", (0,), 0, 0) for i in range(140_000)})),
        "140000 tensors, the limit is 131072",
    ),
    "a tensor twice": (text('{"t": {}, "t": {}}'), "'t' is there twice"),
    "a field twice": (text('{"t": {"dtype": "F32", "dtype": "F16"}}'), "'dtype' is there twice"),
    "metadata of numbers": (raw_file({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata that is text": (raw_file({"__metadata__": "a"}), "__metadata__"),
    "an entry that is a list": (raw_file({"t": []}), "'t': must have data_offsets, dtype, shape"),
    "a field too few": (raw_file({"t": {"dtype": "F32", "shape": []}}), "'t': must have"),
    "a field too many": (raw_file({"t": {**ONE["t"], "more": 1}}, DATA), "'t': must have"),
    "unknown dtype": (raw_file({"t": entry("F128", (1,), 0, 16)}, DATA), "'F128' is unknown"),
    "dtype a number": (raw_file({"t": {**ONE["t"], "dtype": 3}}, DATA), "dtype '3'"),
    "shape a number": (raw_file({"t": {**ONE["t"], "shape": 4}}, DATA), "shape must be a list"),
    "shape of reals": (raw_file({"t": {**ONE["t"], "shape": [4.0]}}, DATA), "shape must be"),
    "shape of booleans": (raw_file({"t": {**ONE["t"], "shape": [True]}}, DATA), "shape must be"),
    "shape negative": (raw_file({"t": entry("F32", (-2, -2), 0, 16)}, DATA), "shape must be"),
    "shape beyond 2^63": (raw_file({"t": entry("F32", (1 << 63,), 0, 16)}, DATA), "shape must be"),
    "shape whose product wraps": (
        raw_file({"t": entry("U8", (1 << 32, 1 << 32), 0, 16)}, DATA),
        "makes 18446744073709551616 elements",
    ),
    "shape of many dimensions": (raw_file({"t": entry("F32", (1,) * 9, 0, 4)}, DATA), "9 dim"),
    "shape larger than the bytes": (raw_file({"t": entry("F32", (5,), 0, 16)}, DATA), "20 bytes"),
    "shape smaller than the bytes": (raw_file({"t": entry("F32", (3,), 0, 16)}, DATA), "12 bytes"),
    "half a byte": (raw_file({"t": entry("F4", (1,), 0, 0)}), "takes 0.5 bytes"),
    "offsets reversed": (raw_file({"t": entry("F32", (1,), 4, 0)}, bytes(4)), "begin and end"),
    "one offset": (raw_file({"t": {**ONE["t"], "data_offsets": [0]}}, DATA), "begin and end"),
    "offsets of reals": (raw_file({"t": {**ONE["t"], "data_offsets": [0, 16.0]}}, DATA), "must be"),
    "offsets past the end": (raw_file(ONE, bytes(15)), "end at byte 16 of 15"),
    "bytes after the last": (raw_file(ONE, bytes(17)), "end at byte 16 of 17"),
    "overlap": (two((0, 4), (0, 4)), "'u': begins at byte 0 of the data and overlaps 't'"),
    "overlap by some": (two((0, 4), (2, 6)), "'u': begins at byte 2"),
    "a hole": (two((0, 4), (5, 9)), "'u': begins at byte 5 .*hole after 't'"),
    "a hole at the start": (two((1, 5), (5, 9)), "'t': begins at byte 1 .*hole after the header"),
}  # fmt: skip


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], SafetensorsFile]:
    def write_and_open(raw: bytes) -> SafetensorsFile:
        path = tmp_path / "some.safetensors"
        path.write_bytes(raw)
        return SafetensorsFile.open(path)

    return write_and_open


@pytest.mark.parametrize("raw", GOOD.values(), ids=GOOD)
def test_good_files(opened, raw):
    opened(raw)


@pytest.mark.parametrize(("raw", "message"), BAD.values(), ids=BAD)
def test_bad_files(opened, raw, message):
    with pytest.raises(BadModelFile, match=message) as caught:
        opened(raw)
    assert caught.value.message.startswith("'some.safetensors': ")


def test_tensors_are_views_of_the_file(opened):
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    file = opened(file_of({"a": values, "b": values[:1] + 1}))
    info = file.tensors["b"]
    assert (info.dtype, info.shape, info.nbytes) == ("F32", (1, 3), 12)
    data = file.data("b")
    assert data.view("<f4").tolist() == [1, 2, 3]
    assert not data.flags.writeable and not data.flags.owndata
    assert file.data("a").size == 24
    with pytest.raises(KeyError):
        file.data("c")


def test_what_is_no_file(tmp_path):
    with pytest.raises(BadModelFile, match="'absent': cannot be opened: No such file"):
        SafetensorsFile.open(tmp_path / "absent")
    with pytest.raises(BadModelFile, match="not a regular file"):
        SafetensorsFile.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadModelFile, match="'pipe': not a regular file"):
        SafetensorsFile.open(tmp_path / "pipe")
    with pytest.raises(BadModelFile, match="not a regular file"):
        SafetensorsFile.open(Path("/dev/zero"))
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(BadModelFile, match="'link': cannot be opened"):
        SafetensorsFile.open(tmp_path / "link")


def test_a_huge_sparse_file_costs_nothing(tmp_path):
    path = tmp_path / "big.safetensors"
    size = 1 << 34
    with path.open("wb") as file:
        file.write(raw_file({"t": entry("F32", (1 << 16, 1 << 16), 0, size)}))
        file.seek(size - 1, os.SEEK_CUR)
        file.write(b"\0")
    assert SafetensorsFile.open(path).data("t").size == size
