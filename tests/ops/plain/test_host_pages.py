"""Pages of tensors on the host: the same bits in other places, in every type of cache."""

from pathlib import Path

import pytest
import torch

from pagemill import models
from pagemill.engine.engine import Engine
from pagemill.ops.cuda import CudaOps
from pagemill.ops.plain.host_pages import TensorPages
from pagemill.ops.plain.ops import PlainOps
from pagemill.types import EnginePlan
from pagemill.weights.load import open_model
from tests.fakes import request, run, token_ids
from tests.samples import engine_plan

TINY = Path(__file__).parents[2] / "golden" / "tiny_llama.gguf"


@pytest.mark.parametrize("kv_dtype", ["auto", "q8", "fp8"])
def test_pages_come_back_as_they_were(kv_dtype: str) -> None:
    ops = PlainOps("cpu", torch.bfloat16, kv_dtype)
    kv = ops.new_kv(3, 6, 4, 2, 8)
    for number, layer in enumerate(kv.layers):
        slots = torch.arange(24)
        layer.store(slots, *(torch.randn(24, 2, 8) * (number + 1) for _ in range(2)))
    tensors = [
        tensor
        for layer in kv.layers
        for tensor in (layer.keys, layer.values, layer.key_scales, layer.value_scales)
        if tensor is not None
    ]
    before = [tensor.view(torch.uint8).clone() for tensor in tensors]
    page_bytes = sum(tensor[0].nbytes for tensor in tensors)
    mover = TensorPages(kv, 2 * page_bytes + 1)
    assert mover.num_places == 2
    mover.copy_out([4, 1], [0, 1])
    for tensor in tensors:
        tensor.view(torch.uint8).zero_()
    mover.copy_in([2, 5], [1, 0])
    for tensor, old in zip(tensors, before, strict=True):
        now = tensor.view(torch.uint8)
        assert torch.equal(now[2], old[1]) and torch.equal(now[5], old[4])
        assert not now[[0, 1, 3, 4, 6]].any()


def engine_with(places: int) -> Engine:
    plan: EnginePlan = engine_plan(num_pages=8, page_size=4, budget=9)
    ops = CudaOps("cpu", torch.float32)
    checkpoint = open_model(TINY, models)
    model = models.build(checkpoint.card, ops, checkpoint.source)
    kv = model.new_kv(plan.num_pages, plan.page_size)
    page_bytes = sum(2 * layer.keys[0].nbytes for layer in kv.layers)
    mover = TensorPages(kv, places * page_bytes) if places else None
    return Engine(ops.compile(model), ops, kv, plan, checkpoint.card.vocab_size, mover)


def test_answers_do_not_depend_on_where_pages_were() -> None:
    found = []
    for places in (0, 3, 40):
        engine = engine_with(places)
        for i in range(9):
            engine.add(request(i, (*range(1, 10), i % 3), 12, temperature=0.9, seed=i))
        deltas = run(engine)
        found.append([token_ids(deltas[str(i)]) for i in range(9)])
        assert engine.stats().preemptions > 0
        assert engine._host is None or engine._host.pages_in > 0
    assert found[0] == found[1] == found[2]
