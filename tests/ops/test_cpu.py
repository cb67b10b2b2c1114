"""The native backend against the reference, for every instruction set this machine can run."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import Bf16AttentionReference, Q8CacheReference
from pagemill.errors import EngineFailure, Unsupported
from pagemill.ops.interface import Array, Rope, Routing, Scoring, Step, Weight
from pagemill.ops.reference import ReferenceOps, uniform
from pagemill.weights import formats
from pagemill.weights.formats import nf4, tables
from tests.ops.case import ROUNDED_ACTIVATIONS, whole_step
from tests.ops.cases import BLOCKS, Case, all_cases, check, normal, ragged_step, weight
from tests.weights.quantized_files import Golden

_native = pytest.importorskip("pagemill._native", reason="the native kernels are not built")
cpu = pytest.importorskip("pagemill.ops.cpu")

MINIMA = ("Q5_1", "Q4_1", "Q5_K", "Q4_K", "Q2_K")  # formats with an offset beside the scale
BF16_WEIGHTS = 5e-3  # what rounding the weights of values moves
Q8_TIES = 1e-2  # what one rounding the other way moves
NATIVE_PAGES = 16  # sizes of pages are multiples of this
ISAS = _native.instruction_sets()
BF16_ISA = "avx512_bf16"  # the one that multiplies bf16 in attention
CASES = [case for case in all_cases() if case.page_size % NATIVE_PAGES == 0]


@pytest.fixture(params=ISAS)
def ops(request: pytest.FixtureRequest) -> cpu.CpuOps:
    return cpu.CpuOps(threads=2, isa=request.param)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(ops: cpu.CpuOps, case: Case) -> None:
    if ops.isa == BF16_ISA and case.op in ("attention", "latent_attention"):
        check(case, ops, Bf16AttentionReference(), BF16_WEIGHTS)
    else:
        check(case, ops)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.op in ("attention", "latent_attention")],
    ids=lambda case: case.name,
)
def test_attention_over_a_q8_cache(ops: cpu.CpuOps, case: Case) -> None:
    """Queries and weights have 14 bits and more: the reference that rounds keys and values is met
    closely, but for elements of which the last bit decides how they are rounded."""
    if "16+4" in case.name or "40+8" in case.name:
        with pytest.raises(Unsupported, match="no multiple of 32; --kv-cache-dtype f16"):
            case.outputs(cpu.CpuOps(2, ops.isa, "q8"))
        return
    got = case.outputs(cpu.CpuOps(2, ops.isa, "q8"))
    for ours, want in zip(got, case.outputs(Q8CacheReference()), strict=True):
        scale = np.abs(want).max()
        np.testing.assert_allclose(ours, want, 0, Q8_TIES * scale, err_msg=case.name)
        assert np.median(np.abs(ours - want)) < 1e-4 * scale


@pytest.mark.parametrize("tokens", [19, 20])
@pytest.mark.parametrize("kv_dtype", ["f16", "q8"])
def test_what_is_no_number_harms_nobody_who_does_not_see_it(
    ops: cpu.CpuOps, kv_dtype: str, tokens: int
) -> None:
    """A page goes from one sequence to the next with what was in it."""
    ops, rng = cpu.CpuOps(2, ops.isa, kv_dtype), np.random.default_rng(3)
    q, k, v = normal(rng, 3, tokens, 1, 64)
    page = np.array([0, 1], np.int32)

    def run(kv: Array) -> np.ndarray:
        step = ragged_step([0], [tokens], page, 16)
        return np.asarray(ops.attention(q, k, v, kv[0], step, Scoring(0.2)))

    clean, dirty = ops.new_kv(1, 2, 16, 1, 64), ops.new_kv(1, 2, 16, 1, 64)
    for bad in (np.nan, np.inf):
        broken = np.full((32, 1, 64), bad, np.float32)
        step = ragged_step([0], [32], page, 16)
        ops.attention(broken, broken, broken, dirty[0], step, Scoring(0.2))
        assert np.array_equal(run(dirty), run(clean))


def _takes_memory_ahead() -> bool:
    if sys.platform != "linux":
        return False
    major, minor = platform.release().split(".")[:2]
    return (int(major), int(re.findall(r"\d+", minor)[0])) >= (5, 14)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(not _takes_memory_ahead(), reason="this system has no such call")
def test_prepared_pages_have_their_memory_and_keep_what_they_hold() -> None:
    ops, rng = cpu.CpuOps(2), np.random.default_rng(3)
    kv = ops.new_kv(4, 4096, 16, 4, 64)  # 256 MiB
    page_bytes = kv.nbytes // 4096
    q, k, v = normal(rng, 3, 20, 4, 64)

    def attend() -> np.ndarray:
        step = ragged_step([0], [20], np.array([3, 7], np.int32), 16)
        return np.asarray(ops.attention(q, k, v, kv[0], step, Scoring(0.2)))

    before, resident = attend(), _resident_bytes()
    assert kv.prepare(0, 1024)
    assert _resident_bytes() - resident > 900 * page_bytes
    assert np.array_equal(attend(), before)
    resident = _resident_bytes()
    assert kv.prepare(0, 1024) and kv.prepare(-5, 0) and kv.prepare(4096, 5000)
    assert _resident_bytes() - resident < 8 * page_bytes, "there was nothing to take"


def test_the_portable_kernels_are_always_there() -> None:
    assert ISAS[-1] == "portable"


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", *BLOCKS])
def test_a_row_does_not_depend_on_the_batch(ops: cpu.CpuOps, name: str) -> None:
    rng = np.random.default_rng(3)
    k = 1120 if formats.get(name).BLOCK_SIZE <= 32 else 1280  # sums of 1,024 are added up
    matrix = ops.upload(weight(rng, k, (name, 50)))
    x = normal(rng, 21, k)
    together = ops.linear(x, matrix)
    for count in (*range(1, 8), 12, 13):
        assert np.array_equal(ops.linear(x[:count], matrix), together[:count])


@pytest.mark.parametrize("name", ["F32", "BF16", *BLOCKS])
def test_a_sampled_row_does_not_depend_on_the_batch(ops: cpu.CpuOps, name: str) -> None:
    """What is sampled goes into the head with two planes of int8."""
    rng = np.random.default_rng(4)
    k = 1120 if formats.get(name).BLOCK_SIZE <= 32 else 1280
    table = ops.upload(weight(rng, k, ("F32", 21)), table=True)
    head = ops.upload(weight(rng, k, (name, 50)))

    def model(step: Step, kv: Array) -> Array:
        return ops.linear(ops.embed(step.token_ids, table)[step.out_rows], head)

    run = ops.compile(model)
    ids = np.arange(21, dtype=np.int32)
    together = np.array(run(whole_step([1] * 21, token_ids=ids), None))
    for count in (*range(1, 8), 12, 13):
        step = whole_step([1] * count, token_ids=ids[:count])
        assert np.array_equal(run(step, None), together[:count])


@pytest.mark.parametrize("name", BLOCKS)
def test_packed_weights_mean_what_the_file_means(ops: cpu.CpuOps, name: str) -> None:
    """To the last bit where a value is one product; minima are added in another order."""
    size = formats.get(name).BLOCK_SIZE
    matrix = weight(np.random.default_rng(11), 9 * size, (name, 53))
    want = formats.get(name).unpack(matrix.parts[0].reshape(53, -1))
    got = ops.embed(np.arange(53, dtype=np.int32), ops.upload(matrix, table=True))
    last_bits = 1e-6 if name in MINIMA else 0
    np.testing.assert_allclose(got, want, 0, last_bits * np.abs(want).max())


def test_the_table_of_nf4_is_off_by_little(ops: cpu.CpuOps) -> None:
    rng = np.random.default_rng(12)
    raw = tables.from_parts(
        rng.integers(0, 16, (7, 320), np.uint8), rng.uniform(0.01, 9, (7, 10)).astype(np.float32)
    )
    want, scales = nf4.unpack(raw), raw.reshape(7, 10, 20)[:, :, :4].copy().view(np.float32)
    matrix = ops.upload(Weight((7, 320), ("NF4",), (raw,), (7,)), table=True)
    error = np.asarray(ops.embed(np.arange(7, dtype=np.int32), matrix)) - want
    relative = np.abs(error).reshape(7, 10, 32) / scales
    assert 0.001 < np.sqrt(np.mean(relative**2)) < 0.002 and relative.max() < 0.0045


@pytest.mark.parametrize("name", ["gptq_4", "gptq_8", "fbgemm", "nf4"])
def test_formats_of_quantized_folders(ops: cpu.CpuOps, tmp_path: Path, name: str) -> None:
    """The nearest formats that have kernels take the place of those that have none."""
    form, rows = Golden(name).matrix(tmp_path).read()
    matrix = Weight((len(rows), 128), (form,), (rows,), (len(rows),))
    x = normal(np.random.default_rng(3), 5, 128)
    reference = ReferenceOps()
    want = reference.linear(x, reference.upload(matrix))
    got = ops.linear(x, ops.upload(matrix))
    np.testing.assert_allclose(got, want, 0, ROUNDED_ACTIVATIONS * np.abs(want).max())


@pytest.mark.parametrize(
    "scoring", [Scoring(0.2), Scoring(0.2, window=40), Scoring(0.4, window=1050, softcap=3.0)]
)
@pytest.mark.parametrize("kv_dtype", ["f16", "f32", "q8"])
def test_attention_does_not_depend_on_the_batch(
    ops: cpu.CpuOps, scoring: Scoring, kv_dtype: str
) -> None:
    """Eighty tokens at once, in two pieces, and one by one, over a history of several segments."""
    ops = cpu.CpuOps(2, ops.isa, kv_dtype)
    rng = np.random.default_rng(4)
    total, pages = 1100, rng.permutation(80).astype(np.int32)
    q, k, v = (normal(rng, total, heads, 24) for heads in (6, 2, 2))
    sinks = ops.vector(normal(rng, 6)) if scoring.window else None

    def run(cuts: list[int]) -> np.ndarray:
        kv, done, rows = ops.new_kv(1, 80, 16, 2, 24), 0, []
        for end in cuts:
            step = ragged_step([done], [end - done], pages, 16)
            part = slice(done, end)
            rows.append(ops.attention(q[part], k[part], v[part], kv[0], step, scoring, sinks))
            done = end
        return np.concatenate(rows)

    whole = run([total])
    assert np.array_equal(run([1019, 1021, total]), whole)
    assert np.array_equal(run([1000, *range(1001, total + 1)]), whole)


def sequence_of(ops: cpu.CpuOps, rng: np.random.Generator, total: int) -> Callable[..., np.ndarray]:
    """A layer's convolution and recurrence of one sequence, cut into steps, beside other rows that
    bring one token each."""
    x, b, c = (normal(rng, total, heads, dim) for heads, dim in ((3, 40), (1, 24), (1, 24)))
    a, d = ops.vector(-np.ones(3, np.float32)), ops.vector(normal(rng, 3))
    weight, bias = ops.vector(normal(rng, 120 * 4)), ops.vector(normal(rng, 120))
    dt = normal(rng, total, 3)

    def run(cuts: list[int], others: int = 0) -> np.ndarray:
        conv, scan = (ops.new_state(1, others + 1, size)[0] for size in (3 * 120, 3 * 40 * 24))
        rows, done = [], 0
        for end in cuts:
            pages = np.arange(20 * (others + 1), dtype=np.int32)
            step = ragged_step([0] * others + [done], [1] * others + [end - done], pages, 16)
            slots = [[-1, slot] for slot in range(others)] + [[others if done else -1, others]]
            step = replace(step, state_slots=np.array(slots, np.int32))
            part = [0] * others + list(range(done, end))
            y = ops.short_conv(x[part].reshape(-1, 120), weight, bias, conv, step)
            y = ops.mamba2(y.reshape(-1, 3, 40), dt[part], b[part], c[part], a, d, scan, step)
            rows.append(y[others:])
            done = end
        return np.concatenate(rows)

    return run


def test_a_sequence_does_not_depend_on_steps_or_batch(ops: cpu.CpuOps) -> None:
    run = sequence_of(ops, np.random.default_rng(9), 300)
    whole = run([300])
    assert np.array_equal(run([3, 10, 11, 12, 140, 300]), whole)
    assert np.array_equal(run([7, 100, 300], others=9), whole)
    assert np.array_equal(run(list(range(1, 301))), whole)


def test_a_state_outside_the_slots_is_refused(ops: cpu.CpuOps) -> None:
    x, state = normal(np.random.default_rng(2), 1, 8), ops.new_state(1, 3, 24)[0]
    weight = ops.vector(np.ones(32, np.float32))
    for slots in ([3, 0], [-2, 0], [0, 3], [0, -1]):
        step = whole_step([1], state_slots=np.array([slots], np.int32))
        with pytest.raises(EngineFailure, match="state slot is outside"):
            ops.short_conv(x, weight, None, state, step)
    with pytest.raises(EngineFailure, match="needs state_slots"):
        ops.short_conv(x, weight, None, state, whole_step([1]))
    with pytest.raises(ValueError, match="state is of another size"):
        ops.short_conv(x, ops.vector(np.ones(8, np.float32)), None, state, whole_step([1]))


@pytest.mark.parametrize("window", [0, 30])
def test_a_text_attends_the_same_alone(ops: cpu.CpuOps, window: int) -> None:
    """Also one of more tokens than share a task, or a segment."""
    rng, lens, scoring = np.random.default_rng(8), [3, 1090, 40], Scoring(0.3, window)
    q, k, v = (normal(rng, sum(lens), heads, 24) for heads in (6, 2, 2))
    together = ops.dense_attention(q, k, v, whole_step(lens), scoring)
    want = ReferenceOps().dense_attention(q, k, v, whole_step(lens), scoring)
    np.testing.assert_allclose(together, want, rtol=0, atol=1e-5)
    start = 0
    for n in lens:
        part = slice(start, start + n)
        alone = ops.dense_attention(q[part], k[part], v[part], whole_step([n]), scoring)
        assert np.array_equal(alone, together[part])
        start += n


@pytest.mark.parametrize("name", ["F32", "Q8_0"])
def test_a_mixture_does_not_depend_on_the_batch(ops: cpu.CpuOps, name: str) -> None:
    """Experts meet other rows in every step; a matrix for each head as well."""
    rng = np.random.default_rng(9)
    gate_up, down = (
        [ops.upload(weight(rng, k, (name, n))) for _ in range(8)] for k, n in ((64, 192), (96, 64))
    )
    heads = ops.upload(weight(rng, 32, (name, 2 * 24)))
    x, router = normal(rng, 33, 64), normal(rng, 33, 8)
    together = ops.experts(x, router, Routing(3), gate_up, down)
    by_head = ops.linear_heads(x.reshape(33, 2, 32), heads)
    for part in (slice(0, 1), slice(3, 5), slice(5, 18), slice(30, 33)):
        alone = ops.experts(x[part], router[part], Routing(3), gate_up, down)
        assert np.array_equal(alone, together[part])
        assert np.array_equal(ops.linear_heads(x[part].reshape(-1, 2, 32), heads), by_head[part])


def test_routes_of_what_is_not_a_number_harm_nobody(ops: cpu.CpuOps) -> None:
    rng = np.random.default_rng(10)
    matrices = [[ops.upload(weight(rng, 32, ("F32", n))) for _ in range(4)] for n in (64, 32)]
    x, router = normal(rng, 3, 32), normal(rng, 3, 4)
    want = ops.experts(x, router, Routing(2), *matrices)
    router[1] = np.nan
    got = ops.experts(x, router, Routing(2), *matrices)
    assert np.array_equal(got[[0, 2]], want[[0, 2]])


@pytest.mark.parametrize("name", ["F32", "Q8_0"])
def test_products_with_what_follows_do_not_depend_on_the_batch(ops: cpu.CpuOps, name: str) -> None:
    rng = np.random.default_rng(6)
    table = ops.upload(weight(rng, 96, ("F32", 40)), table=True)
    wide, back = (ops.upload(weight(rng, k, (name, n))) for k, n in ((96, 160), (160, 192)))
    first, second = ops.vector(normal(rng, 160)), ops.vector(normal(rng, 192))

    def model(step: Step, kv: Array) -> Array:
        x = ops.embed(step.token_ids, table)
        y = ops.act(ops.bias(ops.linear(x, wide), first), "gelu")
        z = ops.act_mul(ops.bias(ops.linear(y, back), second), "silu")
        return ops.layer_norm(ops.scale(z, 3.0) + x, second_half, None, 1e-5)

    second_half = ops.vector(normal(rng, 96))
    run, kv = ops.compile(model), ops.new_kv(1, 4, 16, 1, 16)
    ids = rng.integers(0, 40, 37).astype(np.int32)

    def at(part: slice) -> np.ndarray:
        tokens = ids[part]
        return np.array(run(whole_step([len(tokens)], token_ids=tokens), kv))

    together = at(slice(None))
    for part in (slice(0, 1), slice(3, 5), slice(30, 37), slice(5, 18)):
        assert np.array_equal(at(part), together[part])


def test_attention_over_segments_agrees_with_the_reference(ops: cpu.CpuOps) -> None:
    rng = np.random.default_rng(5)
    pages = rng.permutation(140).astype(np.int32)
    step = ragged_step([0], [2200], pages, 16)
    q, k, v = (normal(rng, 2200, heads, 16) for heads in (2, 1, 1))
    results = []
    for backend in (ops, Bf16AttentionReference() if ops.isa == BF16_ISA else ReferenceOps()):
        kv = backend.new_kv(1, 140, 16, 1, 16)
        results.append(np.asarray(backend.attention(q, k, v, kv[0], step, Scoring(0.25))))
    np.testing.assert_allclose(*results, rtol=0, atol=5e-3 if ops.isa == BF16_ISA else 2e-3)


def test_a_rotary_table_grows(ops: cpu.CpuOps) -> None:
    rope, x = Rope((1.0, 0.01)), normal(np.random.default_rng(1), 2, 1, 4)
    positions = np.array([5, 7000], np.int32)
    want = ReferenceOps().rope(x, positions, rope)
    np.testing.assert_allclose(ops.rope(x, positions, rope), want, atol=1e-5)


def test_noise_is_the_reference_noise() -> None:
    for seed, position in [(0, 0), (1, 2), (2**64 - 1, 2**31 - 1), (2**32, 77)]:
        assert _native.uniform(seed, position) == np.float32(uniform(seed, position))


def test_a_row_of_nothing_but_nan_has_no_answer_and_harms_nobody(ops: cpu.CpuOps) -> None:
    from tests.ops.cases import Knobs, sample_rows

    logits = np.array([[1, 2, 0], [np.nan] * 3, [0, 1, 3]], np.float32)
    sampled = ops.sample(logits, sample_rows([Knobs(0), Knobs(1), Knobs(0)]))
    assert sampled.ids.tolist() == [1, -1, 2]


def test_unknown_formats_list_what_exists(ops: cpu.CpuOps) -> None:
    strange = Weight((1, 32), ("Q9_9",), (np.zeros(10, np.uint8),), (1,))
    with pytest.raises(Unsupported, match=r"Q9_9.*Q8_0"):
        ops.upload(strange)


def test_a_step_that_would_read_outside_the_cache_is_refused(ops: cpu.CpuOps) -> None:
    rng = np.random.default_rng(2)
    kv = ops.new_kv(1, 2, 16, 1, 16)
    q = k = v = normal(rng, 3, 1, 16)
    step = ragged_step([0], [3], np.array([2], np.int32), 16)
    with pytest.raises(EngineFailure, match="outside the cache"):
        ops.attention(q, k, v, kv[0], step, Scoring(1.0))


def test_ids_that_lie_outside_their_tables_are_refused(ops: cpu.CpuOps) -> None:
    rng = np.random.default_rng(7)
    table = ops.upload(weight(rng, 32, ("F32", 5)), table=True)
    step = whole_step([6], token_types=np.array([0, 0, 0, 0, 0, -1], np.int32))

    def model_of(name: str) -> Callable[[Step, Array], Array]:
        return lambda step, kv: ops.embed(getattr(step, name), table)

    with pytest.raises(EngineFailure, match=r"position is outside.*5 of 5"):
        ops.compile(model_of("positions"))(step, None)
    with pytest.raises(EngineFailure, match=r"token type is outside.*-1 of 5"):
        ops.compile(model_of("token_types"))(step, None)
    with pytest.raises(EngineFailure, match="needs token_types"):
        ops.compile(model_of("token_types"))(whole_step([6]), None)


def test_unknown_instruction_sets_list_the_choices() -> None:
    with pytest.raises(ValueError, match=r"choices: auto.*portable"):
        cpu.CpuOps(isa="sse9")
