"""From file to checkpoint: typed keys, tensors that fit the card, rows in rotary order."""

import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.reference import ReferenceOps
from pagemill.weights import formats
from pagemill.weights.load import Checkpoint, open_model
from tests.weights import gguf_writer as w
from tests.weights.gguf_writer import File, Tensor, value
from tests.weights.llama_file import FFN, HEAD_DIM, HIDDEN, VOCABULARY, llama_file

COUNTS = (
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.rope.dimension_count",
    "llama.vocab_size",
)
REALS = ("llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon")
TEXTS = ("general.architecture", "general.name", "general.license")
REQUIRED = (
    "general.architecture",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.layer_norm_rms_epsilon",
)
STRING, ARRAY = value(w.STRING, "8"), value(w.ARRAY, (w.U32, [8, 8]))
NOT_COUNTS = {
    "zero": value(w.U32, 0),
    "negative": value(w.I32, -1),
    "2^31": value(w.U32, 2**31),
    "2^64-1": value(w.U64, 2**64 - 1),
    "string": STRING,
    "array": ARRAY,
    "float": value(w.F32, 8.0),
    "NaN": value(w.F32, math.nan),
    "bool": value(w.BOOL, 1),
}
NOT_REALS = {
    "zero": value(w.F32, 0.0),
    "negative": value(w.F32, -1.0),
    "NaN": value(w.F32, math.nan),
    "infinite": value(w.F32, math.inf),
    "string": STRING,
    "array": ARRAY,
    "whole": value(w.U32, 1),
}
NOT_TEXTS = {"whole": value(w.U32, 1), "array": ARRAY, "float": value(w.F32, 1.0)}
WRONG_KEYS = [
    *((key, raw) for key in COUNTS for raw in NOT_COUNTS.items()),
    *((key, raw) for key in REALS for raw in NOT_REALS.items()),
    *((key, raw) for key in TEXTS for raw in NOT_TEXTS.items()),
    *(("llama.expert_count", (what, NOT_COUNTS[what])) for what in ("negative", "string", "array")),
    *(("tokenizer.ggml.tokens", raw) for raw in (*NOT_TEXTS.items(), ("string", STRING))),
]


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[File], Checkpoint]:
    def write_and_open(file: File) -> Checkpoint:
        path = tmp_path / "some.gguf"
        path.write_bytes(file.to_bytes())
        return open_model(path, models)

    return write_and_open


@pytest.fixture
def built(opened: Callable[[File], Checkpoint]) -> Callable[[File], models.Model]:
    def open_and_build(file: File) -> models.Model:
        checkpoint = opened(file)
        return models.build(checkpoint.card, ReferenceOps(), checkpoint.source)

    return open_and_build


def tensor(file: File, name: str) -> Tensor:
    return next(one for one in file.tensors if one.name == f"{name}.weight")


def test_a_good_file_becomes_a_card(opened):
    card = opened(llama_file()).card
    assert (card.name, card.architecture, card.quantization) == ("small", "llama", "F32")
    assert (card.heads, card.kv_heads, card.head_dim, card.rope_dim) == (2, 1, 4, 4)
    assert (card.layers, card.hidden_size, card.ffn_size, card.vocab_size) == (1, 8, 16, 6)
    assert (card.context_length, card.tied_embeddings) == (32, True)
    assert card.rope_theta == 10000.0
    assert card.norm_eps == pytest.approx(1e-5)
    assert card.weights_bytes == 4 * card.parameters


def test_what_may_be_left_out_has_the_defaults_of_the_format(opened):
    file = llama_file()
    for key in (
        "general.name",
        "llama.rope.freq_base",
        "llama.rope.dimension_count",
        "llama.vocab_size",
        "tokenizer.ggml.tokens",
    ):
        del file.keys[key]
    card = opened(file).card
    assert (card.name, card.rope_theta, card.rope_dim, card.vocab_size) == ("some", 10000, 4, 6)


