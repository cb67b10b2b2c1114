"""Whole models: what is rounded, what is copied, and what is refused."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.errors import BadModelFile, InvalidRequest
from pagemill.weights import formats
from pagemill.weights.gguf import GGUFFile
from pagemill.weights.gguf_writer import encode
from pagemill.weights.load import open_model
from pagemill.weights.mixtures import Network, mixture
from pagemill.weights.quantize import quantize_file, read_network, write_quantized
from tests.weights.gguf_writer import ARRAY, F32, I32, STRING, U32, File, Tensor, value
from tests.weights.split_file import part_name, split

K = 256
LLAMA = Network("llama", 1, 8, 8, 0)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype("<f4")


def tensor(name: str, values: np.ndarray, code: int = 0) -> Tensor:
    return Tensor(name, values.shape[::-1], values.tobytes(), code)


def model(**tensors: np.ndarray) -> File:
    keys = {
        "general.architecture": value(STRING, "llama"),
        "general.file_type": value(U32, 0),
        "general.alignment": value(U32, 32),
        "llama.block_count": value(U32, 1),
        "llama.attention.head_count": value(U32, 8),
        "tokenizer.ggml.tokens": value(ARRAY, (STRING, ["a", "b"])),
        "tokenizer.ggml.scores": value(ARRAY, (F32, [0.5, 0.25])),
    }
    named = {name.replace("__", "."): values for name, values in tensors.items()}
    return File(keys, [tensor(name, values) for name, values in named.items()])


SMALL = {
    "token_embd__weight": normal(4, K),
    "output_norm__weight": normal(K),
    "blk__0__attn_q__weight": normal(300, K),
    "blk__0__ffn_down_exps__weight": normal(3, 5, 2 * K),
    "blk__0__attn_k__weight": normal(4, 288),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    path.write_bytes(model(**SMALL).to_bytes())
    return path


def test_matrices_are_packed_and_the_rest_is_copied(source, tmp_path):
    target = tmp_path / "target.gguf"
    seen: list[tuple[int, int]] = []
    summary = quantize_file(
        source, target, mixture("q4_K_S"), threads=2, progress=lambda *step: seen.append(step)
    )
    with GGUFFile.open(target) as file:
        kinds = {name: info.format for name, info in file.tensors.items()}
        assert kinds == {
            "token_embd.weight": "Q6_K",  # it is the output too
            "output_norm.weight": "F32",
            "blk.0.attn_q.weight": "Q4_K",
            "blk.0.ffn_down_exps.weight": "Q4_K",
            "blk.0.attn_k.weight": "Q5_0",  # rows of 288
        }
        for name, values in SMALL.items():
            name = name.replace("__", ".")
            rows = values.reshape(-1, values.shape[-1])
            packed = formats.get_packing(kinds[name]).pack(rows)
            assert file.data(name).tobytes() == packed.tobytes()
            assert file.tensors[name].shape == values.shape
        assert file.metadata["general.file_type"] == 14
        assert file.metadata["general.quantization_version"] == 2
        assert "general.alignment" not in file.metadata
        assert list(file.metadata["tokenizer.ggml.tokens"]) == ["a", "b"]
        assert list(file.metadata["tokenizer.ggml.scores"]) == [0.5, 0.25]
        total = sum(info.nbytes for info in file.tensors.values())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert summary.formats == {"Q4_K": 2, "Q5_0": 1, "Q6_K": 1, "F32": 1}
    assert (summary.odd_rows, summary.rounded_again) == (1, {})
    elements = sum(values.size for values in SMALL.values())
    assert (summary.elements, summary.bits_per_weight) == (elements, total * 8 / elements)


def test_a_large_matrix_is_packed_slab_by_slab(tmp_path):
    values = normal(4200, K)  # more than one slab, and a rest
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    source.write_bytes(model(blk__0__attn_q__weight=values).to_bytes())
    quantize_file(source, target, mixture("q8_0"), threads=3)
    with GGUFFile.open(target) as file:
        packed = formats.get_packing("Q8_0").pack(values)
        assert file.data("blk.0.attn_q.weight").tobytes() == packed.tobytes()


def test_rounding_again_is_counted_and_the_same_format_copied(source, tmp_path):
    once, twice, again = (tmp_path / f"{name}.gguf" for name in ("once", "twice", "again"))
    quantize_file(source, once, mixture("q8_0"))
    summary = quantize_file(once, twice, mixture("q4_0"))
    # The output's Q6_K needs rows of 256, which the embedding has.
    assert summary.rounded_again == {"Q8_0": 4}
    summary = quantize_file(once, again, mixture("q8_0"))
    assert summary.rounded_again == {}
    assert once.read_bytes() == again.read_bytes()


def test_tensors_that_are_no_real_numbers_are_copied(tmp_path):
    file = model(**SMALL)
    numbers = np.arange(2 * K, dtype="<i4").reshape(2, K)
    file.tensors.append(tensor("blk.0.table.weight", numbers, 26))
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    source.write_bytes(file.to_bytes())
    quantize_file(source, target, mixture("q4_0"))
    with GGUFFile.open(target) as opened:
        assert opened.tensors["blk.0.table.weight"].format == "I32"
        assert opened.data("blk.0.table.weight").tobytes() == numbers.tobytes()


def test_a_split_model_becomes_one_file(source, tmp_path):
    for number, part in enumerate(split(model(**SMALL), 3)):
        (tmp_path / part_name(number, 3)).write_bytes(part.to_bytes())
    whole, joined = tmp_path / "whole.gguf", tmp_path / "joined.gguf"
    quantize_file(source, whole, mixture("q4_0"))
    quantize_file(tmp_path / part_name(1, 3), joined, mixture("q4_0"))
    with GGUFFile.open(whole) as one, GGUFFile.open(joined) as other:
        assert one.metadata.keys() == other.metadata.keys()
        assert not any(key.startswith("split.") for key in other.metadata)
        for name in one.tensors:
            assert one.data(name).tobytes() == other.data(name).tobytes()


@pytest.mark.parametrize(
    ("bad", "message"),
    [(np.nan, "no number"), (np.inf, "no number"), (1e6, "1e\\+06"), (-7e4, "70000")],
)
def test_a_weight_that_cannot_be_rounded_is_named(tmp_path, bad, message):
    values = normal(4, K)
    values[2, 3] = bad
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    source.write_bytes(model(blk__0__attn_q__weight=values).to_bytes())
    with pytest.raises(
        BadModelFile, match=rf"'blk\.0\.attn_q\.weight'.*{message}.*Q4_0.*rows 0 to 3"
    ):
        quantize_file(source, target, mixture("q4_0"))
    assert os.listdir(tmp_path) == ["source.gguf"]


def test_large_weights_fit_where_there_is_no_half_precision(tmp_path):
    values = normal(4, K) * np.float32(1e6)
    source, target = tmp_path / "source.gguf", tmp_path / "target.gguf"
    source.write_bytes(model(blk__0__attn_q__weight=values).to_bytes())
    quantize_file(source, target, mixture("bf16"))
    with GGUFFile.open(target) as file:
        read = formats.get("BF16").unpack(file.data("blk.0.attn_q.weight").reshape(4, -1))
    np.testing.assert_allclose(read, values, rtol=2**-8)


def test_what_is_there_is_not_overwritten(source, tmp_path):
    target = tmp_path / "target.gguf"
    target.write_bytes(b"precious")
    with pytest.raises(InvalidRequest, match="already"):
        quantize_file(source, target, mixture("q4_0"))
    assert target.read_bytes() == b"precious"
    quantize_file(source, target, mixture("q4_0"), overwrite=True)
    GGUFFile.open(target).close()


def test_a_model_can_take_its_own_place(source):
    quantize_file(source, source, mixture("q4_0"), overwrite=True)
    with GGUFFile.open(source) as file:
        assert file.tensors["blk.0.attn_q.weight"].format == "Q4_0"


def test_a_broken_key_of_the_network_is_named(tmp_path):
    file = model(**SMALL)
    file.keys["llama.expert_count"] = value(I32, -1)
    source = tmp_path / "source.gguf"
    source.write_bytes(file.to_bytes())
    with pytest.raises(BadModelFile, match=r"'source\.gguf'.*'llama\.expert_count'.*-1"):
        quantize_file(source, tmp_path / "target.gguf", mixture("q4_0"))


def test_a_file_need_not_be_a_network():
    assert read_network({}, "x") == Network("", 0, 0, 0, 0)
    keys = {"a.block_count": 2, "a.attention.head_count": memoryview(b"\4\2"), "a.expert_count": 8}
    assert read_network({"general.architecture": "a", **keys}, "x") == Network("a", 2, 4, 4, 8)


@dataclass
class Drawn:
    """A tensor that is in no file."""

    name: str
    shape: tuple[int, ...]
    format: str = "F32"

    def values(self) -> np.ndarray:
        return normal(*self.shape)

    def raw(self) -> np.ndarray:
        return self.values().view(np.uint8)

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self.values().reshape(-1, self.shape[-1])[start:stop]


def test_tensors_may_come_from_anywhere(tmp_path):
    target = tmp_path / "target.gguf"
    values = {"general.architecture": encode("string", "llama")}
    tensors = [Drawn("blk.0.ffn_up.weight", (6, K)), Drawn("output_norm.weight", (K,))]
    write_quantized(target, mixture("q6_K"), LLAMA, values, tensors)
    with GGUFFile.open(target) as file:
        packed = formats.get_packing("Q6_K").pack(tensors[0].values())
        assert file.data("blk.0.ffn_up.weight").tobytes() == packed.tobytes()
        assert file.data("output_norm.weight").tobytes() == tensors[1].raw().tobytes()


@pytest.mark.parametrize("name", ["f16", "q8_0", "q5_1"])
def test_a_quantized_model_is_a_model(tiny_llama_path, tmp_path, name):
    target = tmp_path / "target.gguf"
    quantize_file(tiny_llama_path, target, mixture(name))
    before, after = open_model(tiny_llama_path, models), open_model(target, models)
    assert after.card.quantization == mixture(name).base
    assert after.card.layers == before.card.layers
    assert after.metadata.keys() - before.metadata.keys() <= {
        "general.file_type",
        "general.quantization_version",
    }
