"""The container: good files load, every kind of bad one is a BadModelFile that says where."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pagemill.errors import BadModelFile
from pagemill.weights.cursor import LIMITS
from pagemill.weights.ggml import TYPES
from pagemill.weights.gguf import GGUFFile
from tests.weights import gguf_writer as w
from tests.weights.gguf_writer import File, Tensor, array, string, value

HUGE = (2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
ONES = np.ones(16, "<f4").tobytes()
ALIGNMENT_KEY = "general.alignment"


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[File | bytes], GGUFFile]:
    def write_and_open(file: File | bytes) -> GGUFFile:
        path = tmp_path / "some.gguf"
        path.write_bytes(file.to_bytes() if isinstance(file, File) else file)
        return GGUFFile.open(path)

    return write_and_open


def with_value(raw: bytes) -> File:
    return File(keys={"a.key": raw})


def with_tensors(*tensors: Tensor, **fields: object) -> File:
    return File(tensors=list(tensors), **fields)


def one(**fields: object) -> Tensor:
    return Tensor(**({"name": "t", "dims": (8, 2), "data": ONES} | fields))


def aligned(alignment: object, code: int = w.U32) -> File:
    return File(keys={ALIGNMENT_KEY: value(code, alignment)}, tensors=[one()])


GOOD = {
    "nothing in it": File(),
    "version 2": with_tensors(one(), version=2),
    "two tensors": with_tensors(one(), one(name="u")),
    "a hole between tensors": with_tensors(one(), one(name="u", offset=64), one(name="v")),
    "tensor that nothing unpacks": with_tensors(one(dims=(256,), code=12, data=bytes(144))),
    "four dimensions": with_tensors(one(dims=(2, 2, 2, 2))),
    "alignment 64": File(
        keys={ALIGNMENT_KEY: value(w.U32, 64)}, tensors=[one(), one(name="u")], alignment=64
    ),
    "longest tensor name": with_tensors(one(name="n" * LIMITS.tensor_name_bytes)),
    "empty arrays": File(keys={"a": value(w.ARRAY, (w.STRING, [])), "b": array(w.U8, 0, b"")}),
}
# name: (file, what the message must hold)
BAD: dict[str, tuple[File | bytes, str]] = {
    "empty": (b"", "begins with b''"),
    "four bytes": (b"GGUF", "24"),
    "magic": (File(magic=b"GGML"), "b'GGML'"),
    "version 0": (File(version=0), "version 0"),
    "version 1": (File(version=1), "version 1"),
    "version 4": (File(version=4), "version 4"),
    "big-endian": (File(version=3 << 24), "big-endian"),
    "empty key": (File(keys={"": value(w.U8, 1)}), "empty"),
    "key twice": (
        File(keys={"k": value(w.U8, 1)}, extra_keys=string("k") + value(w.U8, 2), num_keys=2),
        "'k'.*twice",
    ),
    "key longer than allowed": (
        File(num_keys=1, extra_keys=string("k" * 70000) + value(w.U8, 1)),
        "70000.*65535",
    ),
    "key not UTF-8": (File(num_keys=1, extra_keys=string(b"k\xff") + value(w.U8, 1)), "UTF-8"),
    "value type": (with_value(struct.pack("<I", 13)), "'a.key'.*type 13"),
    "value missing": (
        File(num_keys=1).to_bytes()[:24] + string("k") + struct.pack("<IB", w.F64, 0),
        "8 bytes",
    ),
    "bool 2": (with_value(value(w.BOOL, 2)), "not 2"),
    "bools 2": (with_value(array(w.BOOL, 2, b"\1\2")), "bool"),
    "array in array": (with_value(array(w.ARRAY, 1, bytes(12))), "array"),
    "array item type": (with_value(array(99, 1, bytes(12))), "type 99"),
    "value not UTF-8": (with_value(value(w.STRING, b"\xc3(")), "UTF-8"),
    "string over the limit": (
        with_value(value(w.STRING, bytes(LIMITS.string_bytes + 1))),
        "16777217",
    ),
    "string of an array past the end": (
        with_value(array(w.STRING, 2, string("a") + string("b", length=99))),
        "item 1.*99",
    ),
    "tensor twice": (with_tensors(one(), one()), "'t'.*twice"),
    "tensor without a name": (with_tensors(one(name="")), "empty"),
    "tensor name too long": (with_tensors(one(name="n" * 65)), "65.*64"),
    "no dimensions": (with_tensors(one(dims=())), "0 dimensions"),
    "five dimensions": (with_tensors(one(dims=(1, 1, 1, 1, 1))), "5 dimensions"),
    "dimension 0": (with_tensors(one(dims=(8, 0))), "make 0 elements"),
    "dimension -1": (with_tensors(one(dims=(8, 2**64 - 1))), "elements"),
    "product wraps to 0": (with_tensors(one(dims=(2**32, 2**32))), "elements"),
    "product wraps to 16": (with_tensors(one(dims=(2**60 + 1, 16))), "elements"),
    "bytes wrap": (with_tensors(one(dims=(2**62, 1))), "ends at byte"),
    "row of half a block": (with_tensors(one(dims=(16, 1), code=8)), "16.*Q8_0 blocks of 32"),
    "unaligned offset": (with_tensors(one(offset=8)), "offset 8.*32"),
    "offset + size wraps": (with_tensors(one(offset=2**64 - 32)), "ends at byte"),
    "overlap": (with_tensors(one(), one(name="u", offset=32)), "'u'.*inside.*'t'"),
    "two on one place": (with_tensors(one(), one(name="u", offset=0)), "inside"),
    "two whose sizes sum past 2^64": (
        with_tensors(one(dims=(2**62,), code=24), one(name="u", dims=(2**62,), code=24)),
        "ends at byte",
    ),
    "last byte missing": (with_tensors(one()).to_bytes()[:-1], "ends at byte"),
    "alignment of another type": (aligned("32", w.STRING), "alignment.*str"),
    "alignment as an array": (aligned((w.U32, [32]), w.ARRAY), "alignment"),
}
for number in (0, 1, 3, 4, 48, 2**17, 2**31):
    BAD[f"alignment {number}"] = (aligned(number), f"alignment.*{number}")
for number in (4, 5, 9, 15, 31, 33, 99, 2**32 - 1):
    BAD[f"tensor type {number}"] = (with_tensors(one(code=number)), f"type {number} is unknown")
for number in HUGE:
    BAD |= {
        f"{number} keys": (File(num_keys=number), str(number)),
        f"{number} tensors": (File(num_tensors=number), str(number)),
        f"key of {number}": (File(num_keys=1, extra_keys=struct.pack("<Q", number)), "left|needs"),
        f"string of {number}": (with_value(struct.pack("<IQ", w.STRING, number)), str(number)),
        f"{number} strings": (with_value(array(w.STRING, number, bytes(64))), str(number)),
        f"{number} bytes": (with_value(array(w.U8, number, bytes(64))), str(number)),
        f"{number} doubles": (with_value(array(w.F64, number, bytes(64))), str(number)),
        f"item of {number}": (
            with_value(array(w.STRING, 1, struct.pack("<Q", number))),
            f"item 0.*{number}",
        ),
        f"tensor name of {number}": (with_tensors(one(name_length=number)), str(number)),
        f"dimension {number}": (with_tensors(one(dims=(number, 16))), "elements|ends at byte"),
        f"offset {number}": (with_tensors(one(offset=number)), "offset|ends at byte"),
    }
    if number < 2**32:
        BAD[f"{number} dimensions"] = (with_tensors(one(num_dims=number)), f"{number} dimensions")
BAD |= {
    "one key more than there is": (with_value(value(w.U8, 1)).to_bytes()[:33], "left"),
    "string one longer than what is left": (
        with_value(struct.pack("<IQ", w.STRING, 28)).to_bytes(),
        "28 bytes but",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_load(opened, name):
    with opened(GOOD[name]) as file:
        for tensor in GOOD[name].tensors:
            assert file.data(tensor.name).tobytes() == tensor.data
            assert file.tensors[tensor.name].shape == tensor.dims[::-1]


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_and_the_message_says_where(opened, name, tmp_path):
    file, message = BAD[name]
    with pytest.raises(BadModelFile, match=message) as caught:
        opened(file)
    assert "some.gguf" in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert caught.value.message.isprintable()


def test_values_have_the_types_that_were_written(opened):
    numbers = {
        w.U8: 255, w.I8: -128, w.U16: 65535, w.I16: -32768, w.U32: 2**32 - 1, w.I32: -(2**31),
        w.F32: 0.5, w.U64: 2**64 - 1, w.I64: -(2**63), w.F64: 0.1,
    }  # fmt: skip
    keys = {f"one.{code}": value(code, number) for code, number in numbers.items()}
    keys |= {
        f"two.{code}": value(w.ARRAY, (code, [number] * 2)) for code, number in numbers.items()
    }
    keys["text"] = value(w.STRING, "wörd")
    keys["yes"] = value(w.BOOL, 1)
    keys["flags"] = value(w.ARRAY, (w.BOOL, [1, 0]))
    metadata = opened(File(keys=keys)).metadata
    for code, number in numbers.items():
        assert metadata[f"one.{code}"] == number
        assert list(metadata[f"two.{code}"]) == [number, number]
    assert (metadata["text"], metadata["yes"], list(metadata["flags"])) == (
        "wörd",
        True,
        [True, False],
    )


def test_arrays_of_strings_are_sequences_and_outlive_the_file(opened):
    words = ["", "a", "zwölf", "x" * 300]
    file = opened(with_value(value(w.ARRAY, (w.STRING, words))))
    array_of_words = file.metadata["a.key"]
    file.close()
    assert list(array_of_words) == words
    assert len(array_of_words) == 4
    assert (array_of_words[-1], array_of_words[1:3]) == (words[-1], words[1:3])
    assert array_of_words.raw(2) == words[2].encode()
    with pytest.raises(IndexError):
        array_of_words[4]


def test_an_item_that_is_not_utf8_is_refused_when_it_is_read(opened):
    items = opened(with_value(value(w.ARRAY, (w.STRING, [b"ok", b"\xff"])))).metadata["a.key"]
    assert items[0] == "ok"
    with pytest.raises(BadModelFile, match=r"'a\.key'.*item 1"):
        list(items)


def test_data_is_a_read_only_view_that_outlives_close(opened):
    file = opened(with_tensors(one()))
    view = file.data("t")
    file.close()
    assert not view.flags.writeable
    assert view.tobytes() == ONES
    with pytest.raises(ValueError, match="closed"):
        file.data("t")


@pytest.mark.parametrize("code", TYPES)
def test_every_known_type_has_the_size_of_its_blocks(opened, code):
    name, block_size, block_bytes = TYPES[code]
    raw = bytes(2 * block_bytes)
    file = opened(with_tensors(Tensor("t", (block_size, 2), raw, code)))
    assert (file.tensors["t"].format, file.tensors["t"].nbytes) == (name, len(raw))


class TestPlaces:
    """What is not a regular file is refused at once, whatever it would have said."""

    def test_nothing_there(self, tmp_path):
        with pytest.raises(BadModelFile, match=r"'no\.gguf': cannot be opened: No such file"):
            GGUFFile.open(tmp_path / "no.gguf")

    def test_folder(self, tmp_path):
        with pytest.raises(BadModelFile, match="not a regular file"):
            GGUFFile.open(tmp_path)

    def test_device(self):
        with pytest.raises(BadModelFile, match="not a regular file"):
            GGUFFile.open("/dev/zero")

    def test_pipe(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.gguf")
        with pytest.raises(BadModelFile, match="not a regular file"):
            GGUFFile.open(tmp_path / "pipe.gguf")

    def test_link_to_itself(self, tmp_path):
        (tmp_path / "loop.gguf").symlink_to("loop.gguf")
        with pytest.raises(BadModelFile, match="cannot be opened"):
            GGUFFile.open(tmp_path / "loop.gguf")

    def test_link_to_nothing(self, tmp_path):
        (tmp_path / "link.gguf").symlink_to("gone.gguf")
        with pytest.raises(BadModelFile, match="cannot be opened"):
            GGUFFile.open(tmp_path / "link.gguf")

    def test_link_to_a_device(self, tmp_path):
        (tmp_path / "link.gguf").symlink_to("/dev/zero")
        with pytest.raises(BadModelFile, match="not a regular file"):
            GGUFFile.open(tmp_path / "link.gguf")

    def test_link_to_a_good_file(self, tmp_path):
        (tmp_path / "good.gguf").write_bytes(with_tensors(one()).to_bytes())
        (tmp_path / "link.gguf").symlink_to("good.gguf")
        assert list(GGUFFile.open(tmp_path / "link.gguf").tensors) == ["t"]

    def test_name_with_a_null(self):
        with pytest.raises(BadModelFile, match="cannot be opened"):
            GGUFFile.open("a\0b")

    def test_name_with_control_characters(self, tmp_path):
        with pytest.raises(BadModelFile) as caught:
            GGUFFile.open(tmp_path / "a\x1b[31m\n.gguf")
        assert caught.value.message.isprintable()

    def test_a_tensor_of_more_than_two_to_the_31_elements(self, tmp_path):
        path = tmp_path / "sparse.gguf"
        rows, k = (1 << 16) + 1, 1 << 15
        header = with_tensors(one(dims=(k, rows), code=24, data=b"")).to_bytes()
        path.write_bytes(header)
        with path.open("r+b") as file:
            file.truncate(len(header) + rows * k)
            file.seek(len(header) + rows * k - 1)
            file.write(b"\x07")
        with GGUFFile.open(path) as opened:
            data = opened.data("t").reshape(rows, k)
        assert data.nbytes > 1 << 31
        assert data[-1, -2:].tolist() == [0, 7]

    def test_experts_are_views_of_the_file(self, tmp_path):
        path = tmp_path / "experts.gguf"
        raw = np.arange(3 * 2 * 18, dtype=np.uint8)  # (experts, rows, one block of Q4_0)
        path.write_bytes(with_tensors(Tensor("t", (32, 2, 3), raw.tobytes(), 2)).to_bytes())
        with GGUFFile.open(path) as opened:
            assert opened.tensors["t"].shape == (3, 2, 32)
            stack = opened.data("t").reshape(3, 2, 18)
        assert not stack.flags.owndata
        np.testing.assert_array_equal(stack[2], raw[72:].reshape(2, 18))

    def test_a_terabyte_of_nothing(self, tmp_path):
        path = tmp_path / "sparse.gguf"
        with path.open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(BadModelFile, match="begins with"):
            GGUFFile.open(path)
