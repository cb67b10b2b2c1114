"""What a rank cuts out of a checkpoint: all ranks' shares together are the whole, bit for bit."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pagemill.checkpoint import Part, rows_of
from pagemill.errors import Unsupported
from pagemill.ops.interface import Float32, Weight
from pagemill.parallel.seat import Seat
from pagemill.parallel.share import Elsewhere, Share, TablePart, card_of
from pagemill.types import ModelCard
from pagemill.weights import formats
from pagemill.weights.keys import MetadataKeys
from tests.samples import TINY_CARD

CARD = replace(TINY_CARD, heads=8, kv_heads=4, head_dim=64, ffn_size=1024, hidden_size=64)
Q, KV = 8 * 64, 4 * 64


class Packed:
    """A checkpoint of random tensors of one format, whatever is asked for."""

    def __init__(self, form: str = "F32", keys: dict[str, Any] | None = None) -> None:
        self.form = form
        self.keys = MetadataKeys(keys or {}, "packed")
        self.layers = range(CARD.layers)
        self.norm_size = 64
        self.passed: list[str] = []

    def has(self, name: str) -> bool:
        return True

    def shape(self, name: str) -> tuple[int, ...]:
        return (self.norm_size,)

    def pass_over(self, begin: str) -> None:
        self.passed.append(begin)

    def values(self, name: str, *shape: int) -> Float32:
        seed = list(name.encode())
        return np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    def matrix(self, *parts: Part, k: int) -> Weight:
        ((name, _),) = parts
        rows = rows_of(parts[0])
        packed = formats.get_packing(self.form).pack(self.values(name, rows, k))
        return Weight((rows, k), (self.form,), (packed,), (rows,))

    def experts(self, *parts: Part, k: int, count: int) -> Iterator[Weight]:
        for expert in range(count):
            ((name, rows),) = parts
            yield self.matrix((f"{name}{expert}", rows), k=k)

    def expert_vectors(self, *parts: Part, count: int) -> Iterator[Float32]:
        for expert in range(count):
            ((name, _),) = parts
            yield self.values(f"{name}{expert}", rows_of(parts[0]))

    def vector(self, *parts: Part) -> Float32:
        return np.concatenate([self.values(part[0], rows_of(part)) for part in parts])

    def unused(self) -> Sequence[str]:
        return ()


def shares(
    tensor: int, pipeline: int = 1, card: ModelCard = CARD, whole: Packed | None = None
) -> list[Share]:
    whole = whole or Packed()
    return [Share(whole, card, Seat(rank, tensor, pipeline)) for rank in range(tensor * pipeline)]


def meaning(weight: Weight) -> Float32:
    pairs = zip(weight.formats, weight.parts, strict=True)
    return np.concatenate([formats.get(form).unpack(rows) for form, rows in pairs])


@pytest.mark.parametrize("form", ["F32", "BF16", "Q8_0", "Q4_0", "Q4_1", "MXFP4", "FP8", "Q4_K"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_rows_and_inputs(form: str, ranks: int) -> None:
    whole = Packed(form)
    of_rows = [
        meaning(share.matrix(("blk.0.ffn_up", 1024 // ranks), k=256))
        for share in shares(ranks, whole=whole)
    ]
    expected = meaning(whole.matrix(("blk.0.ffn_up", 1024), k=256))
    np.testing.assert_array_equal(np.concatenate(of_rows), expected)
    of_inputs = [
        meaning(share.matrix(("blk.0.ffn_down", 64), k=1024 // ranks))
        for share in shares(ranks, whole=whole)
    ]
    expected = meaning(whole.matrix(("blk.0.ffn_down", 64), k=1024))
    np.testing.assert_array_equal(np.concatenate(of_inputs, axis=1), expected)


def test_blocks_that_do_not_divide_are_named() -> None:
    share = shares(4, whole=Packed("Q4_K"))[0]
    with pytest.raises(Unsupported) as refused:
        share.matrix(("blk.7.ffn_down", 64), k=192)
    assert refused.value.message.startswith(
        "tensor blk.7.ffn_down: its 768 inputs are 3 Q4_K blocks of 256, which 4 ranks cannot"
    )
    assert refused.value.param == "tensor_parallel_size"


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_matrices_that_a_file_has_fused(ranks: int) -> None:
    """Each of q, k and v is cut by itself; neighbours have the same of few heads of k and v."""
    whole, heads = Packed(), max(1, 4 // ranks)
    rows = (Q // ranks, heads * 64, heads * 64)
    found = [meaning(share.matrix(("blk.0.attn_qkv", rows), k=64)) for share in shares(ranks)]
    everything = meaning(whole.matrix(("blk.0.attn_qkv", Q + 2 * KV), k=64))
    q, k, v = np.split(everything, [Q, Q + KV])
    for rank, ours in enumerate(found):
        mine = slice(rank * Q // ranks, (rank + 1) * Q // ranks)
        start = rank * 4 // ranks * 64 if ranks > 4 else rank * heads * 64
        theirs = slice(start, start + heads * 64)
        np.testing.assert_array_equal(ours, np.concatenate([q[mine], k[theirs], v[theirs]]))


def test_a_bias_behind_a_sum_is_added_once() -> None:
    outputs = [share.vector(("blk.0.ffn_down.bias", 64)) for share in shares(4)]
    np.testing.assert_array_equal(outputs[0], Packed().vector(("blk.0.ffn_down.bias", 64)))
    assert not np.any(outputs[1:])
    inner = [share.vector(("blk.0.ffn_up.bias", 256)) for share in shares(4)]
    expected = Packed().vector(("blk.0.ffn_up.bias", 1024))
    np.testing.assert_array_equal(np.concatenate(inner), expected)


def test_experts_like_other_layers() -> None:
    up = [list(share.experts(("up_exps", 4), k=8, count=2)) for share in shares(2)]
    assert [len(experts) for experts in up] == [2, 2]  # nothing is known of this name: whole
    np.testing.assert_array_equal(meaning(up[0][1]), meaning(up[1][1]))
    name = "blk.0.ffn_gate_exps"
    gates = [list(share.experts((name, 4), k=8, count=2)) for share in shares(2)]
    for expert in range(2):
        both = np.concatenate([meaning(of_rank[expert]) for of_rank in gates])
        np.testing.assert_array_equal(both, Packed().values(f"{name}{expert}", 8, 8))
    name = "blk.0.ffn_down_exps.bias"
    biases = [list(share.expert_vectors((name, 8), count=2)) for share in shares(2)]
    np.testing.assert_array_equal(biases[0][1], Packed().values(f"{name}1", 8))
    assert not np.any(biases[1])


@pytest.mark.parametrize("vocabulary", [48, 50, 51])
def test_tables_by_rows_of_the_vocabulary(vocabulary: int) -> None:
    parts = [share.matrix(("token_embd", vocabulary), k=8) for share in shares(4)]
    whole = Packed().matrix(("token_embd", vocabulary), k=8)
    assert all(isinstance(part, TablePart) for part in parts)
    np.testing.assert_array_equal(np.concatenate([meaning(part) for part in parts]), meaning(whole))
    assert [part.first for part in parts] == [rank * vocabulary // 4 for rank in range(4)]
    assert {part.of for part in parts} == {vocabulary}


def test_norms_of_each_head_are_whole_and_those_of_all_heads_are_cut() -> None:
    whole = Packed()
    for share in shares(4, whole=whole):
        np.testing.assert_array_equal(
            share.vector(("blk.0.attn_q_norm", 64)), whole.vector(("blk.0.attn_q_norm", 64))
        )
    whole.norm_size = KV
    parts = [share.vector(("blk.0.attn_k_norm", 64)) for share in shares(4, whole=whole)]
    expected = whole.vector(("blk.0.attn_k_norm", KV))
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_a_share_is_no_view_of_the_whole() -> None:
    """So that the whole can go."""
    share = shares(2)[1]
    for weight in (
        share.matrix(("blk.0.ffn_up", 512), k=64),
        share.matrix(("blk.0.ffn_down", 64), k=512),
        share.matrix(("output", 48), k=64),
    ):
        (rows,) = weight.parts
        owner = rows if rows.base is None else rows.base
        assert owner.nbytes == rows.nbytes


def test_stages_have_runs_of_layers_and_their_own_tables() -> None:
    card = replace(CARD, layers=7, tied_embeddings=False)
    first, middle, last = shares(1, 3, card)
    assert [list(share.layers) for share in (first, middle, last)] == [[0, 1], [2, 3], [4, 5, 6]]
    for name, owners in (
        ("token_embd", [first]),
        ("position_embd", [first]),
        ("output", [last]),
    ):
        for share in (first, middle, last):
            table = share.matrix((name, 48), k=8)
            assert isinstance(table, Elsewhere) == (share not in owners), name


def test_a_tied_head_needs_the_embedding_at_both_ends() -> None:
    tables = [share.matrix(("token_embd", 48), k=8) for share in shares(1, 3)]
    assert [isinstance(table, Elsewhere) for table in tables] == [False, True, False]


def test_layers_of_others_count_as_asked_for() -> None:
    whole = Packed()
    Share(whole, replace(CARD, layers=3), Seat(1, 1, 3))
    assert sorted(whole.passed) == ["blk.0.", "blk.2."]


def test_cards() -> None:
    card = card_of(CARD, Seat(3, 8))
    assert (card.heads, card.kv_heads, card.ffn_size) == (1, 1, 128)
    assert (card.head_dim, card.vocab_size, card.layers) == (64, CARD.vocab_size, CARD.layers)


def test_settings_that_are_sizes_are_those_of_a_rank() -> None:
    keys = {
        "expert_feed_forward_length": [96, 48],
        "ssm.inner_size": 64,
        "ssm.group_count": 4,
        "attention.head_count_kv": [4, 0],
        "context_length": 512,
    }
    share = shares(4, whole=Packed(keys=keys))[2].keys
    assert share.wholes("expert_feed_forward_length", 2, 0, 24) == (24, 12)
    assert share.whole("ssm.inner_size", 1, 16) == 16
    assert share.whole("ssm.group_count", 1, 8) == 1
    assert share.wholes("attention.head_count_kv", 2, 0, 2) == (1, 0)
    assert share.whole("context_length", 1, 512) == 512
    assert share.whole("expert_shared_feed_forward_length", 1, 9, 7) == 7, "a default is cut"
    with pytest.raises(Unsupported, match="is 50, which 4 ranks cannot divide"):
        shares(4, whole=Packed(keys={"ssm.inner_size": 50}))[0].keys.whole("ssm.inner_size", 1, 99)
