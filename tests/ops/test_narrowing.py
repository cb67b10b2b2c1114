"""What is computed of the last layer: the rows that are sampled, whatever the network."""

from pathlib import Path

import numpy as np
import pytest

from pagemill import models
from pagemill.ops.interface import Step
from pagemill.ops.recorder import Node, Recorder, Rows, SymbolicStep
from pagemill.weights.load import open_model

cpu = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
narrow = pytest.importorskip("pagemill.ops.narrowing").narrow

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = [GOLDEN / "tiny_llama.gguf", *sorted(GOLDEN.glob("*/model.gguf"))]
PAGE_SIZE, TOKENS = 16, 12


def step(*out_rows: int) -> Step:
    positions = np.arange(TOKENS, dtype=np.int32)
    return Step(
        token_ids=positions % 7,
        positions=positions,
        slots=positions,
        row_starts=np.array([0, TOKENS], np.int32),
        kv_lens=np.array([TOKENS], np.int32),
        page_table=np.zeros((1, 1), np.int32),
        out_rows=np.array(out_rows, np.int32),
        page_size=PAGE_SIZE,
        state_slots=np.array([[-1, 0]], np.int32),
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_sampled_row_is_what_it_is_among_all(path: Path) -> None:
    checkpoint = open_model(path, models)
    ops = cpu.CpuOps()
    model = models.build(checkpoint.card, ops, checkpoint.source)
    run, kv = ops.compile(model), model.new_kv(1, PAGE_SIZE, 1)
    every = np.array(run(step(*range(TOKENS)), kv))
    if len(every) != TOKENS:  # vectors of texts
        return
    for rows in ([TOKENS - 1], [7, 2], []):
        np.testing.assert_array_equal(run(step(*rows), kv), every[rows])


def recorded(path: Path) -> list[Node]:
    checkpoint = open_model(path, models)
    ops, recorder = cpu.CpuOps(), Recorder()
    model = models.build(checkpoint.card, ops, checkpoint.source)
    result = model(SymbolicStep(recorder), model.new_kv(1, PAGE_SIZE, 1))
    return narrow(recorder.nodes, result)  # type: ignore[no-any-return]


def test_the_last_feed_forward_network_is_for_sampled_rows() -> None:
    nodes = recorded(GOLDEN / "tiny_llama.gguf")
    last = max(i for i, node in enumerate(nodes) if node.op == "attention")
    before, after = nodes[: last + 1], nodes[last + 1 :]
    assert {node.rows for node in before} == {Rows.TOKENS}
    assert Rows.TOKENS not in {node.rows for node in after}
    products = [node.rows for node in after if node.op == "linear"]
    assert products[:-1] == [Rows.ENDING] * 3  # of attention, and of the feed-forward network
    assert products[-1] is Rows.SAMPLED  # logits, with activations of twice the bits


def test_what_is_read_whole_stays_whole() -> None:
    recorder = Recorder()
    x = recorder.add("input", Rows.TOKENS, (8,))
    y = recorder.add("curve", Rows.TOKENS, (8,), (x,), kind="tanh")
    z = recorder.add("scale", Rows.TOKENS, (8,), (y,), factor=2.0)
    gathered = recorder.add("gather", Rows.SAMPLED, (8,), (z,))
    pooled = recorder.add("pool", Rows.SAMPLED, (8,), (y,), kind="mean")
    result = recorder.add("add", Rows.SAMPLED, (8,), (gathered, pooled))
    rows = {node.op: node.rows for node in narrow(recorder.nodes, result)}
    assert rows == {
        "input": Rows.TOKENS,
        "curve": Rows.TOKENS,
        "gather": Rows.ENDING,
        "scale": Rows.ENDING,
        "pool": Rows.SAMPLED,
        "copy": Rows.SAMPLED,
        "add": Rows.SAMPLED,
    }


def test_a_result_of_all_rows_stays_one() -> None:
    recorder = Recorder()
    x = recorder.add("input", Rows.TOKENS, (8,))
    y = recorder.add("curve", Rows.TOKENS, (8,), (x,), kind="tanh")
    recorder.add("gather", Rows.SAMPLED, (8,), (y,))
    assert [node.rows for node in narrow(recorder.nodes, y)][:2] == [Rows.TOKENS] * 2
