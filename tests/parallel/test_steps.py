"""Steps as bytes: what was packed comes out, and nothing else is taken for a step."""

from dataclasses import fields, replace

import numpy as np
import pytest

from pagemill.engine.wire import FrameError
from pagemill.ops.interface import Step
from pagemill.parallel.steps import pack, unpack


def arrays(*numbers: list[int]) -> list[np.ndarray]:
    return [np.array(some, np.int32) for some in numbers]


TOKENS = arrays([5, 6, 7, 9], [0, 1, 2, 16], [32, 33, 34, 16], [0, 3, 4], [3, 17], [2, 3])
STEP = Step(*TOKENS[:5], np.array([[2, 0], [0, 1]], np.int32), TOKENS[5], 16)
STATES = np.array([[-1, 0], [1, 1]], np.int32)


def same(one: Step, other: Step) -> bool:
    names = [field.name for field in fields(Step)]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


@pytest.mark.parametrize(
    "step",
    [
        STEP,
        replace(STEP, state_slots=STATES),
        replace(STEP, token_types=np.array([0, 0, 1, 0], np.int32)),
        replace(STEP, token_types=np.array([0, 1, 1, 0], np.int32), state_slots=STATES),
        replace(STEP, out_rows=np.array([], np.int32)),
    ],
    ids=["plain", "states", "types", "both", "nothing sampled"],
)
def test_there_and_back(step: Step) -> None:
    assert same(unpack(pack(step)), step)


def test_pages_behind_the_last_token_stay() -> None:
    """Rows of one table may be far from equally long."""
    wide = np.zeros((2, 1000), np.int32)
    wide[:, :2] = STEP.page_table
    wide[0, 1:] = 77  # of a row of three tokens
    packed = pack(replace(STEP, page_table=wide))
    assert len(packed) == len(pack(STEP))
    assert unpack(packed).page_table.tolist() == STEP.page_table.tolist()


def test_numbers_may_be_written() -> None:
    unpack(pack(STEP)).token_ids[0] = 1


@pytest.mark.parametrize("cut", [1, 4, 8, 40])
def test_what_is_cut_off_is_no_step(cut: int) -> None:
    with pytest.raises(FrameError, match="a step "):
        unpack(pack(STEP)[:-cut])


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("number", [-1, 1 << 30])
def test_sizes_that_do_not_fit(place: int, number: int) -> None:
    numbers = np.frombuffer(pack(STEP), np.int32).copy()
    numbers[place] = number
    with pytest.raises(FrameError, match="a step "):
        unpack(numbers.tobytes())
