"""Captured decode steps: which there are, what is replayed, and that nobody can tell."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pagemill.ops.graphs import DecodeGraphs, decode_sizes
from pagemill.ops.interface import Step
from pagemill.ops.plain.step import DeviceStep, to_device
from tests.ops.plain.graphs import FakeRecorder

CPU = torch.device("cpu")
PAGE_SIZE, MAX_LEN, MAX_ROWS, VOCAB = 4, 32, 12, 7
NUM_PAGES = MAX_ROWS * MAX_LEN // PAGE_SIZE


def test_sizes_are_close_together_where_steps_are_small() -> None:
    assert decode_sizes(1) == [1]
    assert decode_sizes(3) == [1, 2, 3]
    assert decode_sizes(24) == [1, 2, 4, 8, 16, 24]
    assert decode_sizes(27) == [1, 2, 4, 8, 16, 24, 27]
    assert decode_sizes(320)[-4:] == [248, 256, 288, 320]
    assert len(decode_sizes(1024)) < 64


class Network:
    """Logits from all that a step holds; writes its cache as attention would."""

    def __init__(self) -> None:
        self.eager = 0

    def __call__(self, step: Any, kv: Tensor) -> Tensor:
        if not isinstance(step, DeviceStep):
            self.eager += 1
            step = to_device(step, CPU)
        kv[step.slots.long()] = step.token_ids.float() + 1
        rows = torch.arange(step.num_rows)
        columns = torch.arange(step.page_table.shape[1] * PAGE_SIZE)
        slots = step.page_table[:, columns // PAGE_SIZE] * PAGE_SIZE + columns % PAGE_SIZE
        seen = columns < step.kv_lens[:, None]
        history = torch.where(seen, kv[slots.long()] * (columns + 1), 0.0).sum(dim=1)
        states = step.state_slots.sum(dim=1) if step.state_slots is not None else rows * 0
        of_rows = history + 3 * step.positions[step.row_starts[1:].long() - 1] + 5 * states
        return of_rows[:, None] * (torch.arange(VOCAB) + 1)


def decode_step(lengths: list[int], seed: int = 0) -> Step:
    """Rows of these lengths, the last token of each new; pages as they come."""
    chance = np.random.default_rng(seed)
    count = len(lengths)
    width = max(-(-n // PAGE_SIZE) for n in lengths)
    pages = chance.permutation(NUM_PAGES)[: count * width].reshape(count, width).astype(np.int32)
    kv_lens = np.array(lengths, np.int32)
    last = kv_lens - 1
    return Step(
        token_ids=chance.integers(0, 50, count, np.int32),
        positions=last,
        slots=pages[np.arange(count), last // PAGE_SIZE] * PAGE_SIZE + last % PAGE_SIZE,
        row_starts=np.arange(count + 1, dtype=np.int32),
        kv_lens=kv_lens,
        page_table=pages,
        out_rows=np.arange(count, dtype=np.int32),
        page_size=PAGE_SIZE,
        state_slots=np.stack([np.arange(count), np.arange(count) + 1], axis=1).astype(np.int32),
    )


def new_kv() -> Tensor:
    chance = torch.Generator().manual_seed(1)
    size = (NUM_PAGES + 1) * PAGE_SIZE  # one page more takes what is written to slot -1
    return torch.randint(50, (size,), generator=chance).float()


def captured(kv: Tensor, fails_at: int = 0) -> tuple[DecodeGraphs, Network, FakeRecorder]:
    network, recorder = Network(), FakeRecorder(CPU, fails_at)
    graphs = DecodeGraphs(network, CPU, lambda device: recorder)
    graphs.capture(kv, MAX_ROWS, MAX_LEN, PAGE_SIZE)
    return graphs, network, recorder


def test_capturing_leaves_the_cache_alone() -> None:
    kv = new_kv()
    graphs, _, recorder = captured(kv)
    assert torch.equal(kv[: NUM_PAGES * PAGE_SIZE], new_kv()[: NUM_PAGES * PAGE_SIZE])
    assert graphs.sizes == (1, 2, 4, 8, 12) and recorder.rehearsed == 5


@pytest.mark.parametrize("count", range(1, MAX_ROWS + 1))
def test_a_replay_gives_what_a_run_gives(count: int) -> None:
    kv, other_kv = new_kv(), new_kv()
    graphs, network, recorder = captured(kv)
    for seed in range(3):  # nothing of the step before may be left
        lengths = np.random.default_rng(seed + count).integers(1, MAX_LEN + 1, count).tolist()
        step = decode_step(lengths, seed)
        logits = graphs(step, kv)
        assert logits.shape == (count, VOCAB)
        assert torch.equal(logits, Network()(step, other_kv))
        assert torch.equal(kv[:-PAGE_SIZE], other_kv[:-PAGE_SIZE])
    assert recorder.replayed == 3 and network.eager == 0


def test_steps_without_a_graph_run() -> None:
    kv = new_kv()
    graphs, network, recorder = captured(kv)
    step = decode_step([5, 9])
    longer = replace(
        step,
        token_ids=np.array([1, 2, 3], np.int32),
        positions=np.array([3, 4, 8], np.int32),
        slots=np.array([0, 1, 2], np.int32),
        row_starts=np.array([0, 2, 3], np.int32),
        out_rows=np.array([1, 2], np.int32),
    )
    none_sampled = replace(step, out_rows=np.array([1], np.int32))
    pairs = replace(step, token_types=np.zeros(2, np.int32))
    steps = [longer, none_sampled, pairs, decode_step([3] * (MAX_ROWS + 1))]
    for number, other in enumerate(steps, 1):
        graphs(other, kv)
        assert (network.eager, recorder.replayed) == (number, 0)
    graphs(step, new_kv())  # another cache has other addresses
    assert (network.eager, recorder.replayed) == (len(steps) + 1, 0)


@pytest.mark.parametrize("fails_at", [1, 3])
def test_when_capturing_fails_steps_run_and_one_warning_says_so(
    fails_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    kv = new_kv()
    with caplog.at_level(logging.WARNING):
        graphs, network, _ = captured(kv, fails_at)
        step = decode_step([5, 9])
        logits = graphs(step, kv)
    assert graphs.sizes == () and network.eager == 1
    assert torch.equal(logits, Network()(step, new_kv()))
    (warning,) = caplog.records
    assert "not permitted when stream is capturing" in warning.getMessage()


def test_without_a_device_nothing_is_captured() -> None:
    network = Network()
    graphs = DecodeGraphs(network, CPU)
    kv = new_kv()
    graphs.capture(kv, MAX_ROWS, MAX_LEN, PAGE_SIZE)
    graphs(decode_step([5]), kv)
    assert graphs.sizes == () and network.eager == 1
