"""Quantized matrices against what the packages that write them say they mean."""

from pathlib import Path

import numpy as np
import pytest

from pagemill.errors import BadModelFile, Unsupported
from pagemill.weights import formats, quantized
from pagemill.weights.folder import Folder
from tests.weights.fuzz_target import scribbled, with_length
from tests.weights.quantized_files import GOLDEN, Golden

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
    "fp4": ("FP4", 0.0),
    "packed_3": ("Q4_0", 0.0),
    "packed_4": ("Q4_0", 0.0),
    "packed_4_zeros": ("INT4", 0.0),
    "packed_6": ("Q8_0", 0.0),
    "packed_8": ("Q8_0", 0.0),
}
ROUNDING = 3e-7  # of two products of single-precision numbers


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


def test_inputs_that_are_sorted_by_group_lose_nothing(tmp_path: Path) -> None:
    golden = Golden("gptq_4_act_order")
    matrix = golden.matrix(tmp_path)
    form, rows = matrix.read_sorted()
    order = matrix.order()
    assert form == "INT4" and matrix.format == "INT4" and order is not None
    assert sorted(order.tolist()) == list(range(matrix.shape[-1]))
    values = formats.get(form).unpack(rows)
    np.testing.assert_allclose(values, golden.expected[:, order], ROUNDING, 0)
    near = formats.in_order(form, rows, order)
    assert near[0] == matrix.read()[0] and np.array_equal(near[1], matrix.read()[1])
    others = [name for name in KEPT if name != "gptq_4_act_order"]
    for name in others:
        found = Golden(name).matrix(tmp_path)
        expert = 0 if name == "mxfp4" else None
        assert found.order(expert) is None
        assert np.array_equal(found.read_sorted(expert)[1], found.read(expert)[1])


def test_groups_of_unequal_sizes_are_not_sorted(tmp_path: Path) -> None:
    golden = Golden("gptq_4_act_order")
    (name,) = (name for name in golden.tensors if name.endswith("g_idx"))
    uneven = golden.tensors[name].copy()
    uneven[np.flatnonzero(uneven == 0)[0]] = 1
    golden.tensors[name] = uneven
    matrix = golden.matrix(tmp_path)
    assert matrix.order() is None
    assert matrix.read_sorted()[0] == matrix.read()[0] == "Q8_0"


@pytest.mark.parametrize("name", KEPT)
def test_rows_are_no_longer_than_was_said(tmp_path: Path, name: str) -> None:
    matrix = Golden(name).matrix(tmp_path)
    form, rows = matrix.read()
    assert rows.size <= matrix.nbytes
    assert formats.as_gguf(form, rows)[1].size <= matrix.nbytes <= 1.7 * rows.size


def test_every_golden_file_is_read() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(KEPT)


def test_kernels_get_near_formats(tmp_path: Path) -> None:
    """What no kernel knows becomes the nearest that GGUF has."""
    for name, (kept, _) in KEPT.items():
        golden = Golden(name)
        form, rows = golden.matrix(tmp_path).read()
        near, packed = formats.as_gguf(form, rows)
        if kept not in ("INT4", "INT8", "FP8"):
            assert near == kept and packed is rows
            continue
        assert near == ("Q4_1" if kept == "INT4" else "Q8_0")
        values = formats.get(near).unpack(packed)
        # Half a step, and what the scale loses in half precision.
        error = 0.002 if near == "Q4_1" or name == "llm_int8" else 0.5 / 127 + 2**-11
        blocks = np.abs(golden.expected).reshape(-1, 32).max(axis=1)
        errors = np.abs(values - golden.expected).reshape(-1, 32).max(axis=1)
        assert (errors <= error * blocks + 1e-6).all(), name


def change(golden: Golden, part: str, what: object) -> None:
    """Leave a tensor out, or give it another shape or dtype."""
    name = next(name for name in golden.tensors if name.endswith(part))
    if what is None:
        del golden.tensors[name], golden.dtypes[name]
    elif isinstance(what, str):
        golden.dtypes[name] = what
    else:
        golden.tensors[name] = golden.tensors[name][what]


