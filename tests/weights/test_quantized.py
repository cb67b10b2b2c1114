"""Quantized matrices against what the packages that write them say they mean."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pagemill.errors import BadModelFile, PagemillError, Unsupported
from pagemill.weights import formats, quantized
from pagemill.weights.folder import Folder
from pagemill.weights.safetensors import SafetensorsFile
from pagemill.weights.source import Stored
from tests.weights.safetensors_writer import CONFIG, file_of

GOLDEN = Path(__file__).parents[1] / "golden" / "quantized"
# The format that each is kept in; and how far off it may be, relative to the largest weight.
KEPT = {
    "awq": ("INT4", 0.0),
    "fbgemm": ("FP8", 0.0),
    "float_8": ("FP8", 0.0),
    "float_8_tiles": ("FP8", 0.0),
    "fp8_tiles": ("FP8", 0.0),
    "gptq_2": ("INT4", 0.0),
    "gptq_3": ("INT4", 0.0),
    "gptq_4": ("INT4", 0.0),
    "gptq_4_act_order": ("Q8_0", 0.5 / 127),
    "gptq_4_symmetric": ("Q4_0", 0.0),
    "gptq_8": ("INT8", 0.0),
    "int_8": ("Q8_0", 0.0),
    "int_8_zeros": ("INT8", 0.0),
    "llm_int8": ("INT8", 0.0),
    "mxfp4": ("MXFP4", 0.0),
    "nf4": ("NF4", 0.0),
    "nf4_nested": ("NF4", 0.0),
    "packed_3": ("Q4_0", 0.0),
    "packed_4": ("Q4_0", 0.0),
    "packed_4_zeros": ("INT4", 0.0),
    "packed_8": ("Q8_0", 0.0),
}
ROUNDING = 3e-7  # of two products of single-precision numbers
DTYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8", "U8": "|u1", "I8": "|i1"}
DTYPES |= {"BF16": "<u2", "F8_E4M3": "|u1"}


class Golden:
    """A file of tests/golden/quantized, whose tensors can be changed before they are read."""

    def __init__(self, name: str) -> None:
        path = GOLDEN / f"{name}.safetensors"
        file = SafetensorsFile.open(path)
        raw = path.read_bytes()
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        self.config: dict[str, Any] = json.loads(header["__metadata__"]["config"])
        self.dtypes = {name: info.dtype for name, info in file.tensors.items()}
        self.tensors: dict[str, NDArray[Any]] = {
            name: file.data(name).view(DTYPES[info.dtype]).reshape(info.shape)
            for name, info in file.tensors.items()
        }
        self.expected = self.tensors.pop("expected")

    def matrices(self, folder: Path) -> dict[str, Stored]:
        config = {**CONFIG, "quantization_config": self.config}
        (folder / "config.json").write_text(json.dumps(config))
        content = file_of(self.tensors, self.dtypes)
        (folder / "model.safetensors").write_bytes(content)
        return dict(quantized.matrices(Folder.open(folder)))

    def matrix(self, folder: Path) -> Stored:
        (found,) = self.matrices(folder).values()
        return found


@pytest.mark.parametrize("name", KEPT)
def test_a_matrix_means_what_its_package_says(tmp_path: Path, name: str) -> None:
    golden = Golden(name)
    matrix = golden.matrix(tmp_path)
    form, rows = matrix.read()
    kept, error = KEPT[name]
    assert (form, matrix.shape) == (kept, golden.expected.shape)
    values = formats.get(form).unpack(rows).reshape(matrix.shape)
    scale = np.abs(golden.expected).max()
    np.testing.assert_allclose(values, golden.expected, ROUNDING, error * scale)
    assert set(matrix.origins) <= set(golden.tensors)


@pytest.mark.parametrize("name", KEPT)
def test_rows_are_as_long_as_was_said(tmp_path: Path, name: str) -> None:
    matrix = Golden(name).matrix(tmp_path)
    form, rows = matrix.read()
    if formats.bytes_per_row(matrix.format, 256) == formats.bytes_per_row(form, 256):
        assert rows.size == matrix.nbytes
    else:  # more was found out when it was read
        assert rows.size <= matrix.nbytes


def test_every_golden_file_is_read() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(KEPT)
