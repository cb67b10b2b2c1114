"""Files that the writer makes: read back by our strict reader, byte for byte; never half a file."""

import errno
from pathlib import Path

import numpy as np
import pytest

from pagemill.errors import InvalidRequest, PagemillError
from pagemill.weights import gguf_writer
from pagemill.weights.ggml import TYPES
from pagemill.weights.gguf import GGUFFile
from pagemill.weights.gguf_writer import GGUFWriter, NewTensor, encode
from tests.weights import gguf_writer as w

VALUES = {"a.key": encode("string", "wörd"), "a.number": encode("uint32", 7)}
TENSORS = [NewTensor("t", "F32", (2, 3)), NewTensor("u", "Q8_0", (3, 2, 64))]
DATA = [np.arange(tensor.nbytes, dtype=np.uint8) for tensor in TENSORS]


def write(path: Path, **options: bool) -> None:
    with GGUFWriter(path, VALUES, TENSORS, **options) as writer:
        writer.write(DATA[0])
        writer.write(DATA[1][:100])
        writer.write(DATA[1][100:].reshape(4, -1))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "new.gguf")
    with GGUFFile.open(tmp_path / "new.gguf") as file:
        assert (file.metadata["a.key"], file.metadata["a.number"]) == ("wörd", 7)
        for tensor, data in zip(TENSORS, DATA, strict=True):
            info = file.tensors[tensor.name]
            assert (info.format, info.shape) == (tensor.format, tensor.shape)
            assert info.offset % gguf_writer.ALIGNMENT == 0
            assert file.data(tensor.name).tobytes() == data.tobytes()
    assert names(tmp_path) == ["new.gguf"]


def test_values_of_every_type_are_copied_as_they_are(tmp_path):
    numbers = {
        w.U8: 255, w.I8: -128, w.U16: 65535, w.I16: -32768, w.U32: 2**32 - 1, w.I32: -(2**31),
        w.F32: 0.1, w.U64: 2**64 - 1, w.I64: -(2**63), w.F64: 0.1, w.BOOL: 1, w.STRING: "wörd",
    }  # fmt: skip
    keys = {f"one.{code}": w.value(code, number) for code, number in numbers.items()}
    for code, number in numbers.items():
        keys[f"two.{code}"] = w.value(w.ARRAY, (code, [number] * 2))
        keys[f"none.{code}"] = w.value(w.ARRAY, (code, []))
    source, copy = tmp_path / "source.gguf", tmp_path / "copy.gguf"
    source.write_bytes(w.File(keys=keys).to_bytes())
    with GGUFFile.open(source) as file:
        values = {key: file.encoded(key) for key in file.metadata}
    assert values == keys
    with GGUFWriter(copy, values, []):
        pass
    assert copy.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("kind", "code", "content"),
    [("uint8", w.U8, 200), ("int64", w.I64, -5), ("float32", w.F32, 0.5), ("bool", w.BOOL, True)],
)
def test_values_are_encoded_as_the_format_says(kind, code, content):
    assert encode(kind, content) == w.value(code, content)
    assert encode(f"[{kind}]", [content] * 3) == w.value(w.ARRAY, (code, [content] * 3))


def test_strings_are_encoded_as_the_format_says():
    assert encode("string", "ä") == w.value(w.STRING, "ä")
    assert encode("[string]", ["ä", ""]) == w.value(w.ARRAY, (w.STRING, ["ä", ""]))
    with pytest.raises(ValueError, match="text"):
        encode("text", "ä")


@pytest.mark.parametrize("code", TYPES)
def test_every_type_has_its_size(tmp_path, code):
    name, block_size, block_bytes = TYPES[code]
    tensor = NewTensor("t", name, (2, block_size))
    assert tensor.nbytes == 2 * block_bytes
    with GGUFWriter(tmp_path / "t.gguf", {}, [tensor]) as writer:
        writer.write(np.ones(tensor.nbytes, np.uint8))
    with GGUFFile.open(tmp_path / "t.gguf") as file:
        assert file.tensors["t"].format == name


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (NewTensor("n" * 64, "F32", (1,)), "1 to 63 bytes"),
        (NewTensor("", "F32", (1,)), "1 to 63 bytes"),
        (NewTensor("t", "F32", ()), "shape"),
        (NewTensor("t", "F32", (1, 1, 1, 1, 1)), "shape"),
        (NewTensor("t", "F32", (0, 4)), "shape"),
        (NewTensor("t", "Q8_0", (2, 16)), "16 elements.*Q8_0 blocks of 32"),
        (NewTensor("t", "Q9_9", (2, 32)), "Q9_9.*unknown"),
    ],
)
def test_what_no_reader_would_accept_is_not_begun(tmp_path, tensor, message):
    with pytest.raises(ValueError, match=message):
        GGUFWriter(tmp_path / "new.gguf", {}, [tensor])
    assert names(tmp_path) == []