FAULTS = [
    ("awq", "scales", None, "'layer.scales' is missing"),
    ("awq", "scales", (slice(None), slice(8)), r"'layer.scales' has shape \(2, 8\), not \(any, 16"),
    ("awq", "scales", "I16", "'layer.scales' is of I16, not of F16 or BF16 or F32"),
    ("awq", "qzeros", slice(1), r"'layer.qzeros' has shape \(1, 2\), not \(2, 2\)"),
    ("awq", "qweight", slice(127), "2 groups, which do not divide 127 inputs"),
    ("awq", "qweight", (0,), r"'layer.qweight' has shape \(2,\), not \(any, any\)"),
    ("gptq_4", "qzeros", None, "'layer.qzeros' is missing"),
    ("gptq_4", "qzeros", (slice(None), slice(1)), "1 words for 32 outputs"),
    ("gptq_4", "qweight", slice(15), r"'layer.g_idx' has shape \(128,\), not \(120,\)"),
    ("gptq_4", "g_idx", slice(100), r"'layer.g_idx' has shape \(100,\), not \(128,\)"),
    ("gptq_4", "scales", None, "'layer.scales' is missing"),
    ("packed_4", "weight_shape", None, "'layer.weight_shape' is missing"),
    ("packed_4", "weight_shape", slice(1), r"shape \(1,\), not \(2,\)"),
    ("packed_4", "weight_packed", (slice(None), slice(15)), "for which 15 words do not fit"),
    ("packed_4", "weight_packed", slice(4), r"has shape \(4, 16\), not \(19, any\)"),
    ("packed_4", "weight_scale", (slice(None), slice(3)), "3 groups, which do not divide 128"),
    ("int_8", "weight_scale", slice(5), r"shape \(5, 1\), which does not fit a matrix \(19, 128"),
    ("float_8", "weight_scale", slice(5), r"shape \(5, 1\), which does not fit a matrix \(19, 128"),
    (
        "fp8_tiles",
        "weight_scale_inv",
        None,
        "'layer.weight': has no weight_scale_inv or weight_sca",
    ),
    ("llm_int8", "SCB", slice(3), r"'layer.SCB' has shape \(3,\), not \(16,\)"),
    ("nf4", "absmax", slice(3), r"'layer.weight.absmax' has shape \(3,\), not \(32,\)"),
    ("nf4", "quant_map", None, "'layer.weight.quant_map' is missing"),
    ("nf4", "bitsandbytes__nf4", slice(20), "not valid JSON"),
    ("nf4", ".weight", slice(20), r"'layer.weight' has shape \(20, 1\), not \(1024, 1\)"),
    ("nf4_nested", "nested_absmax", None, "'layer.weight.nested_absmax' is missing"),
    ("mxfp4", "_scales", (slice(None), slice(3)), r"shape \(2, 3, 4\), not \(2, 16, 4\)"),
    ("mxfp4", "_blocks", (..., slice(8)), r"shape \(2, 16, 4, 8\), not \(any, any, any, 16\)"),
]


@pytest.mark.parametrize(("name", "part", "what", "message"), FAULTS)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, name: str, part: str, what: object, message: str
) -> None:
    golden = Golden(name)
    change(golden, part, what)
    with pytest.raises(BadModelFile, match=message):
        golden.matrix(tmp_path).read()


@pytest.mark.parametrize(
    ("name", "part", "value", "message"),
    [
        ("gptq_4_act_order", "g_idx", 4, "names groups 0 to 4 of 4"),
        ("gptq_4_act_order", "g_idx", -1, "names groups -1 to 3 of 4"),
        ("gptq_4", "scales", np.nan, "holds what is no finite number"),
        ("float_8", "weight_scale", 0x7F80, "holds what is no finite number"),
        ("packed_4", "weight_shape", -1, r"not \(-1, any\)"),
        ("packed_4", "weight_shape", 1 << 62, "has shape"),
        ("nf4", "quant_map", 0.5, "another table"),
    ],
)
def test_values_out_of_range_are_named(
    tmp_path: Path, name: str, part: str, value: float, message: str
) -> None:
    golden = Golden(name)
    found = next(name for name in golden.tensors if name.endswith(part))
    golden.tensors[found] = golden.tensors[found].copy()
    golden.tensors[found].flat[0] = value
    with pytest.raises((BadModelFile, Unsupported), match=message):
        golden.matrix(tmp_path).read()


