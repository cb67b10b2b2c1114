"""The engine of networks that give a vector for a text: embeddings, scores, classes.

Such a network may let every token see every other, so a row is computed whole, in one step, and is
over with it: nothing is cached, nothing is sampled, nobody is preempted. All else, from the queue
to the counters, is the engine's. Must not know: what a vector means.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pagemill.engine.engine import Engine, Flight
from pagemill.engine.scheduler import Plan, Scheduler
from pagemill.engine.step import build_step
from pagemill.errors import ContextTooLong, InvalidRequest
from pagemill.ops.interface import Float32
from pagemill.types import Delta, Request


class WholeRows(Scheduler):
    """Plans from the queue what fits into one step. Every step begins with all pages free."""

    def schedule(self, now: float) -> Plan:
        """The first of the waiting, as many as there are tokens and pages for. A text longer than
        the budget has a step to itself."""
        plan: Plan = []
        left = self.budget
        while self.waiting and len(plan) < self.max_seqs:
            seq = self.waiting[0]
            fits = not plan or seq.behind <= left
            if not fits or not self.pool.grow(seq, seq.tokens.size):
                break
            left -= seq.behind
            seq.started = now
            plan.append((seq, seq.behind))
            self.running.append(self.waiting.pop(0))
        return plan


class PoolingEngine(Engine):
    """Runs requests for vectors on a network that pools."""

    scheduler_type = WholeRows

    def _check(self, request: Request) -> None:
        prompt_len, limit = len(request.prompt), self._plan.max_model_len
        if not request.pooled or request.max_tokens:
            raise InvalidRequest("this model gives vectors; it writes no text", param="model")
        if not prompt_len:
            raise InvalidRequest("a request needs at least one prompt token")
        if prompt_len > limit:
            raise ContextTooLong(
                f"{prompt_len} prompt tokens exceed the limit of {limit} tokens (max_model_len)"
            )
        types = request.token_types
        if types and (len(types) != prompt_len or min(types) < 0 or max(types) > 1):
            raise InvalidRequest("token_types must be 0 or 1, one for each prompt token")
        self._check_ids(request.prompt, request.id)

    def _forward(self, flight: Flight) -> Callable[[], Any]:
        """(rows, N): a vector for each row of the plan."""
        step = build_step(flight.plan, self._plan.page_size, types=True)
        vectors = np.asarray(self._ops.fetch(self._model(step, self._kv)), "<f4")
        return lambda: vectors

    def _update(self, flight: Flight, outcome: Any) -> list[Delta]:
        """Everybody is done."""
        vectors: Float32 = outcome
        now = time.monotonic()
        deltas = []
        for row, seq in enumerate(flight.sampled):
            seq.first_token = now
            if np.isfinite(vectors[row]).all():
                deltas.append(self._finish(seq, "stop", now, vector=vectors[row].tobytes()))
            else:
                what = "the model's vector holds values that are not numbers"
                deltas.append(self._finish(seq, "error", now, error=what))
        self._count(flight)
        return deltas
