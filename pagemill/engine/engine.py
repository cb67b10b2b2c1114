"""Engine: the loop. Schedule, forward, sample, update.

A step in flight was handed to the backend and its tokens are not known yet. Most backends compute
at once, so it lands in the same call of `step`. One that computes elsewhere (`SamplesLater`) gets
step N+1 while it still runs N: sequences are planned with their next token in flight, the backend
fills in its id, and what was computed beyond the end of an answer is dropped. It computes steps in
order, so pages may be given away while a step in flight still writes them. What breaks in flight
has broken the device: it is raised out of `step`, and whoever holds the door answers everyone.

Owns the life of a request between `add` and its one final Delta, and the counters. It is
synchronous and single-threaded: the doors (`local`, `process`) call it from one thread, tests and
offline runs call it directly. Must not know: threads, processes, sockets, text, or what kind of
model and backend it was given.

`step` is the architecture; keep it on one screen.
"""

import logging
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pagemill.decoding.sampler import Sampler
from pagemill.engine.offload import HostPool, PageMover
from pagemill.engine.pages import PagePool
from pagemill.engine.reserve import Preparable, Reserve
from pagemill.engine.scheduler import Plan, Scheduler
from pagemill.engine.sequence import Sequence
from pagemill.engine.step import build_step
from pagemill.errors import Busy, ContextTooLong, InvalidRequest, PagemillError
from pagemill.ops.interface import Array, Ops, Sampled, SamplesLater, Step
from pagemill.types import Delta, EnginePlan, EngineStats, FinishReason, Request, TokenLogprobs

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counters:
    """What only ever grows."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0
    step_tokens: int = 0
    step_seconds: float = 0.0
    finished_stop: int = 0
    finished_length: int = 0
    finished_abort: int = 0
    finished_error: int = 0


@dataclass(slots=True)
class Flight:
    """A step that was handed to the backend."""

    plan: Plan
    sampled: list[Sequence]  # who gets a token, in the order of `Step.out_rows`
    outcome: Callable[[], Any]  # waits for what `_update` takes over
    error: Exception | None = None  # why it did not take off
    land_now: bool = True  # the next step cannot be planned before this one's tokens are known


class Engine:
    """Runs requests on one model. `kv` has `plan.num_pages` pages of `plan.page_size` tokens."""

    scheduler_type: type[Scheduler] = Scheduler

    def __init__(
        self,
        model: Callable[[Step, Array], Array],
        ops: Ops,
        kv: Array,
        plan: EnginePlan,
        vocab_size: int,
        mover: PageMover | None = None,
    ) -> None:
        """`mover`: what copies pages of `kv` to the host and back, where that is wanted."""
        assert plan.num_pages * plan.page_size >= plan.max_model_len, "one request must always fit"
        self._model, self._ops, self._kv = model, ops, kv
        self._plan, self._vocab_size = plan, vocab_size
        self._host = None if mover is None else HostPool(mover)
        self._pool = PagePool(plan.num_pages, plan.page_size, plan.prefix_caching, self._host)
        self._reserve = Reserve(self._pool, kv) if isinstance(kv, Preparable) else None
        self._scheduler = self.scheduler_type(
            self._pool, plan.max_num_batched_tokens, plan.max_num_seqs
        )
        self._sampler = Sampler()
        self._later = ops if plan.async_scheduling and isinstance(ops, SamplesLater) else None
        self._flights: deque[Flight] = deque()  # the oldest first; two only within `step`
        self._sequences: dict[str, Sequence] = {}  # unfinished, by request id
        self._num_added = 0
        self._ended: list[Delta] = []  # final Deltas of aborted requests, not yet handed out
        self._counters = _Counters()

    def add(self, request: Request) -> None:
        """Queue a request. Raises Busy when the queue is full; the request is then not accepted.

        A request that does not fit this engine raises InvalidRequest: callers have checked before,
        but kernels trust ids and lengths, so the last door checks them too.
        """
        if len(self._scheduler.waiting) >= self._plan.max_queued:
            raise Busy(f"{self._plan.max_queued} requests are waiting already; try again later")
        self._check(request)
        seq = Sequence(request, self._num_added, time.monotonic())
        self._num_added += 1
        self._sequences[request.id] = seq
        self._scheduler.add(seq)
        self._counters.prompt_tokens += len(request.prompt)

    def abort(self, request_id: str) -> None:
        """End a request and free its pages now; the next step returns its final Delta.

        Unknown and finished ids are no error: an abort may cross the last token on its way.
        """
        seq = self._sequences.get(request_id)
        if seq is not None:
            self._ended.append(self._finish(seq, "abort", time.monotonic()))

    def step(self) -> list[Delta]:
        """Advance every planned sequence once; what came out of it and of those before."""
        started = time.monotonic()
        deltas, self._ended = self._ended, []
        plan = self._scheduler.schedule(started)
        if plan:
            self._flights.append(self._launch(plan))
        may_fly = 1 if plan and not self._flights[-1].land_now else 0
        while len(self._flights) > may_fly:
            flight = self._flights.popleft()
            if flight.error is None:
                deltas += self._update(flight, flight.outcome())
            else:
                deltas += self._fail(flight, flight.error)
        self._counters.step_seconds += time.monotonic() - started
        return deltas

    def has_work(self) -> bool:
        """Whether `step` has something to do or to say."""
        return bool(self._sequences or self._ended or self._flights)

    def prepare(self) -> bool:
        """Do a little of what can be done ahead, for when there is no work. False: nothing is."""
        return self._reserve is not None and self._reserve.extend()

    def stats(self) -> EngineStats:
        """A snapshot of all counters and gauges."""
        pool, scheduler, counters = self._pool, self._scheduler, self._counters
        pages_used = pool.num_pages - pool.num_free
        # Shared pages are full, so every slot that holds nothing belongs to one sequence alone.
        unfilled = sum(s.pages.size * pool.page_size - s.computed_len for s in scheduler.running)
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            pages_total=pool.num_pages,
            pages_used=pages_used,
            page_size=pool.page_size,
            slots_allocated=pages_used * pool.page_size,
            slots_filled=pages_used * pool.page_size - unfilled,
            prompt_tokens=counters.prompt_tokens,
            generation_tokens=counters.generation_tokens,
            prefix_queries=pool.prefix_queries,
            prefix_hits=pool.prefix_hits,
            preemptions=scheduler.preemptions,
            steps=counters.steps,
            step_tokens=counters.step_tokens,
            step_seconds=counters.step_seconds,
            finished_stop=counters.finished_stop,
            finished_length=counters.finished_length,
            finished_abort=counters.finished_abort,
            finished_error=counters.finished_error,
            memory_bytes=_resident_bytes(),
        )

    def _check(self, request: Request) -> None:
        prompt_len, limit = len(request.prompt), self._plan.max_model_len
        if request.pooled:
            raise InvalidRequest("this model writes text; it gives no vectors", param="model")
        if not prompt_len or request.max_tokens < 1:
            raise InvalidRequest(
                f"a request needs a prompt and max_tokens of at least 1; "
                f"got {prompt_len} prompt tokens and max_tokens {request.max_tokens}"
            )
        if prompt_len + request.max_tokens > limit:
            raise ContextTooLong(
                f"{prompt_len} prompt tokens and max_tokens {request.max_tokens} exceed "
                f"the limit of {limit} tokens (max_model_len)",
                param="max_tokens",
            )
        ids = (*request.prompt, *request.stop_ids, *(id_ for id_, _ in request.sampling.logit_bias))
        self._check_ids(ids, request.id)

    def _check_ids(self, ids: Collection[int], request_id: str) -> None:
        if min(ids) < 0 or max(ids) >= self._vocab_size:
            raise InvalidRequest(f"token ids must be in 0..{self._vocab_size - 1}")
        if request_id in self._sequences:
            raise InvalidRequest(f"a request with the id {request_id!r} is running already")

    def _launch(self, plan: Plan) -> Flight:
        """Hand a step to the backend, and count its tokens as computed and sampled."""
        sampled = [seq for seq, take in plan if seq.behind == take]
        flight = Flight(plan, sampled, _nothing)
        try:
            flight.outcome = self._forward(flight)
            # Penalties and minimal lengths change the next logits by tokens that must be known.
            flight.land_now = self._later is None or not all(s.sampling.plain for s in sampled)
        except Exception as error:  # a boundary: whatever broke, these requests must be answered
            flight.error = error
        for seq, take in plan:
            seq.computed_len += take
        for row, seq in enumerate(sampled):
            seq.expect(row)
        return flight

    def _forward(self, flight: Flight) -> Callable[[], Any]:
        """Run the model over a plan. The result gives, or waits for, what `_update` takes over:
        here what was sampled, or None if all rows are inside their prompts."""
        if self._host is not None:
            self._host.move()
        step = build_step(flight.plan, self._plan.page_size)
        logits = self._model(step, self._kv)
        if not flight.sampled and self._later is None:
            return _nothing
        states = [seq.sampling for seq in flight.sampled]
        rows = self._sampler.rows(states, step.positions[step.out_rows] + np.int32(1))
        if self._later is not None:
            return self._later.sample_later(logits, rows)
        sampled = self._ops.sample(logits, rows)
        assert sampled.ids.max() < self._vocab_size
        return lambda: sampled

    def _update(self, flight: Flight, outcome: Any) -> list[Delta]:
        """Take the sampled tokens over; finish who is done."""
        sampled: Sampled | None = outcome
        now = time.monotonic()
        deltas = []
        ids = [] if sampled is None else sampled.ids.tolist()
        for row, seq in enumerate(flight.sampled):
            if seq.ended:
                continue  # stopped or aborted while this was computed
            logprobs: tuple[TokenLogprobs, ...] = ()
            if sampled is not None and seq.request.sampling.logprobs is not None:
                logprobs = (_logprobs(sampled, row, seq.request.sampling.logprobs),)
            deltas.append(self._accept(seq, ids[row], logprobs, now))
        self._counters.generation_tokens += len(deltas)
        self._count(flight)
        return deltas

    def _count(self, flight: Flight) -> None:
        self._counters.steps += 1
        self._counters.step_tokens += sum(take for _, take in flight.plan)

    def _accept(
        self, seq: Sequence, token: int, logprobs: tuple[TokenLogprobs, ...], now: float
    ) -> Delta:
        if token < 0:
            self._pool.forget(seq)
            return self._finish(seq, "error", now, error="the model's logits are not numbers")
        seq.know(token)
        self._pool.publish(seq, seq.computed_len)  # a page that waited for this token
        seq.sampling.push(token)
        if seq.first_token is None:
            seq.first_token = now
        if token in seq.stop_ids:
            return self._finish(seq, "stop", now, token=token, logprobs=logprobs)
        if seq.num_output >= seq.request.max_tokens:
            return self._finish(seq, "length", now, token=token, logprobs=logprobs)
        return Delta(seq.request.id, (token,), logprobs)

    def _fail(self, flight: Flight, error: Exception) -> list[Delta]:
        """Answer everyone in a step that broke. What they wrote may be wrong: never reuse it."""
        _log.exception("a step of %d sequences failed", len(flight.plan), exc_info=error)
        # Messages of other exceptions may name files and internals; the log has them.
        reason = error.message if isinstance(error, PagemillError) else type(error).__name__
        now = time.monotonic()
        left = [seq for seq, _ in flight.plan if not seq.ended]
        for seq in left:
            self._pool.forget(seq)
        return [self._finish(seq, "error", now, error=f"the step failed: {reason}") for seq in left]

    def _finish(
        self,
        seq: Sequence,
        finish: FinishReason,
        now: float,
        *,
        token: int | None = None,
        logprobs: tuple[TokenLogprobs, ...] = (),
        error: str | None = None,
        vector: bytes = b"",
    ) -> Delta:
        """Release everything of `seq` and write its final Delta."""
        self._scheduler.remove(seq)
        del self._sequences[seq.request.id]
        seq.ended = True
        match finish:
            case "stop":
                self._counters.finished_stop += 1
            case "length":
                self._counters.finished_length += 1
            case "abort":
                self._counters.finished_abort += 1
            case "error":
                self._counters.finished_error += 1
        started = now if seq.started is None else seq.started
        first_token = now if seq.first_token is None else seq.first_token
        return Delta(
            request_id=seq.request.id,
            token_ids=() if token is None else (token,),
            logprobs=logprobs,
            finish=finish,
            stop_id=token if finish == "stop" else None,
            error=error,
            cached_tokens=seq.cached_tokens or 0,
            queue_s=started - seq.arrived,
            prefill_s=first_token - started,
            decode_s=now - first_token,
            preemptions=seq.preemptions,
            vector=vector,
        )


def _nothing() -> None:
    """The outcome of a step that samples nothing."""


def _logprobs(sampled: Sampled, row: int, num_top: int) -> TokenLogprobs:
    return TokenLogprobs(
        chosen=float(sampled.logprobs[row]),
        top_ids=tuple(sampled.top_ids[row, :num_top].tolist()),
        top=tuple(sampled.top_logprobs[row, :num_top].tolist()),
    )


def _resident_bytes() -> int:
    """Memory of this process. Where /proc is missing, its peak is the nearest that is offered."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