def test_two_tensors_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same name"):
        GGUFWriter(tmp_path / "new.gguf", {}, [TENSORS[0], TENSORS[0]])


def test_another_alignment_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"general\.alignment"):
        GGUFWriter(tmp_path / "new.gguf", {"general.alignment": encode("uint32", 64)}, [])


class TestNeverHalfAFile:
    def test_too_few_bytes(self, tmp_path):
        with (
            pytest.raises(ValueError, match="bytes of tensors were never written"),
            GGUFWriter(tmp_path / "new.gguf", VALUES, TENSORS) as writer,
        ):
            writer.write(DATA[0])
        assert names(tmp_path) == []

    def test_too_many_bytes(self, tmp_path):
        with (
            pytest.raises(ValueError, match="25 bytes of a tensor that lacks 24"),
            GGUFWriter(tmp_path / "new.gguf", VALUES, TENSORS) as writer,
        ):
            writer.write(np.zeros(25, np.uint8))
        assert names(tmp_path) == []

    def test_an_error_or_an_interrupt(self, tmp_path):
        with (
            pytest.raises(KeyboardInterrupt),
            GGUFWriter(tmp_path / "new.gguf", VALUES, TENSORS) as writer,
        ):
            writer.write(DATA[0])
            raise KeyboardInterrupt
        assert names(tmp_path) == []

    def test_a_full_disk(self, tmp_path, monkeypatch):
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(gguf_writer.os, "fsync", full)
        with pytest.raises(PagemillError, match=r"'new\.gguf' cannot be written: No space left"):
            write(tmp_path / "new.gguf")
        assert names(tmp_path) == []

    def test_more_than_the_disk_has(self, tmp_path):
        tensor = NewTensor("t", "I8", (1 << 30, 1 << 30))
        with (
            pytest.raises(PagemillError, match=r"it needs 11529215046068\d+ bytes, \d+ are free"),
            GGUFWriter(tmp_path / "new.gguf", {}, [tensor]),
        ):
            pass
        assert names(tmp_path) == []

    def test_a_disk_that_is_full_at_once(self, tmp_path, monkeypatch):
        def full(writer: GGUFWriter, raw: bytes) -> None:
            raise PagemillError("full")

        monkeypatch.setattr(GGUFWriter, "_append", full)
        with pytest.raises(PagemillError, match="full"):
            write(tmp_path / "new.gguf")
        assert names(tmp_path) == []

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(PagemillError, match="cannot be written: No such file"):
            write(tmp_path / "nowhere" / "new.gguf")


class TestOverwriting:
    def test_what_is_there_stays(self, tmp_path):
        path = tmp_path / "new.gguf"
        path.write_bytes(b"precious")
        with pytest.raises(InvalidRequest, match=r"'new\.gguf' is there already"):
            write(path)
        assert path.read_bytes() == b"precious"

    def test_what_appears_meanwhile_stays(self, tmp_path):
        path = tmp_path / "new.gguf"
        with (
            pytest.raises(InvalidRequest, match="already"),
            GGUFWriter(path, VALUES, TENSORS[:1]) as writer,
        ):
            writer.write(DATA[0])
            path.write_bytes(b"precious")
        assert path.read_bytes() == b"precious"
        assert names(tmp_path) == ["new.gguf"]

    def test_unless_it_is_asked_for(self, tmp_path):
        path = tmp_path / "new.gguf"
        path.write_bytes(b"not precious")
        write(path, overwrite=True)
        GGUFFile.open(path).close()

    def test_a_folder_is_never_replaced(self, tmp_path):
        (tmp_path / "new.gguf").mkdir()
        with pytest.raises(InvalidRequest, match="already"):
            write(tmp_path / "new.gguf", overwrite=True)
