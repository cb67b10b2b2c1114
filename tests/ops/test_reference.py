"""The definition of the operations: its own properties, since nothing else can judge it."""

from dataclasses import replace

import numpy as np
import pytest

from pagemill.errors import Unsupported
from pagemill.ops.interface import Rope, Scoring, Step, Weight
from pagemill.ops.reference import ReferenceOps, philox, uniform
from tests.fakes import f32_weight
from tests.ops.cases import Case, Knobs, all_cases, check, normal, ragged_step, sample_rows

OPS = ReferenceOps()
RNG = np.random.default_rng(5)


def ids(logits: list[list[float]], knobs: list[Knobs]) -> list[int]:
    return OPS.sample(np.array(logits, np.float32), sample_rows(knobs)).ids.tolist()


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_every_case_runs_and_repeats(case: Case) -> None:
    check(case, OPS)
    assert all(np.isfinite(output).all() for output in case.outputs(OPS))


def test_case_names_are_unique() -> None:
    names = [case.name for case in all_cases()]
    assert len(set(names)) == len(names)


def test_linear_is_the_matrix_product_of_what_the_bytes_mean() -> None:
    a, b, x = normal(RNG, 3, 8), normal(RNG, 2, 8), normal(RNG, 4, 8)
    got = OPS.linear(x, OPS.upload(f32_weight(a, b)))
    np.testing.assert_allclose(got, x @ np.concatenate([a, b]).T, rtol=1e-5, atol=1e-6)


def test_upload_lists_the_formats_that_exist() -> None:
    strange = Weight((1, 1), ("Q9_9",), (np.zeros(1, np.uint8),), (1,))
    with pytest.raises(Unsupported, match=r"Q9_9.*Q8_0"):
        OPS.upload(strange)


@pytest.mark.parametrize("op", ["linear", "rms_norm", "act_mul", "rope"])
def test_a_row_does_not_depend_on_how_many_share_the_call(op: str) -> None:
    matrix, scale = normal(RNG, 65, 64), normal(RNG, 64)
    positions = np.arange(40, dtype=np.int32)
    rope = Rope(tuple(0.5**i for i in range(8)))
    x = normal(RNG, 40, 64)

    def call(rows: slice) -> np.ndarray:
        match op:
            case "linear":
                return OPS.linear(x[rows], matrix)
            case "rms_norm":
                return OPS.rms_norm(x[rows], scale, 1e-5)
            case "act_mul":
                return OPS.act_mul(x[rows], "silu")
            case _:
                return OPS.rope(x[rows].reshape(-1, 4, 16), positions[rows], rope)

    together = call(slice(0, 40))
    for rows in (slice(0, 1), slice(7, 8), slice(39, 40), slice(3, 20)):
        np.testing.assert_array_equal(call(rows), together[rows])


def test_a_token_attends_the_same_however_its_prompt_is_cut() -> None:
    pages = RNG.permutation(12).astype(np.int32)
    q, k, v = normal(RNG, 23, 4, 8), normal(RNG, 23, 2, 8), normal(RNG, 23, 2, 8)

    def attend(cuts: list[int], page_size: int) -> np.ndarray:
        kv = OPS.new_kv(1, 64, page_size, 2, 8)
        table = np.arange(64, dtype=np.int32) if page_size == 1 else pages
        done, out = 0, []
        for cut in cuts:
            step = ragged_step([done], [cut], table, page_size)
            rows = slice(done, done + cut)
            out.append(OPS.attention(q[rows], k[rows], v[rows], kv[0], step, Scoring(0.3)))
            done += cut
        return np.concatenate(out)

    whole = attend([23], 16)
    for cuts in ([1] * 23, [7, 7, 7, 2], [22, 1]):
        for page_size in (1, 4, 16):
            np.testing.assert_array_equal(attend(cuts, page_size), whole)


