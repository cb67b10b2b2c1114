"""Fakes at the engine's seams: a model that remembers only what pages hold, a tiny random Llama.

`RecallModel` makes wrong paging visible: what it stores for a token depends on all tokens before
it, as keys and values do, and its next token on everything it reads back through the page table. A
page that was shared wrongly, published but not filled, or overwritten too early gives another
answer.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagemill.checkpoint import Part
from pagemill.engine.engine import Engine
from pagemill.models import build
from pagemill.ops.interface import Float32, Int32, Ops, Sampled, SampleRows, Step, Weight
from pagemill.ops.reference import ReferenceOps
from pagemill.types import Delta, EnginePlan, ModelCard, Request, SamplingParams
from pagemill.weights.keys import MetadataKeys
from tests.samples import TINY_CARD

Checksums = NDArray[np.uint32]


class RecallModel:
    """Next token = a checksum of the history, read through the page table.

    `kv` (slots,) holds a checksum per token: of the one before it and the token's id.
    """

    def __init__(self, vocab_size: int = 50) -> None:
        self.vocab_size = vocab_size
        self.steps: list[Step] = []

    def new_kv(self, num_pages: int, page_size: int) -> Checksums:
        return np.zeros(num_pages * page_size, np.uint32)

    def __call__(self, step: Step, kv: Checksums) -> Float32:
        self.steps.append(step)
        for row in range(len(step.kv_lens)):
            slots = _slots(step, row)
            for t in range(step.row_starts[row], step.row_starts[row + 1]):
                assert step.slots[t] == slots[step.positions[t]]
                before = kv[slots[step.positions[t] - 1]] if step.positions[t] else 0
                kv[step.slots[t]] = _checksum(int(before), int(step.token_ids[t]))
        logits = np.zeros((len(step.out_rows), self.vocab_size), np.float32)
        for i, out_row in enumerate(step.out_rows):
            row = int(np.searchsorted(step.row_starts, out_row, side="right")) - 1
            history = kv[_slots(step, row)[: step.positions[out_row] + 1]]
            logits[i, self._next_token(history)] = 1
        return logits

    def _next_token(self, history: Checksums) -> int:
        return zlib.crc32(history.tobytes()) % self.vocab_size

    def answer(self, request: Request) -> tuple[int, ...]:
        """The greedy answer, from no cache at all."""
        history: list[int] = []
        answer: list[int] = []
        for token in request.prompt:
            history.append(_checksum(history[-1] if history else 0, token))
        while len(answer) < request.max_tokens:
            answer.append(self._next_token(np.array(history, np.uint32)))
            if answer[-1] in request.stop_ids:
                break
            history.append(_checksum(history[-1], answer[-1]))
        return tuple(answer)


class StateModel:
    """Next token = a checksum of the history, kept as a state; pages hold nothing.

    `kv` (slots, 2) holds how many tokens a state has seen, and a checksum of them.
    """

    def __init__(self, vocab_size: int = 50) -> None:
        self.vocab_size = vocab_size

    def new_kv(self, num_pages: int, page_size: int, num_slots: int) -> Checksums:
        return np.full((num_slots, 2), 0xDEAD, np.uint32)

    def __call__(self, step: Step, kv: Checksums) -> Float32:
        assert step.state_slots is not None
        targets = step.state_slots[:, 1].tolist()
        assert len(set(targets)) == len(targets), "two rows write one state"
        ends: dict[int, int] = {}
        for row, (source, target) in enumerate(step.state_slots.tolist()):
            start, end = step.row_starts[row], step.row_starts[row + 1]
            seen, state = kv[source].tolist() if source >= 0 else (0, 0)
            assert seen == step.positions[start], "the state of another sequence or time"
            for token in step.token_ids[start:end].tolist():
                state = _checksum(state, token)
            kv[target] = seen + end - start, state
            ends[int(end) - 1] = state
        logits = np.zeros((len(step.out_rows), self.vocab_size), np.float32)
        for i, out_row in enumerate(step.out_rows.tolist()):
            logits[i, ends[out_row] % self.vocab_size] = 1
        return logits

    def answer(self, request: Request) -> tuple[int, ...]:
        """The greedy answer, from no state at all."""
        state, answer = 0, []
        for token in request.prompt:
            state = _checksum(state, token)
        for _ in range(request.max_tokens):
            answer.append(state % self.vocab_size)
            state = _checksum(state, answer[-1])
        return tuple(answer)


def _slots(step: Step, row: int) -> Int32:
    """Slots of a row's whole history, oldest first."""
    where = np.arange(step.kv_lens[row])
    pages = step.page_table[row, where // step.page_size]
    slots: Int32 = pages * step.page_size + where % step.page_size
    return slots


def _checksum(before: int, token: int) -> int:
    return zlib.crc32(token.to_bytes(4, "little"), before)


class GreedyOps:
    """The operations that an engine calls itself, at their cheapest."""

    name = "fake"

    def fetch(self, x: Float32) -> Float32:
        return x

    def sample(self, logits: Float32, rows: SampleRows) -> Sampled:
        ids = logits.argmax(axis=-1).astype(np.int32)
        none = np.zeros((len(ids), 0))
        zeros = np.zeros(len(ids), np.float32)
        return Sampled(ids, zeros, none.astype(np.int32), none.astype(np.float32))


class TinySource:
    """A checkpoint of random float32 tensors for a card; equal seeds are equal networks."""

    def __init__(
        self,
        card: ModelCard,
        seed: int = 0,
        extra: tuple[str, ...] = (),
        keys: Mapping[str, Any] | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.layers = range(card.layers)
        hidden, ffn = card.hidden_size, card.ffn_size
        kv_size, q_size = card.kv_heads * card.head_dim, card.heads * card.head_dim
        shapes: dict[str, tuple[int, ...]] = {"token_embd": (card.vocab_size, hidden)}
        for layer in range(card.layers):
            shapes |= {
                f"blk.{layer}.attn_q": (q_size, hidden),
                f"blk.{layer}.attn_k": (kv_size, hidden),
                f"blk.{layer}.attn_v": (kv_size, hidden),
                f"blk.{layer}.attn_output": (hidden, q_size),
                f"blk.{layer}.ffn_gate": (ffn, hidden),
                f"blk.{layer}.ffn_up": (ffn, hidden),
                f"blk.{layer}.ffn_down": (hidden, ffn),
                f"blk.{layer}.attn_norm": (hidden,),
                f"blk.{layer}.ffn_norm": (hidden,),
            }
        shapes["output_norm"] = (hidden,)
        if not card.tied_embeddings:
            shapes["output"] = (card.vocab_size, hidden)
        if "rope_freqs" in extra:
            shapes["rope_freqs"] = (card.rope_dim // 2,)
        self.tensors: dict[str, Float32] = {
            name: (1 + rng.random(shape) if len(shape) == 1 else rng.normal(size=shape)).astype(
                np.float32
            )
            for name, shape in shapes.items()
        }

        self.keys = MetadataKeys(dict(keys or {}), "tiny")

    def has(self, name: str) -> bool:
        return name in self.tensors

    def matrix(self, *parts: Part, k: int) -> Weight:
        for name, rows in parts:
            assert self.tensors[name].shape == (rows, k), name
        return f32_weight(*(self.tensors[name] for name, _ in parts))

    def experts(self, *parts: Part, k: int, count: int) -> Iterator[Weight]:
        for expert in range(count):
            yield f32_weight(*(self.tensors[name][expert] for name, _ in parts))

    def vector(self, *parts: Part) -> Float32:
        return np.concatenate([self.tensors[name].reshape(-1) for name, _ in parts])

    def unused(self) -> Sequence[str]:
        return ()


def f32_weight(*matrices: Float32) -> Weight:
    """Float32 matrices (N_i, K) stacked along N, as a file would store them."""
    return Weight(
        shape=(sum(len(matrix) for matrix in matrices), matrices[0].shape[1]),
        formats=("F32",) * len(matrices),
        parts=tuple(matrix.view(np.uint8) for matrix in matrices),
        rows=tuple(len(matrix) for matrix in matrices),
    )


def recall_engine(plan: EnginePlan, vocab_size: int = 50) -> tuple[Engine, RecallModel]:
    """An engine on a RecallModel."""
    model = RecallModel(vocab_size)
    ops: Ops = GreedyOps()  # type: ignore[assignment]  # an engine calls `sample` only
    return Engine(model, ops, model.new_kv(plan.num_pages, plan.page_size), plan, vocab_size), model


def state_engine(plan: EnginePlan, vocab_size: int = 50) -> tuple[Engine, StateModel]:
    """An engine on a StateModel."""
    model = StateModel(vocab_size)
    ops: Ops = GreedyOps()  # type: ignore[assignment]
    kv = model.new_kv(plan.num_pages, plan.page_size, plan.max_num_seqs)
    return Engine(model, ops, kv, plan, vocab_size), model


def tiny_engine(plan: EnginePlan, card: ModelCard = TINY_CARD) -> Engine:
    """An engine on a tiny random Llama and the reference backend."""
    ops = ReferenceOps()
    model = build(card, ops, TinySource(card))
    kv = model.new_kv(plan.num_pages, plan.page_size)
    return Engine(ops.compile(model), ops, kv, plan, card.vocab_size)


def run(
    engine: Engine, after_step: Callable[[Engine], None] | None = None, most_steps: int = 5000
) -> dict[str, list[Delta]]:
    """Step until nothing is left; all Deltas by request. Fails if that takes too long."""
    deltas: dict[str, list[Delta]] = {}
    for _ in range(most_steps):
        if not engine.has_work():
            break
        for delta in engine.step():
            deltas.setdefault(delta.request_id, []).append(delta)
        if after_step is not None:
            after_step(engine)
    assert not engine.has_work(), f"still busy after {most_steps} steps"
    for of_one in deltas.values():
        assert [delta.finish is not None for delta in of_one] == [False] * (len(of_one) - 1) + [
            True
        ], "one final Delta, and it is the last"
    return deltas


def token_ids(deltas: list[Delta]) -> tuple[int, ...]:
    """The whole answer of one request."""
    return tuple(token for delta in deltas for token in delta.token_ids)


def request(
    id_: str | int,
    prompt: tuple[int, ...] | range | list[int],
    max_tokens: int = 4,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    priority: int = 0,
    sampling: SamplingParams | None = None,
    cache_salt: str = "",
    stop_ids: tuple[int, ...] = (),
) -> Request:
    """A greedy request unless told otherwise."""
    chosen = sampling or SamplingParams(temperature=temperature, seed=seed)
    return Request(
        id=str(id_),
        prompt=tuple(prompt),
        max_tokens=max_tokens,
        sampling=chosen,
        priority=priority,
        cache_salt=cache_salt,
        stop_ids=stop_ids,
    )
