"""Tiny random encoders against the vectors and scores that transformers computed in float32."""

from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pagemill import models
from pagemill.engine.pooling import PoolingEngine
from pagemill.errors import BadModelFile
from pagemill.models import Model
from pagemill.ops.interface import Float32, Ops, Step
from pagemill.ops.reference import ReferenceOps
from pagemill.types import Request
from pagemill.weights.load import Checkpoint, open_model
from tests.fakes import TinySource, run
from tests.ops.cases import ragged_step
from tests.samples import TINY_CARD, engine_plan

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
LENGTHS = (1, 7, 30)
EMBEDDERS = {
    **{"bert": "mean", "roberta": "cls", "distil": "mean", "nomic": "mean", "modern": "cls"},
    "qwen3": "last",
}
LABELS = {
    "bert_classifier": ("bad", "so so", "good"),
    "distil_classifier": ("NEGATIVE", "POSITIVE"),
    "reranker": ("LABEL_0",),
    "modern_reranker": ("LABEL_0",),
}
NAMES = (*EMBEDDERS, *LABELS)
PAGE_SIZE = 64
FILES = ("model.gguf", "")  # a folder is its own name


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.generic]]:
    with np.load(GOLDEN / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def opened(name: str, file: str = "model.gguf") -> Checkpoint:
    return open_model(GOLDEN / name / file, models)


def built(name: str, ops: Ops, file: str = "model.gguf") -> Model:
    checkpoint = opened(name, file)
    # A folder of transformers does not say how its vectors are pooled.
    card = replace(checkpoint.card, pooling=EMBEDDERS.get(name, "rank"))
    return models.build(card, ops, checkpoint.source)


def step_of(golden: dict[str, NDArray[np.generic]], lengths: tuple[int, ...]) -> Step:
    """Whole rows, one after another, each in a page of its own."""
    starts = np.array([0, *accumulate(lengths)], np.int32)
    positions = np.concatenate([np.arange(length) for length in lengths]).astype(np.int32)
    ids, types = (
        np.concatenate([golden[f"{what}_{length}"] for length in lengths])
        for what in ("ids", "types")
    )
    return Step(
        token_ids=ids,
        positions=positions,
        slots=np.repeat(np.arange(len(lengths)) * PAGE_SIZE, lengths).astype(np.int32) + positions,
        row_starts=starts,
        kv_lens=np.diff(starts),
        page_table=np.arange(len(lengths), dtype=np.int32)[:, None],
        out_rows=starts[1:] - 1,
        page_size=PAGE_SIZE,
        token_types=types,
    )


@pytest.fixture(params=["reference", "cpu"])
def ops(request: pytest.FixtureRequest) -> Ops:
    if request.param == "reference":
        return ReferenceOps()
    cpu = pytest.importorskip("pagemill.ops.cpu", reason="the native kernels are not built")
    backend: Ops = cpu.CpuOps(threads=2, kv_dtype="f32")
    return backend


@pytest.mark.parametrize("file", FILES, ids=["gguf", "folder"])
@pytest.mark.parametrize("name", NAMES)
def test_vectors_and_scores_equal_those_of_transformers(name, file, ops, golden):
    network = built(name, ops, file)
    model, kv = ops.compile(network), network.new_kv(len(LENGTHS), PAGE_SIZE)
    want = np.stack([golden[f"{name}_{length}"] for length in LENGTHS])
    together = np.array(model(step_of(golden, LENGTHS), kv))
    np.testing.assert_allclose(together, want, rtol=0, atol=1e-4)
    for row, length in enumerate(LENGTHS):
        alone = np.asarray(model(step_of(golden, (length,)), kv))
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("file", FILES, ids=["gguf", "folder"])
@pytest.mark.parametrize("name", NAMES)
def test_cards_say_what_the_network_gives(name, file):
    card = opened(name, file).card
    unsaid = "mean" if not file and name != "qwen3" else EMBEDDERS.get(name)
    assert card.pooling == ("rank" if name in LABELS else unsaid)
    assert (card.context_length, card.hidden_size) == (48, 16)
    assert card.kv_elements == (4 * 2 * 12 if name == "qwen3" else 0)
    named = card.labels or ("LABEL_0",)  # of one class, GGUF files do not say the name
    assert named == LABELS.get(name, ("LABEL_0",))


@pytest.mark.parametrize("name", ["bert", "bert_classifier", "nomic"])
def test_the_texts_of_a_pair_are_told_apart(name, golden):
    model = built(name, ReferenceOps())
    step = step_of(golden, (7,))
    vector = np.array(model(step, None))
    assert step.token_types is not None
    step.token_types[:] = 0
    assert np.abs(np.asarray(model(step, None)) - vector).max() > 0.01


@pytest.mark.parametrize("name", ["modern", "modern_reranker"])
def test_layers_with_a_window_do_not_see_everything(name, golden, monkeypatch):
    attention = "pagemill.models.modern_bert.ModernBertAttention.window"
    narrow = np.asarray(built(name, ReferenceOps())(step_of(golden, (30,)), None))
    monkeypatch.setattr(attention, lambda *_: 0)
    wide = np.asarray(built(name, ReferenceOps())(step_of(golden, (30,)), None))
    assert np.abs(narrow - wide).max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_an_engine_gives_the_same(name, golden):
    checkpoint, ops = opened(name), ReferenceOps()
    model = models.build(checkpoint.card, ops, checkpoint.source)
    plan = engine_plan(budget=32, max_model_len=48, prefix_caching=False)
    kv = model.new_kv(plan.num_pages, plan.page_size)
    engine = PoolingEngine(model, ops, kv, plan, checkpoint.card.vocab_size)
    for length in LENGTHS:
        ids, types = (tuple(golden[f"{what}_{length}"].tolist()) for what in ("ids", "types"))
        engine.add(Request(str(length), ids, 0, pooled=True, token_types=types))
    done = run(engine)
    for length in LENGTHS:
        vector: Float32 = np.frombuffer(done[str(length)][0].vector, "<f4")
        np.testing.assert_allclose(vector, golden[f"{name}_{length}"], rtol=0, atol=1e-4)


DECODER = replace(TINY_CARD, tied_embeddings=False, vocab_size=TINY_CARD.hidden_size)


def decoder(pooling: str, **tensors: Float32) -> Model:
    source = TinySource(DECODER)
    source.tensors["output"] = np.eye(DECODER.hidden_size, dtype=np.float32)
    source.tensors |= tensors
    return models.build(replace(DECODER, pooling=pooling), ReferenceOps(), source)


def rows_of_ids(every: bool) -> Step:
    step = ragged_step([0, 0], [5, 2], np.arange(4, dtype=np.int32), 8)
    ids = np.array([5, 3, 4, 0, 7, 1, 2], np.int32)
    return replace(step, token_ids=ids, out_rows=np.arange(7) if every else step.out_rows)


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_a_decoder_may_pool_what_it_would_write_from(pooling):
    writer, embedder = decoder(""), decoder(pooling)
    hidden = writer(rows_of_ids(every=True), writer.new_kv(4, 8))  # its head changes nothing
    pooled = {
        "last": [hidden[4], hidden[6]],
        "mean": [hidden[:5].mean(0), hidden[5:].mean(0)],
        "cls": [hidden[0], hidden[5]],
    }[pooling]
    want = np.stack([vector / np.linalg.norm(vector) for vector in pooled])
    got = embedder(rows_of_ids(every=False), embedder.new_kv(4, 8))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_a_decoder_may_rank_by_its_last_token():
    output = np.random.default_rng(3).normal(size=(1, DECODER.hidden_size)).astype(np.float32)
    ranker, writer = decoder("rank", **{"cls.output": output}), decoder("")
    hidden = writer(rows_of_ids(every=False), writer.new_kv(4, 8))
    scores = ranker(rows_of_ids(every=False), ranker.new_kv(4, 8))
    np.testing.assert_allclose(scores, hidden @ output.T, rtol=0, atol=1e-5)


def test_a_classifier_without_its_dense_part_is_refused(tmp_path):
    """Some converters leave it out; the scores of such a file would be wrong."""
    data = (GOLDEN / "reranker" / "model.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data.replace(b"cls.weight", b"clx.weight"))
    checkpoint = open_model(path, models)
    with pytest.raises(BadModelFile, match=r"cls\.weight' is missing"):
        models.build(checkpoint.card, ReferenceOps(), checkpoint.source)