@pytest.mark.parametrize(("key", "wrong"), WRONG_KEYS, ids=lambda part: str(part)[:50])
def test_a_key_of_wrong_value_or_type_is_named(opened, key, wrong):
    file = llama_file()
    file.keys[key] = wrong[1]
    with pytest.raises(BadModelFile, match=rf"'some\.gguf': key '{key}'"):
        opened(file)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(opened, key):
    file = llama_file()
    del file.keys[key]
    with pytest.raises(BadModelFile, match=rf"key '{key}': is missing"):
        opened(file)


@pytest.mark.parametrize(
    ("key", "number", "message"),
    [
        ("llama.attention.head_count", 3, "3, which does not divide width 8"),
        ("llama.attention.head_count_kv", 3, "not in 0 to 2"),
        ("llama.rope.dimension_count", 3, "odd"),
        ("llama.rope.dimension_count", 6, "not in 2 to 4"),
        ("llama.vocab_size", 7, "7, the embedding has 6 rows"),
    ],
)
def test_sizes_that_contradict_each_other(opened, key, number, message):
    file = llama_file()
    file.keys[key] = value(w.U32, number)
    with pytest.raises(BadModelFile, match=message):
        opened(file)


def test_kv_heads_must_divide_heads(opened):
    file = llama_file()
    file.keys["llama.attention.head_count"] = value(w.U32, 4)
    file.keys["llama.attention.head_count_kv"] = value(w.U32, 3)
    with pytest.raises(BadModelFile, match="3, which does not divide 4 heads"):
        opened(file)


def test_the_tokenizer_must_have_as_many_tokens_as_the_embedding_rows(opened):
    file = llama_file()
    file.keys["tokenizer.ggml.tokens"] = value(w.ARRAY, (w.STRING, ["a"]))
    with pytest.raises(BadModelFile, match="1 tokens, the embedding 6 rows"):
        opened(file)


@pytest.mark.parametrize("name", [str(one.name) for one in llama_file().tensors])
def test_a_missing_tensor_is_named(built, name):
    file = llama_file()
    file.tensors = [one for one in file.tensors if one.name != name]
    # Without a gate, the file might have fused it with ffn_up, which then has too few rows.
    with pytest.raises(BadModelFile, match=name.replace("ffn_gate", "ffn_up")):
        built(file)


@pytest.mark.parametrize("name", [str(one.name) for one in llama_file().tensors])
def test_a_tensor_of_another_shape_is_named(built, name):
    file = llama_file()
    one = tensor(file, name.removesuffix(".weight"))
    one.dims = (*one.dims[:-1], one.dims[-1] + 1)
    one.data += bytes(4 * math.prod(one.dims) - len(one.data))
    message = "tokens, the embedding" if "token_embd" in name else f"{name}.*shape"
    with pytest.raises(BadModelFile, match=message):
        built(file)


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        ("llama.rope.scaling.type", value(w.STRING, "other")),
        ("llama.attention.value_length", value(w.U32, 8)),
    ],
)
def test_what_would_change_the_result_is_not_passed_over(built, key, raw):
    file = llama_file()
    file.keys[key] = raw
    with pytest.raises(Unsupported, match=key):
        built(file)


def test_a_tensor_that_nobody_would_use_is_refused(built):
    file = llama_file()
    file.tensors.append(Tensor("blk.0.attn_q.scale", (1,), bytes(4)))
    with pytest.raises(Unsupported, match=r"blk\.0\.attn_q\.scale"):
        built(file)


def test_an_output_matrix_unties_the_embedding(opened):
    file = llama_file()
    raw = bytes(4 * VOCABULARY * HIDDEN)
    file.tensors.append(Tensor("output.weight", (HIDDEN, VOCABULARY), raw))
    checkpoint = opened(file)
    assert not checkpoint.card.tied_embeddings
    assert checkpoint.source.has("output")


