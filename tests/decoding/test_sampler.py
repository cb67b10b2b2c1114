"""From sampling parameters to the flat arrays of the sample op."""

import numpy as np
import pytest

from pagemill.decoding.sampler import Sampler, SamplingState
from pagemill.types import Request, SamplingParams

Edits = dict[int, tuple[float, float]]


def state(
    params: SamplingParams,
    prompt: tuple[int, ...] = (1, 2, 2),
    *,
    min_tokens: int = 0,
    stop_ids: tuple[int, ...] = (),
) -> SamplingState:
    request = Request("r", prompt, 100, params, min_tokens=min_tokens, stop_ids=stop_ids)
    return SamplingState(request)


def edits(of: SamplingState) -> Edits:
    """What changes, by id; entries that change nothing are left out."""
    ids, mul, add = of.edits()
    assert len(set(ids.tolist())) == len(ids), "an id occurs once"
    rows = zip(ids.tolist(), mul.tolist(), add.tolist(), strict=True)
    return {id_: (m, a) for id_, m, a in rows if (m, a) != (1, 0)}


def test_plain_parameters_have_no_edits() -> None:
    plain = state(SamplingParams(top_k=4, seed=9))
    plain.push(7)
    assert plain.plain and edits(plain) == {}


def test_repetition_counts_prompt_and_answer() -> None:
    of = state(SamplingParams(repetition_penalty=1.5))
    assert edits(of) == {1: (1.5, 0), 2: (1.5, 0)}
    of.push(9)
    of.push(2)
    assert edits(of) == {1: (1.5, 0), 2: (1.5, 0), 9: (1.5, 0)}


def test_presence_and_frequency_count_the_answer_only() -> None:
    of = state(SamplingParams(presence_penalty=0.5, frequency_penalty=0.25))
    assert edits(of) == {}
    for token in (1, 7, 7, 7):
        of.push(token)
    assert edits(of) == {1: (1, -0.75), 7: (1, -1.25)}


def test_negative_penalties_and_bias_add_up() -> None:
    of = state(SamplingParams(frequency_penalty=-0.5, logit_bias=((7, 2.0), (8, -100.0))))
    of.push(7)
    assert edits(of) == {7: (1, 2.5), 8: (1, -100)}


def test_min_tokens_bans_stop_ids_until_then_and_remembers_their_bias() -> None:
    of = state(SamplingParams(logit_bias=((5, 3.0),)), min_tokens=2, stop_ids=(5, 6, 5))
    for token in (1, 1):
        assert edits(of) == {5: (1, -np.inf), 6: (1, -np.inf)}
        of.push(token)
    assert edits(of) == {5: (1, 3)}


def test_edits_outgrow_their_first_arrays() -> None:
    of = state(SamplingParams(repetition_penalty=2.0), prompt=tuple(range(100)))
    for token in range(100, 300):
        of.push(token)
    assert edits(of) == dict.fromkeys(range(300), (2.0, 0))


def test_rows_in_order_with_ragged_edits() -> None:
    states = [
        state(SamplingParams(seed=2**64 - 1, temperature=0.5, logprobs=0)),
        state(SamplingParams(logit_bias=((4, 1.0), (9, 2.0)), top_k=3, top_p=0.5)),
        state(SamplingParams(min_p=0.25)),
        state(SamplingParams(repetition_penalty=2.0, logprobs=5), prompt=(8,)),
    ]
    rows = Sampler().rows(states, np.array([3, 4, 5, 6], np.int32))
    assert rows.seeds.tolist() == [2**64 - 1, 0, 0, 0]
    assert rows.temperature.tolist() == [0.5, 1, 1, 1]
    assert (rows.top_k.tolist(), rows.top_p.tolist()) == ([0, 3, 0, 0], [1, 0.5, 1, 1])
    assert rows.min_p.tolist() == [0, 0, 0.25, 0]
    assert rows.positions.tolist() == [3, 4, 5, 6]
    assert rows.num_logprobs.tolist() == [0, -1, -1, 5]
    assert rows.edit_starts.tolist() == [0, 0, 2, 2, 3]
    assert rows.edit_ids.tolist() == [4, 9, 8]
    assert (rows.edit_mul.tolist(), rows.edit_add.tolist()) == ([1, 1, 2], [1, 2, 0])
    kinds = [rows.edit_starts, rows.edit_ids, rows.top_k, rows.positions, rows.num_logprobs]
    assert all(column.dtype == np.int32 for column in kinds)
    assert rows.seeds.dtype == np.uint64
    assert rows.edit_add.dtype == rows.edit_mul.dtype == rows.temperature.dtype == np.float32


@pytest.mark.parametrize("change", ["other rows", "other order", "one less"])
def test_kept_knobs_follow_the_rows(change: str) -> None:
    sampler = Sampler()
    a, b, c = (state(SamplingParams(temperature=t)) for t in (0.5, 0.25, 0.125))
    positions = np.zeros(2, np.int32)
    assert sampler.rows([a, b], positions).temperature.tolist() == [0.5, 0.25]
    assert sampler.rows([a, b], positions).temperature.tolist() == [0.5, 0.25]
    states = {"other rows": [a, c], "other order": [b, a], "one less": [b]}[change]
    expected = [s.params.temperature for s in states]
    assert sampler.rows(states, positions[: len(states)]).temperature.tolist() == expected