SETTINGS = [
    ("awq", {"quant_method": "aqlm"}, Unsupported, "'aqlm'; there are awq, bitsandbytes, comp"),
    ("awq", {"quant_method": 3}, BadModelFile, "'quant_method': is 3"),
    ("awq", {"bits": 3}, Unsupported, "'bits': is 3; AWQ of 4 bits can be read"),
    ("awq", {"bits": "4"}, BadModelFile, "'bits': is a string, not a whole number"),
    ("awq", {"version": "gemv"}, Unsupported, "'version': is 'gemv'; 'gemm' can be read"),
    ("gptq_4", {"checkpoint_format": "marlin"}, Unsupported, "'marlin', not one of gptq, gptq_v2"),
    ("packed_4", {"format": "marlin-24"}, Unsupported, "'format': is 'marlin-24'; there are pack"),
    ("packed_4", {"config_groups": []}, BadModelFile, "'config_groups': is an array, not an obj"),
    ("packed_4", {"config_groups": {"a": 3}}, BadModelFile, "'a': is 3 .int., not an object"),
    ("packed_4", {"transform_config": {"a": {}}}, Unsupported, "transforms of activations"),
    ("packed_4", {"sparsity_config": {"format": "sparse-24"}}, Unsupported, "only 'dense'"),
    ("fp8_tiles", {"weight_block_size": [64]}, BadModelFile, "has 1 items, not 2"),
    ("fp8_tiles", {"weight_block_size": [64, 0]}, BadModelFile, "is 0, not in 1 to"),
    ("fp8_tiles", {"weight_block_size": [16, 16]}, BadModelFile, "does not fit a matrix"),
]


@pytest.mark.parametrize(("name", "settings", "error", "message"), SETTINGS)
def test_settings_that_cannot_be_read_are_named(
    tmp_path: Path, name: str, settings: dict[str, object], error: type, message: str
) -> None:
    golden = Golden(name)
    golden.config |= settings
    with pytest.raises(error, match=message):
        golden.matrix(tmp_path).read()


def test_zero_points_of_the_second_version_are_as_they_are(tmp_path: Path) -> None:
    golden = Golden("gptq_4")
    first = formats.get("INT4").unpack(golden.matrix(tmp_path).read()[1])
    golden.config["checkpoint_format"] = "gptq_v2"
    second = formats.get("INT4").unpack(golden.matrix(tmp_path).read()[1])
    scales = golden.tensors["layer.scales"].astype(np.float32).T.repeat(32, axis=1)
    np.testing.assert_allclose(second - first, scales, rtol=1e-5)


def test_the_method_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    golden = Golden("gptq_4")
    expected = golden.matrix(tmp_path).read()[1]
    (tmp_path / "quantize_config.json").write_text('{"bits": 4, "group_size": 32}')
    golden.config = {}
    found = golden.matrices(tmp_path)
    np.testing.assert_array_equal(found["layer.weight"].read()[1], expected)


@pytest.mark.parametrize("name", KEPT)
def test_scribbles_are_read_or_refused(tmp_path: Path, name: str) -> None:
    """In the file's header, and in the settings."""
    golden = Golden(name)
    golden.matrix(tmp_path)
    path, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    good, good_config = path.read_bytes(), config.read_bytes()
    end = 8 + int.from_bytes(good[:8], "little")
    seed = len(name)
    headers = [with_length(raw, good[end:]) for raw in scribbled(good[8:end], seed, 60)]
    files = [(header, good_config) for header in headers]
    files += [(good, changed) for changed in scribbled(good_config, seed, 60)]
    ends = {"read": 0, "refused": 0}
    for raw, raw_config in files:
        path.write_bytes(raw)
        config.write_bytes(raw_config)
        try:
            for matrix in quantized.matrices(Folder.open(tmp_path)).values():
                form, rows = matrix.read()
                assert np.isfinite(formats.get(form).unpack(rows)).all() or form == "FP8"
            ends["read"] += 1
        except (BadModelFile, Unsupported) as error:
            assert error.message.isprintable()
            ends["refused"] += 1
    assert min(ends.values()) > 0