def test_attention_is_causal_softmax() -> None:
    q, k, v = normal(RNG, 6, 4, 8), normal(RNG, 6, 2, 8), normal(RNG, 6, 2, 8)
    step = ragged_step([0], [6], np.array([1, 0], np.int32), 4)
    got = OPS.attention(q, k, v, OPS.new_kv(1, 2, 4, 2, 8)[0], step, Scoring(0.5))
    for t in range(6):
        for head in range(4):
            scores = np.exp(k[: t + 1, head // 2].astype(np.float64) @ q[t, head] * 0.5)
            want = scores @ v[: t + 1, head // 2] / scores.sum()
            np.testing.assert_allclose(got[t, head], want, rtol=1e-4, atol=1e-5)


def test_all_rows_write_before_any_row_attends() -> None:
    """What lets a sequence share a page that another fills in the very same step."""
    k, v = normal(RNG, 5, 1, 8), normal(RNG, 5, 1, 8)
    first = ragged_step([0], [4], np.array([3], np.int32), 4)
    shared = Step(
        token_ids=np.zeros(5, np.int32),
        positions=np.array([4, 0, 1, 2, 3], np.int32),
        slots=np.array([0, 12, 13, 14, 15], np.int32),
        row_starts=np.array([0, 1, 5], np.int32),
        kv_lens=np.array([5, 4], np.int32),
        page_table=np.array([[3, 0], [3, 0]], np.int32),  # the reader's row stands first
        out_rows=np.array([0, 4], np.int32),
        page_size=4,
    )
    q = normal(RNG, 5, 1, 8)
    got = OPS.attention(q, k, v, OPS.new_kv(1, 4, 4, 1, 8)[0], shared, Scoring(1.0))
    kv = OPS.new_kv(1, 4, 4, 1, 8)
    OPS.attention(q[1:], k[1:], v[1:], kv[0], first, Scoring(1.0))
    later = replace(
        ragged_step([4], [1], np.array([3, 0], np.int32), 4), slots=np.zeros(1, np.int32)
    )
    np.testing.assert_array_equal(
        got[:1], OPS.attention(q[:1], k[:1], v[:1], kv[0], later, Scoring(1.0))
    )


def test_rope_turns_pairs_and_leaves_the_rest() -> None:
    rope = Rope((1.0, 0.1))
    x = normal(RNG, 3, 2, 6)
    positions = np.array([0, 1, 50], np.int32)
    got = OPS.rope(x, positions, rope)
    np.testing.assert_array_equal(got[0], x[0])
    np.testing.assert_array_equal(got[..., 4:], x[..., 4:])
    turned = (x[..., :2] + 1j * x[..., 2:4]) * np.exp(1j * np.outer(positions, [1, 0.1]))[:, None]
    np.testing.assert_allclose(got[..., :2] + 1j * got[..., 2:4], turned, atol=1e-5)


def test_rope_grows_by_a_step_each_period() -> None:
    plain, x = Rope((1.0, 0.1), 0.8), normal(RNG, 4, 2, 4)
    positions = np.array([0, 9, 10, 35], np.int32)
    got = OPS.rope(x, positions, replace(plain, growth=0.5, period=10))
    want = OPS.rope(x, positions, plain)
    np.testing.assert_array_equal(got[:2], want[:2])
    factors = 1 + 0.5 * np.log([2, 4])
    np.testing.assert_allclose(got[2:], want[2:] * factors[:, None, None], rtol=0, atol=1e-5)


def test_philox_gives_the_published_words() -> None:
    """Known answers of the authors' library (Random123, kat_vectors)."""
    ones = 0xFFFFFFFF
    assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox((ones,) * 4, (ones,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    assert philox((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)) == (
        0xD16CFE09,
        0x94FDCCEB,
        0x5001E420,
        0x24126EA1,
    )


def test_noise_differs_by_seed_and_by_position() -> None:
    drawn = {uniform(seed, at) for seed in (0, 1, 2**32, 2**64 - 1) for at in range(50)}
    assert len(drawn) == 200 and all(0 <= u < 1 for u in drawn)


def test_draws_follow_the_distribution() -> None:
    p = np.array([0.5, 0.25, 0.2, 0.05])
    knobs = [Knobs(seed=3, position=i) for i in range(4000)]
    counts = np.bincount(ids([np.log(p).tolist()] * 4000, knobs), minlength=4) / 4000
    np.testing.assert_allclose(counts, p, atol=0.02)


def test_greedy_ties_go_to_the_lowest_id() -> None:
    assert ids([[1, 3, 3, 2]], [Knobs(temperature=0)]) == [1]


def reachable(logits: list[float], knobs: Knobs) -> set[int]:
    """All ids that some noise picks."""
    many = [replace(knobs, position=i) for i in range(400)]
    return set(ids([logits] * 400, many))


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        (Knobs(), {0, 1, 2, 3}),
        (Knobs(top_k=1), {1}),
        (Knobs(top_k=2), {1, 2}),  # 2 and 3 are equal: the lower id stays
        (Knobs(top_k=4), {0, 1, 2, 3}),
        (Knobs(top_p=0.4), {1}),  # p = 0.1, 0.4, 0.25, 0.25
        (Knobs(top_p=0.5), {1, 2}),
        (Knobs(top_p=0.89), {1, 2, 3}),
        (Knobs(top_p=1e-9), {1}),
        (Knobs(min_p=0.6), {1, 2, 3}),
        (Knobs(min_p=1.0), {1}),
        (Knobs(top_k=3, top_p=0.44), {1}),  # top_p of what top_k kept: 0.44 * 0.9 < 0.4
        (Knobs(edits=((1, 1.0, -float("inf")),)), {0, 2, 3}),
        (Knobs(temperature=0.01), {1}),
    ],
)
def test_filters_keep_what_they_say(knobs: Knobs, expected: set[int]) -> None:
    logits = np.log([0.1, 0.4001, 0.25, 0.25]).tolist()
    assert reachable(logits, knobs) == expected


def test_edits_multiply_toward_less_likely_then_add() -> None:
    logits = [[2.0, -1.0, 0.5]]
    greedy = Knobs(temperature=0)
    assert ids(logits, [replace(greedy, edits=((0, 8.0, 0.0),))]) == [2]
    assert ids(logits, [replace(greedy, edits=((1, 0.5, 3.0),))]) == [1]
    assert ids(logits, [replace(greedy, edits=((1, 3.0, 3.0),))]) == [0]


def test_logprobs_are_of_the_logits_before_edits() -> None:
    logits = np.array([[1.0, 2.0, 0.0, 2.0]], np.float32)
    knobs = [Knobs(temperature=0, num_logprobs=3, edits=((0, 1.0, 50.0),))]
    result = OPS.sample(logits, sample_rows(knobs))
    want = logits[0] - np.log(np.exp(logits[0]).sum())
    assert result.ids.tolist() == [0] and result.top_ids.tolist() == [[1, 3, 0]]
    np.testing.assert_allclose(result.logprobs, want[:1], atol=1e-6)
    np.testing.assert_allclose(result.top_logprobs[0], want[[1, 3, 0]], atol=1e-6)


def test_sampling_leaves_the_logits_alone() -> None:
    logits = normal(RNG, 2, 9)
    before = logits.copy()
    OPS.sample(logits, sample_rows([Knobs(edits=((1, 2.0, 3.0),), top_p=0.5, min_p=0.1)] * 2))
    np.testing.assert_array_equal(logits, before)
