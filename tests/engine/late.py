"""A backend that computes later than it is asked, as a device does: the fake behind `SamplesLater`.

Work is queued in order. It is done when somebody waits for it, or at once, as `eager` decides for
each call: the engine must not be able to tell. Ids in flight are looked up when a step is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pagemill.engine.engine import Engine
from pagemill.models import build
from pagemill.ops.interface import Array, Float32, Int32, Sampled, SampleRows, Step
from pagemill.ops.reference import ReferenceOps
from pagemill.types import EnginePlan
from tests.fakes import GreedyOps, RecallModel, StateModel, TinySource
from tests.samples import TINY_CARD


@dataclass
class Ticket:
    """Logits that may not be there yet."""

    value: Float32 | None = None


class LateBackend:
    """Both halves of a backend: the compiled model, and what samples its logits later."""

    name = "late"

    def __init__(
        self, model: Callable[[Step, Array], Float32], ops: Any, eager: Callable[[], bool]
    ) -> None:
        self.model, self.ops, self.eager = model, ops, eager
        self.events: list[str] = []
        self.launched = self.landed = 0
        self._queue: list[Callable[[], None]] = []
        self._chosen: Int32 = np.empty(0, np.int32)

    def __call__(self, step: Step, kv: Array) -> Ticket:
        ticket = Ticket()
        self.launched += 1
        self.events.append(f"launch {self.launched}")
        self._ask(lambda: self._compute(step, kv, ticket))
        return ticket

    def sample_later(self, logits: Ticket, rows: SampleRows) -> Callable[[], Sampled]:
        result: list[Sampled] = []
        number = self.launched
        self._ask(lambda: result.append(self._sample(logits, rows)))

        def wait() -> Sampled:
            self.events.append(f"land {number}")
            self._work()
            (sampled,) = result
            return sampled

        return wait

    def _ask(self, work: Callable[[], None]) -> None:
        self._queue.append(work)
        if self.eager():
            self._work()

    def _work(self) -> None:
        while self._queue:
            self._queue.pop(0)()

    def _compute(self, step: Step, kv: Array, ticket: Ticket) -> None:
        ids = step.token_ids.copy()
        in_flight = ids < 0
        ids[in_flight] = np.maximum(self._chosen[-1 - ids[in_flight]], 0)
        ticket.value = self.model(replace(step, token_ids=ids), kv)

    def _sample(self, logits: Ticket, rows: SampleRows) -> Sampled:
        assert logits.value is not None
        sampled: Sampled = self.ops.sample(logits.value, rows)
        self._chosen = sampled.ids.copy()
        return sampled


def never() -> bool:
    return False


def late_engine(
    plan: EnginePlan, model: Any, ops: Any, kv: Array, eager: Callable[[], bool] = never
) -> tuple[Engine, LateBackend]:
    backend = LateBackend(model, ops, eager)
    vocab_size = getattr(model, "vocab_size", TINY_CARD.vocab_size)
    return Engine(backend, backend, kv, plan, vocab_size), backend  # type: ignore[arg-type]


def late_recall(
    plan: EnginePlan, eager: Callable[[], bool] = never, model: RecallModel | None = None
) -> tuple[Engine, RecallModel]:
    """An engine ahead of a RecallModel."""
    model = model or RecallModel()
    kv = model.new_kv(plan.num_pages, plan.page_size)
    return late_engine(plan, model, GreedyOps(), kv, eager)[0], model


def late_states(plan: EnginePlan, eager: Callable[[], bool] = never) -> tuple[Engine, StateModel]:
    model = StateModel()
    kv = model.new_kv(plan.num_pages, plan.page_size, plan.max_num_seqs)
    return late_engine(plan, model, GreedyOps(), kv, eager)[0], model


def late_tiny(plan: EnginePlan, eager: Callable[[], bool] = never) -> tuple[Engine, LateBackend]:
    """An engine ahead of the tiny random Llama of `tests.fakes.tiny_engine`."""
    ops = ReferenceOps()
    model = build(TINY_CARD, ops, TinySource(TINY_CARD))
    return late_engine(plan, model, ops, model.new_kv(plan.num_pages, plan.page_size), eager)
