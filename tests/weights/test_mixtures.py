"""Mixtures against what llama.cpp chooses for networks of many kinds."""

import json
from pathlib import Path

import pytest

from pagemill.errors import Unsupported
from pagemill.weights import formats
from pagemill.weights.mixtures import MIXTURES, Network, choose, fitting, is_kept, mixture
from tests.golden.networks import NETWORKS, Shape, brief, shapes

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "mixtures.json").read_text())


def network_of(shape: Shape) -> Network:
    return Network(shape.architecture, shape.layers, shape.heads, shape.kv_heads, shape.experts)


@pytest.mark.parametrize(
    ("title", "name"), [(title, name) for title in GOLDEN for name in GOLDEN[title]]
)
def test_every_tensor_gets_what_llama_cpp_gives_it(title, name):
    network = NETWORKS[title]
    stored = dict.fromkeys(shapes(network), "F32")
    chosen = choose(mixture(name), network_of(network), shapes(network))
    assert brief(stored | chosen) == GOLDEN[title][name]


def test_the_golden_choices_are_of_every_mixture():
    names = {mixture(name) for title in GOLDEN for name in GOLDEN[title]}
    assert names | {mixture("f32")} == set(MIXTURES.values())
    assert GOLDEN.keys() == NETWORKS.keys()


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("Q4_K_M", "q4_K_M"), ("q4_k_m", "q4_K_M"), ("q4_k", "q4_K_M"), ("Q3_K", "q3_K_M"),
     ("q5_K", "q5_K_M"), ("F16", "f16")],
)  # fmt: skip
def test_names_are_found_however_they_are_spelled(spelled, name):
    assert mixture(spelled).name == name


@pytest.mark.parametrize("name", ["", "q4", "Q4_K_XL", "iq1_s"])
def test_an_unknown_name_lists_what_exists(name):
    with pytest.raises(Unsupported, match=rf"'{name}' is unknown; there are .*q4_K_M.*q2_K"):
        mixture(name)


def test_every_mixture_can_be_written():
    bases = {one.base for one in MIXTURES.values()}
    assert bases <= set(formats.packing_names())
    assert len({one.file_type for one in MIXTURES.values()}) == len(MIXTURES)


@pytest.mark.parametrize(
    ("name", "shape", "kept"),
    [
        ("blk.0.attn_q.weight", (8, 8), False),
        ("blk.0.ffn_up_exps.weight", (2, 8, 8), False),
        ("blk.0.attn_q.bias", (8,), True),
        ("blk.0.attn_norm.weight", (8,), True),
        ("blk.0.attn_q_norm.weight", (2, 8), True),
        ("blk.0.ffn_gate_inp.weight", (4, 8), True),
        ("position_embd.weight", (8, 8), True),
        ("blk.0.ssm_conv1d.weight", (8, 4), True),
        ("blk.0.some_table", (8, 8), True),
    ],
)
def test_small_and_sensitive_tensors_are_kept(name, shape, kept):
    assert is_kept(name, shape) == kept


@pytest.mark.parametrize(
    ("name", "k", "expected"),
    [("Q4_K", 512, "Q4_K"), ("Q4_K", 288, "Q5_0"), ("Q6_K", 32, "Q8_0"), ("Q2_K", 96, "Q4_0"),
     ("Q4_K", 40, "F16"), ("Q8_0", 40, "F16"), ("TQ1_0", 320, "Q4_0"), ("Q5_K", 320, "Q5_1")],
)  # fmt: skip
def test_rows_that_are_not_whole_blocks_get_a_format_that_fits(name, k, expected):
    assert fitting(name, k) == expected


def test_experts_only_where_there_are_experts():
    dense = NETWORKS["tied"]
    with pytest.raises(Unsupported, match="'mxfp4_moe' is for models with experts"):
        choose(mixture("mxfp4_moe"), network_of(dense), shapes(dense))
