"""Split models: any part opens all, and what does not belong together is refused by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.errors import BadModelFile
from pagemill.weights.cursor import LIMITS
from pagemill.weights.gguf_parts import GGUFParts
from pagemill.weights.load import open_model
from tests.weights.gguf_writer import I32, STRING, U16, U32, File, Tensor, value
from tests.weights.llama_file import llama_file
from tests.weights.split_file import part_name, split

COUNT = 3
TENSORS = [Tensor(f"t{i}", (8, 2), np.full(16, i, "<f4").tobytes()) for i in range(5)]
WHOLE = File(keys={"a.key": value(STRING, "of the model")}, tensors=TENSORS)


def write(folder: Path, parts: list[File]) -> list[Path]:
    paths = [folder / part_name(number, COUNT) for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(part.to_bytes())
    return paths


@pytest.mark.parametrize("opened", range(COUNT))
def test_any_part_opens_all(tmp_path, opened):
    with GGUFParts.open(write(tmp_path, split(WHOLE, COUNT))[opened]) as file:
        assert file.metadata["a.key"] == "of the model"
        assert file.encoded("a.key") == value(STRING, "of the model")
        assert set(file.tensors) == {tensor.name for tensor in TENSORS}
        for tensor in TENSORS:
            assert file.data(tensor.name).tobytes() == tensor.data
    with pytest.raises(ValueError, match="closed"):
        file.data("t4")


@pytest.mark.parametrize("count", [None, 0, 1])
def test_a_file_that_is_not_split_is_one_part(tmp_path, count):
    keys = {} if count is None else {"split.count": value(U16, count)}
    path = tmp_path / "any name.gguf"
    path.write_bytes(File(keys=keys, tensors=TENSORS).to_bytes())
    assert len(GGUFParts.open(path).tensors) == len(TENSORS)


def test_a_split_model_is_a_model(tmp_path):
    path = write(tmp_path, split(llama_file(), COUNT))[1]
    card = open_model(path, models).card
    (tmp_path / "whole.gguf").write_bytes(llama_file().to_bytes())
    assert card == open_model(tmp_path / "whole.gguf", models).card


def test_links_to_parts_are_followed_from_where_the_links_are(tmp_path):
    (tmp_path / "blobs").mkdir()
    for number, part in enumerate(split(WHOLE, COUNT)):
        (tmp_path / "blobs" / f"blob{number}").write_bytes(part.to_bytes())
        (tmp_path / part_name(number, COUNT)).symlink_to(tmp_path / "blobs" / f"blob{number}")
    assert len(GGUFParts.open(tmp_path / part_name(0, COUNT)).tensors) == len(TENSORS)


def changed(number: int, key: str, raw: bytes) -> Callable[[list[File]], None]:
    def change(parts: list[File]) -> None:
        parts[number].keys[key] = raw

    return change


def twice(parts: list[File]) -> None:
    parts[2].tensors = [*parts[2].tensors, parts[0].tensors[0]]


def one_less(parts: list[File]) -> None:
    parts[1].tensors = parts[1].tensors[:-1]


def swapped(parts: list[File]) -> None:
    parts[1], parts[2] = parts[2], parts[1]


# what is done to good parts: what the message must hold; the first part is opened
BAD = {
    "twice": (twice, r"model-00003.*'t0' is in 'model-00001-of-00003\.gguf' too"),
    "too few": (one_less, r"split\.tensors\.count.*5.*hold 4"),
    "swapped": (swapped, r"model-00002.*split\.no.*is 2, not 1"),
    "no number": (changed(1, "split.no", value(STRING, "1")), r"model-00002.*split\.no.*string"),
    "number past the end": (changed(0, "split.no", value(U16, 3)), r"split\.no.*3, not in 0 to 2"),
    "another count": (changed(2, "split.count", value(U16, 4)), r"00003-of.*count.*4, not 3"),
    "another sum": (changed(1, "split.tensors.count", value(I32, 6)), r"00002-of.*6, not 5"),
    "negative sum": (changed(0, "split.tensors.count", value(I32, -1)), r"-1, not in 1 to"),
    "count of another type": (changed(0, "split.count", value(STRING, "3")), r"split\.count"),
    "count out of bounds": (
        changed(0, "split.count", value(U32, 2**32 - 1)),
        rf"4294967295, not in 0 to {LIMITS.parts}",
    ),
    "count of more files than there are": (
        changed(0, "split.count", value(U16, 4)),
        r"00001-of-00003.*part 1 of 4 but not called NAME-00001-of-00004",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_parts_that_do_not_belong_together_are_refused(tmp_path, name):
    change, message = BAD[name]
    parts = split(WHOLE, COUNT)
    change(parts)
    path = write(tmp_path, parts)[0]
    with pytest.raises(BadModelFile, match=message) as caught:
        GGUFParts.open(path)
    assert str(tmp_path) not in caught.value.message


def test_a_missing_part_is_named(tmp_path):
    paths = write(tmp_path, split(WHOLE, COUNT))
    paths[1].unlink()
    with pytest.raises(BadModelFile, match=r"'model-00002-of-00003\.gguf': no such file.*1 of"):
        GGUFParts.open(paths[2])


def test_a_broken_part_is_named(tmp_path):
    paths = write(tmp_path, split(WHOLE, COUNT))
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    with pytest.raises(BadModelFile, match=r"'model-00003-of-00003\.gguf': tensor.*ends at byte"):
        GGUFParts.open(paths[0])


def test_a_part_under_another_name_is_refused(tmp_path):
    path = write(tmp_path, split(WHOLE, COUNT))[0]
    renamed = path.rename(tmp_path / "renamed.gguf")
    with pytest.raises(BadModelFile, match=r"'renamed\.gguf': is part 1 of 3 but not called"):
        GGUFParts.open(renamed)
