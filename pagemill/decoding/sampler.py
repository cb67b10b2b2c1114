"""From sampling parameters to `SampleRows`, the flat arrays that the `sample` op takes.

The order of things is the op's (see `ops.interface.SampleRows` and `Ops.sample`): edits of single
logits first (penalties, bias, bans), then temperature, top_k, top_p, min_p, then one draw. The
noise of a draw depends on (seed, position) only, where position is the index, in prompt and answer
together, of the token to be sampled; so a token never depends on who shares the batch or on how its
prompt was cut.

Must not know: where logits come from, and what a sequence is beside its sampled tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pagemill.ops.interface import Float32, Int32, SampleRows
from pagemill.types import Request

_NO_IDS: Int32 = np.empty(0, np.int32)
_NO_VALUES: Float32 = np.empty(0, np.float32)
_NO_IDS.flags.writeable = _NO_VALUES.flags.writeable = False


class SamplingState:
    """One request's parameters and what they need to remember of its tokens.

    Edits are kept ready, one entry per token id concerned, and changed as tokens come, so a step
    costs the same whether the answer is short or long. `plain` requests never have edits and
    remember nothing.
    """

    __slots__ = (
        "_add",
        "_banned",
        "_entry",
        "_ids",
        "_min_tokens",
        "_mul",
        "_seen",
        "params",
        "plain",
    )

    def __init__(self, request: Request) -> None:
        self.params = params = request.sampling
        self._min_tokens = request.min_tokens if request.stop_ids else 0
        penalties = params.presence_penalty or params.frequency_penalty
        self.plain = not (
            penalties or params.repetition_penalty != 1 or params.logit_bias or self._min_tokens
        )
        if self.plain:
            return
        self._entry: dict[int, int] = {}  # token id -> its index in the arrays
        self._seen: set[int] = set()  # ids sampled so far
        self._ids: Int32 = np.empty(16, np.int32)
        self._mul: Float32 = np.ones(16, np.float32)
        self._add: Float32 = np.zeros(16, np.float32)
        for token, bias in params.logit_bias:
            entry = self._entry_of(token)  # first: it may replace the arrays
            self._add[entry] += bias
        if params.repetition_penalty != 1:
            for token in request.prompt:
                entry = self._entry_of(token)
                self._mul[entry] = params.repetition_penalty
        banned = set(request.stop_ids) if self._min_tokens else ()
        self._banned = [self._entry_of(token) for token in banned]

    def push(self, token: int) -> None:
        """Take note of a sampled token."""
        if self.plain:
            return
        params, entry = self.params, self._entry_of(token)
        self._min_tokens -= 1
        self._mul[entry] = params.repetition_penalty
        self._add[entry] -= params.frequency_penalty
        if token not in self._seen:
            self._seen.add(token)
            self._add[entry] -= params.presence_penalty

    def edits(self) -> tuple[Int32, Float32, Float32]:
        """(ids, mul, add) for the next token; each id occurs once."""
        if self.plain:
            return _NO_IDS, _NO_VALUES, _NO_VALUES
        size = len(self._entry)
        add = self._add[:size]
        if self._min_tokens > 0:
            add = add.copy()
            add[self._banned] = -np.inf
        return self._ids[:size], self._mul[:size], add

    def _entry_of(self, token: int) -> int:
        entry = self._entry.setdefault(token, len(self._entry))
        if entry == len(self._ids):
            self._ids = np.resize(self._ids, 2 * entry)
            self._mul = np.concatenate([self._mul, np.ones(entry, np.float32)])
            self._add = np.concatenate([self._add, np.zeros(entry, np.float32)])
        self._ids[entry] = token
        return entry


@dataclass(frozen=True, slots=True)
class _Knobs:
    """What does not change from token to token, for one list of rows."""

    temperature: Float32
    top_k: Int32
    top_p: Float32
    min_p: Float32
    seeds: NDArray[np.uint64]
    num_logprobs: Int32
    no_edits: Int32
    plain: bool


class Sampler:
    """Builds SampleRows. While the same rows are sampled step after step, only positions change."""

    def __init__(self) -> None:
        self._states: list[SamplingState] = []
        self._knobs = _knobs([])

    def rows(self, states: list[SamplingState], positions: Int32) -> SampleRows:
        """One row per state; `positions` (S,) are the indices of the tokens to be sampled."""
        if states != self._states:
            self._states, self._knobs = states, _knobs(states)
        knobs = self._knobs
        if knobs.plain:
            starts, ids, mul, add = knobs.no_edits, _NO_IDS, _NO_VALUES, _NO_VALUES
        else:
            starts, ids, mul, add = _gather_edits(states)
        return SampleRows(
            temperature=knobs.temperature,
            top_k=knobs.top_k,
            top_p=knobs.top_p,
            min_p=knobs.min_p,
            seeds=knobs.seeds,
            positions=positions,
            num_logprobs=knobs.num_logprobs,
            edit_starts=starts,
            edit_ids=ids,
            edit_mul=mul,
            edit_add=add,
        )


def _knobs(states: list[SamplingState]) -> _Knobs:
    params = [state.params for state in states]
    return _Knobs(
        temperature=np.array([p.temperature for p in params], np.float32),
        top_k=np.array([p.top_k for p in params], np.int32),
        top_p=np.array([p.top_p for p in params], np.float32),
        min_p=np.array([p.min_p for p in params], np.float32),
        seeds=np.array([p.seed for p in params], np.uint64),
        num_logprobs=np.array([-1 if p.logprobs is None else p.logprobs for p in params], np.int32),
        no_edits=np.zeros(len(params) + 1, np.int32),
        plain=all(state.plain for state in states),
    )


def _gather_edits(states: list[SamplingState]) -> tuple[Int32, Int32, Float32, Float32]:
    edits = [state.edits() for state in states]
    starts = np.zeros(len(edits) + 1, np.int32)
    np.cumsum([len(ids) for ids, _, _ in edits], out=starts[1:])
    ids, mul, add = (np.concatenate(column) for column in zip(*edits, strict=True))
    return starts, ids, mul, add
