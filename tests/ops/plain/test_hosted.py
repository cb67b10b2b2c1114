"""Layers whose weights stay on the host: the same logits, and each weight moved when it must be."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pagemill import models
from pagemill.engine.engine import Engine
from pagemill.ops.plain.hosted import HostLayers
from pagemill.ops.plain.ops import PlainOps
from pagemill.weights.load import open_model
from tests.fakes import request, run, token_ids
from tests.samples import engine_plan

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[2] / "golden"


class FakeTransfers:
    """A device far away: what is on its way is garbage until somebody waits for it."""

    def __init__(self, waits: bool = True) -> None:
        self.waits = waits
        self.moved: list[int] = []  # bytes of each copy
        self.kept = 0

    def keep(self, tensor: Tensor) -> Tensor:
        self.kept += 1
        return tensor.clone()

    def begin(self, pairs: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        self.moved.append(sum(here.nbytes for _, here in pairs))
        for there, _ in pairs:
            there.view(torch.uint8).fill_(0x5B)
        done: list[bool] = []

        def wait() -> None:
            if self.waits and not done:
                done.append(True)
                for there, here in pairs:
                    there.copy_(here)

        return wait


def built(name: str, first: int | None, waits: bool = True) -> tuple[Engine, FakeTransfers, int]:
    """An engine whose layers from `first` on are on the host, and how many layers there are."""
    ops, transfers = PlainOps("cpu", torch.float32), FakeTransfers(waits)
    if first is not None:
        ops.host = HostLayers(first, CPU, transfers)
    checkpoint = open_model(GOLDEN / name, models)
    model = models.build(checkpoint.card, ops, checkpoint.source)
    if ops.host is not None:
        model.layers = ops.host.attach(model.layers)
    plan = engine_plan(num_pages=40, prefix_caching=False)
    kv = model.new_kv(plan.num_pages, plan.page_size, plan.max_num_seqs)
    engine = Engine(ops.compile(model), ops, kv, plan, checkpoint.card.vocab_size)
    return engine, transfers, checkpoint.card.layers


def answers(engine: Engine) -> list[tuple[int, ...]]:
    prompts = [(7, 3, 9, 3, 1), (1,), tuple(range(2, 14))]
    for i, prompt in enumerate(prompts):
        engine.add(request(i, prompt, 6, temperature=0.8, seed=i))
    deltas = run(engine)
    return [token_ids(deltas[str(i)]) for i in range(len(prompts))]


NAMES = ["tiny_llama.gguf", "granitehybrid", "mixtral", "gptq", "olmo2"]


@pytest.mark.parametrize("name", [name for name in NAMES if (GOLDEN / name).exists()])
def test_answers_do_not_depend_on_where_weights_are(name: str) -> None:
    engine, _, layers = built(name, None)
    expected = answers(engine)
    for first in range(layers + 1):
        engine, transfers, _ = built(name, first)
        assert answers(engine) == expected
        assert bool(transfers.moved) == bool(transfers.kept) == (first < layers)


def test_fault_nobody_waits_for_weights() -> None:
    expected = answers(built("tiny_llama.gguf", None)[0])
    assert answers(built("tiny_llama.gguf", 0, waits=False)[0]) != expected


class Pair:
    """A layout of two tensors."""

    def __init__(self, value: float, shape: tuple[int, ...] = (2, 2)) -> None:
        self.a, self.b = torch.full(shape, value), torch.full((3,), value)
        self.label = "kept"

    def product(self, x: Tensor) -> Tensor:
        return self.a


def fetched(count: int, steps: int) -> tuple[list[float], FakeTransfers, HostLayers]:
    """What layers of one matrix each find in it, step after step."""
    transfers = FakeTransfers()
    host = HostLayers(0, CPU, transfers)
    matrices = [host.take(i, Pair(float(i))) for i in range(count)]
    seen = []
    for _ in range(steps):
        for i, matrix in enumerate(matrices):
            host.fetch(i)
            assert torch.equal(matrix.a[0, :1], matrix.b[:1]) and matrix.label == "kept"
            seen.append(float(matrix.a[0, 0]))
    return seen, transfers, host


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_every_layer_finds_its_own_weights(count: int) -> None:
    seen, transfers, host = fetched(count, steps=3)
    assert seen == [float(i) for i in range(count)] * 3
    # Each once a step, and one ahead for the step to come; two or fewer have tensors of their own.
    assert len(transfers.moved) <= (3 * count + 1 if count > 2 else count)
    assert host.nbytes == count * 7 * 4


def test_layers_take_turns_with_two_sets_of_tensors() -> None:
    host = HostLayers(0, CPU, FakeTransfers())
    matrices = [host.take(i, Pair(float(i))) for i in range(6)]
    odd = host.take(5, Pair(9.0, (4, 1)))  # a second matrix, of another shape
    assert len({matrix.a.data_ptr() for matrix in matrices}) == 2
    assert odd.a.data_ptr() not in {matrix.a.data_ptr() for matrix in matrices}


def test_the_next_layer_is_on_its_way_while_one_computes() -> None:
    transfers = FakeTransfers()
    host = HostLayers(2, CPU, transfers)
    assert not host.has(1) and not host.has(None) and host.has(2)
    for i in range(2, 6):
        host.take(i, Pair(float(i)))
    host.fetch(2)
    assert len(transfers.moved) == 2
    host.fetch(3)
    assert len(transfers.moved) == 3, "it was there already; the one after it is on its way"


def test_rows_of_stacked_layouts_move_with_their_parts() -> None:
    from pagemill.ops.plain.layouts.dense import Dense
    from pagemill.ops.plain.layouts.stacked import Stacked

    host = HostLayers(0, CPU, FakeTransfers())
    chance = np.random.default_rng(0)
    parts = [torch.from_numpy(chance.normal(size=(n, 4)).astype(np.float32)) for n in (3, 5)]
    matrix = host.take(0, Stacked([Dense(part) for part in parts]))
    host.fetch(0)
    x = torch.ones(1, 4)
    assert torch.equal(matrix.product(x), x @ torch.cat(parts).T)