def test_rows_are_stacked_as_they_are_stored(opened):
    file = llama_file()
    up = tensor(file, "blk.0.ffn_up")
    values = np.frombuffer(up.data, "<f4").reshape(FFN, HIDDEN)
    up.data, up.code = formats.get("F16").pack(values).tobytes(), 1
    weight = opened(file).source.matrix(("blk.0.ffn_gate", FFN), ("blk.0.ffn_up", FFN), k=HIDDEN)
    assert (weight.shape, weight.rows, weight.formats) == (
        (2 * FFN, HIDDEN),
        (FFN, FFN),
        ("F32", "F16"),
    )
    assert weight.parts[0].tobytes() == tensor(file, "blk.0.ffn_gate").data
    assert weight.parts[1].tobytes() == up.data
    assert not weight.parts[0].flags.writeable


@pytest.mark.parametrize("rope_dim", [2, 4])
def test_q_and_k_rows_are_put_into_half_split_order(opened, rope_dim):
    file = llama_file()
    file.keys["llama.rope.dimension_count"] = value(w.U32, rope_dim)
    stored = {
        name: np.frombuffer(tensor(file, f"blk.0.{name}").data, "<f4").reshape(-1, HIDDEN)
        for name in ("attn_q", "attn_k", "attn_v")
    }
    weight = opened(file).source.matrix(
        ("blk.0.attn_q", HIDDEN), ("blk.0.attn_k", 4), ("blk.0.attn_v", 4), k=HIDDEN
    )
    q, k, v = (part.view("<f4") for part in weight.parts)
    order = [0, 2, 1, 3] if rope_dim == HEAD_DIM else [0, 1, 2, 3]
    np.testing.assert_array_equal(q, stored["attn_q"][[*order, *(HEAD_DIM + i for i in order)]])
    np.testing.assert_array_equal(k, stored["attn_k"][order])
    np.testing.assert_array_equal(v, stored["attn_v"])


def test_vectors_become_float32_whatever_they_are_stored_as(opened):
    file = llama_file()
    norm = tensor(file, "output_norm")
    norm.data, norm.code = struct.pack("<8e", *range(8)), 1
    vector = opened(file).source.vector(("output_norm", HIDDEN))
    assert vector.dtype == np.float32
    assert vector.tolist() == list(range(8))


def test_a_vector_that_cannot_be_unpacked_is_unsupported(opened):
    file = llama_file()
    norm = tensor(file, "output_norm")
    norm.data, norm.code = bytes(8), 24  # I8
    with pytest.raises(Unsupported, match=r"output_norm\.weight.*I8.*F32, F16, BF16"):
        opened(file).source.vector(("output_norm", HIDDEN))


def test_sources_name_what_they_do_not_have(opened):
    source = opened(llama_file()).source
    with pytest.raises(BadModelFile, match=r"'output\.weight' is missing"):
        source.matrix(("output", VOCABULARY), k=HIDDEN)
    with pytest.raises(BadModelFile, match=r"output_norm\.weight.*shape \(8,\), not \(2, 8\)"):
        source.matrix(("output_norm", 2), k=HIDDEN)
    with pytest.raises(BadModelFile, match=r"token_embd\.weight.*not 8 elements"):
        source.vector(("token_embd", HIDDEN))
    with pytest.raises(BadModelFile, match=r"ffn_down\.weight.*shape \(8, 16\), not \(8, 8\)"):
        source.matrix(("blk.0.ffn_up", FFN), ("blk.0.ffn_down", HIDDEN), k=HIDDEN)


def test_the_real_model(smollm2_path):
    checkpoint = open_model(smollm2_path, models)
    card = checkpoint.card
    assert (card.layers, card.heads, card.kv_heads, card.head_dim) == (30, 9, 3, 64)
    assert (card.vocab_size, card.context_length, card.tied_embeddings) == (49152, 8192, True)
    assert (card.quantization, card.license) == ("Q4_1", "apache-2.0")
    assert len(checkpoint.metadata["tokenizer.ggml.merges"]) == 48900
    assert checkpoint.source.matrix(("blk.29.ffn_down", 576), k=1536).formats == ("Q4_1",)
