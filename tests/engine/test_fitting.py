"""Pages of a device: measured beside the largest step, and refused in words that help."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pagemill.engine.fitting import Network, fitted, largest_step
from pagemill.errors import ConfigError
from pagemill.ops.interface import Float32, Sampled, SampleRows, Step
from pagemill.types import EnginePlan
from tests.fakes import GreedyOps
from tests.samples import engine_plan

MIB = 1 << 20
PAGE, TOKEN, ROW = MIB, 3 * MIB, 2 * MIB  # what pages, tokens of a step and sampled rows take


class FakeMemory:
    """A device whose users say what they take. What they have given back stays with the process,
    as torch keeps it."""

    def __init__(self, total: int, taken: int) -> None:
        self.total = total
        self._taken = taken
        self._kept = self._now = self._most = 0

    @property
    def free(self) -> int:
        return self.total - self._taken - self._kept

    def take(self, size: int) -> None:
        self._now += size
        self._most = max(self._most, self._now)
        self._kept = max(self._kept, self._now)

    def peak(self, run: Callable[[], object]) -> int:
        self._now = self._most = self._kept = 0
        run()
        self._now = 0
        return self._most


class FakeNetwork(GreedyOps):
    """Takes memory by tokens, rows and pages."""

    def __init__(self, memory: FakeMemory) -> None:
        self.memory = memory
        self.steps: list[Step] = []
        self.temperatures: list[float] = []
        self.rebuilt = 0  # by the first step, and what was there before given back

    def __call__(self, step: Step, kv: Any) -> Float32:
        if not self.steps:
            self.memory.take(self.rebuilt)
        self.steps.append(step)
        self.memory.take(TOKEN * len(step.token_ids))
        return np.zeros((len(step.out_rows), 8), np.float32)

    def sample(self, logits: Float32, rows: SampleRows) -> Sampled:
        self.memory.take(ROW * len(logits))
        self.temperatures.append(float(rows.temperature.max()))
        return super().sample(logits, rows)

    def new_kv(self, num_pages: int) -> int:
        self.memory.take((num_pages + 1) * PAGE)  # one more, as tensors have it
        return num_pages


def plan_of(**changes: Any) -> EnginePlan:
    plan = engine_plan(num_pages=7, page_size=16, budget=64, max_num_seqs=8)
    return replace(plan, gpu_memory_utilization=0.9, least_model_len=256, **changes)


def measured(
    plan: EnginePlan, total: int = 2000, taken: int = 400, rebuilt: int = 0, **how: Any
) -> tuple[EnginePlan, FakeNetwork]:
    """Of a device of `total` MiB, of which weights take `taken`, and `rebuilt` of them once more
    with the first step."""
    memory = FakeMemory(total * MIB, taken * MIB)
    network = FakeNetwork(memory)
    network.rebuilt = rebuilt * MIB
    how = {"context_length": 4096, "pooled": False, "captures": False} | how
    described = Network(network, network, network.new_kv, **how)  # type: ignore[arg-type]
    return fitted(plan, described, memory), network


def test_pages_take_what_the_largest_step_leaves() -> None:
    made, network = measured(plan_of())
    first, *_, step = network.steps
    assert len(first.token_ids) == len(step.token_ids) == 64 and len(step.out_rows) == 8
    left = 2000 - 400 - (64 * 3 + 8 * 2) - 200  # a tenth of the device is spared
    assert (made.num_pages, made.kv_bytes) == (left, left * PAGE)
    assert made.max_model_len == 4096
    assert replace(made, num_pages=7, kv_bytes=0, max_model_len=112) == plan_of()


def test_a_small_device_shortens_the_context_that_nobody_asked_for() -> None:
    made, _ = measured(plan_of(), total=900, taken=500)
    assert made.num_pages == 900 - 500 - 208 - 90
    assert made.max_model_len == made.num_pages * 16 < 4096


def test_captured_steps_have_memory_of_their_own() -> None:
    plain, _ = measured(plan_of())
    made, network = measured(plan_of(), captures=True)
    decode = network.steps[-2]
    assert len(decode.token_ids) == len(decode.out_rows) == len(decode.kv_lens) == 8
    assert plain.num_pages - made.num_pages == 8 * 3


def test_short_prompts_are_tried_alone_and_beside_an_answer() -> None:
    """Nobody's prompt waits for kernels that are made when they are first called."""
    network = measured(plan_of())[1]
    takes = [np.diff(step.row_starts).tolist() for step in network.steps[1:-1]]
    assert takes == [row for n in (2, 4, 8, 16, 32) for row in ([n], [1, n])]
    assert [temperature > 0 for temperature in network.temperatures] == [
        *[True], *[False, True] * 5, *[True],
    ]  # fmt: skip


def test_weights_that_the_first_step_puts_together_leave_their_memory_to_pages() -> None:
    """Torch keeps what they were before, and would count it as taken."""
    plain, _ = measured(plan_of())
    assert measured(plan_of(), rebuilt=900)[0] == plain
    captured, _ = measured(plan_of(), captures=True)
    assert measured(plan_of(), rebuilt=900, captures=True)[0] == captured


def test_no_step_is_tried_that_is_longer_than_there_can_be_pages_for() -> None:
    """Its tables of positions would take more than the device has."""
    made, network = measured(plan_of(), context_length=10_000_000)
    longest = int(max(step.kv_lens.max() for step in network.steps))
    assert made.max_model_len <= longest <= (2000 - 400) * 16


def test_what_was_asked_for_is_honoured() -> None:
    made, _ = measured(plan_of(asked_model_len=1000, asked_kv_bytes=70 * MIB))
    assert (made.num_pages, made.max_model_len) == (70, 1000)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"asked_model_len": 3000}, ["max_model_len", "188.0 MiB", "102.0 MiB", "to 1632"]),
        ({"asked_kv_bytes": 500 * MIB}, ["kv_cache_memory", "500.0 MiB", "102.0 MiB", "90%"]),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers_and_ways_out(
    asked: dict[str, int], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        measured(plan_of(**asked), total=900, taken=500)
    assert refused.value.param == words[0]
    for word in [*words, "--gpu-memory-utilization", "--max-num-batched-tokens"]:
        assert word in refused.value.message


def test_a_device_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"256|16\.0 MiB"):
        measured(plan_of(), total=700, taken=500)


def test_the_largest_step_is_as_large_as_a_plan_allows() -> None:
    network = measured(plan_of())[1]
    described = Network(network, network, network.new_kv, 20, False, False)  # type: ignore[arg-type]
    step = largest_step(plan_of(), 20, described)
    assert np.diff(step.row_starts).tolist() == [1] * 7 + [20, 20, 17]
    assert step.kv_lens.tolist() == [1] * 7 + [20] * 3
    assert step.positions[-17:].tolist() == list(range(3, 20))
    assert set(step.slots.tolist()) == {-1} and step.page_table.shape == (10, 2)
    assert step.out_rows.tolist() == [0, 1, 2, 3, 4, 5, 6, 26]


def test_texts_that_are_pooled_are_whole() -> None:
    made, network = measured(plan_of(asked_model_len=40), pooled=True)
    step = network.steps[-1]
    assert np.diff(step.row_starts).tolist() == [40] and step.out_rows.tolist() == [39]
    assert step.token_types is not None
    assert made.max_model_len == 40
