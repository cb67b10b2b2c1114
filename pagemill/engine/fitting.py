"""How many pages fit on a device: what is left when the largest step has been computed there.

A plan for a device estimates. Here, in the engine's process and before any page is made, the
largest step that the plan allows is run once, on one page that everybody shares, and the device is
asked what it has left. Must not know: which device, how anything is computed.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from pagemill.decoding.sampler import Sampler, SamplingState
from pagemill.errors import ConfigError
from pagemill.ops.interface import Array, Ops, Step
from pagemill.types import EnginePlan, Request, SamplingParams

_PROBED_PAGES = 64  # made for a moment, to learn what a page takes
_ANY = SamplingParams(temperature=1.0, top_k=50, top_p=0.9, min_p=0.01)  # all that takes memory
_GREEDY = SamplingParams(temperature=0.0)
_DOUBLED = 7  # times, from two tokens: from 128 on prompts are long

_log = logging.getLogger(__name__)


class DeviceMemory(Protocol):
    """What a device says of its memory, in bytes."""

    @property
    def total(self) -> int: ...

    @property
    def free(self) -> int:
        """That nobody has taken. What this process keeps for later use is taken."""
        ...

    def peak(self, run: Callable[[], object]) -> int:
        """The most that is in use while `run` runs, beyond what was before. What is kept for later
        use is given back first, so afterwards it is what `run` has left."""
        ...


@dataclass(frozen=True, slots=True)
class Network:
    """A network on its device, before it has pages."""

    compiled: Callable[[Step, Array], Array]
    ops: Ops
    new_kv: Callable[[int], Array]  # from a number of pages
    context_length: int
    pooled: bool
    captures: bool  # its decode steps will be captured, in memory of their own


def fitted(plan: EnginePlan, network: Network, memory: DeviceMemory) -> EnginePlan:
    """`plan` with the pages that fit, and the longest context that they hold. ConfigError for what
    was asked for and does not fit."""
    page_bytes = _page_bytes(network, memory)
    step_bytes, graph_bytes = _rehearse(plan, network, memory, page_bytes)
    spared = int((1 - plan.gpu_memory_utilization) * memory.total)
    room = max(0, memory.free - spared - graph_bytes)
    _log.info(
        "the largest step takes %s, %s are left for keys and values", _mib(step_bytes), _mib(room)
    )
    if not page_bytes:
        return plan
    num_pages = room // page_bytes
    if plan.asked_kv_bytes:
        asked = plan.asked_kv_bytes // page_bytes
        if asked > num_pages:
            raise _refusal("kv_cache_memory", plan.asked_kv_bytes, room, plan, memory)
        num_pages = asked
    least = plan.asked_model_len or min(plan.least_model_len, network.context_length)
    if num_pages * plan.page_size < least:
        need = -(-least // plan.page_size) * page_bytes
        raise _refusal("max_model_len", need, num_pages * page_bytes, plan, memory, num_pages)
    return replace(
        plan,
        num_pages=num_pages,
        kv_bytes=num_pages * page_bytes,
        max_model_len=plan.asked_model_len
        or min(network.context_length, num_pages * plan.page_size),
    )


def _rehearse(
    plan: EnginePlan, network: Network, memory: DeviceMemory, page_bytes: int
) -> tuple[int, int]:
    """What the largest step takes, and what the largest captured one will take."""
    length = plan.asked_model_len or network.context_length
    if page_bytes and not plan.asked_model_len:  # tables of positions need not reach further
        length = min(length, max(plan.page_size, memory.free // page_bytes * plan.page_size))
    kv = network.new_kv(1)
    largest = largest_step(plan, length, network)
    _run(network, kv, largest)  # what is made once and stays is no part of a step
    if not network.pooled:
        _warm_up(plan, network, kv, length)
    graph_bytes = 0
    if network.captures:
        rows = [1] * plan.max_num_seqs
        decode = _step(rows, rows, length, plan)
        graph_bytes = memory.peak(lambda: network.compiled(decode, kv))
    return memory.peak(lambda: _run(network, kv, largest)), graph_bytes


def _warm_up(plan: EnginePlan, network: Network, kv: Array, length: int) -> None:
    """Prompts of few tokens, alone and beside an answer: their kernels are others than those of
    long ones, and made when they are first called, for which no request shall wait."""
    most = min(plan.max_num_batched_tokens - 1, length)
    for tokens in (2 << i for i in range(_DOUBLED)):
        if tokens <= most:
            _run(network, kv, _step([tokens], [tokens], length, plan), _GREEDY)
            _run(network, kv, _step([1, tokens], [1, tokens], length, plan))


def largest_step(plan: EnginePlan, length: int, network: Network) -> Step:
    """As many tokens, and as many sampled rows, as a step may have; the last rows bring prompts,
    which end where the longest context ends."""
    tokens = plan.max_num_batched_tokens
    if network.pooled:
        return _step([length] * max(1, tokens // length), None, length, plan)
    sampled = min(plan.max_num_seqs, tokens)
    takes = [1] * (sampled - 1)
    left = tokens - len(takes)
    while left:
        takes.append(min(left, length))
        left -= takes[-1]
    return _step(takes, takes[:sampled], length, plan)


def _step(takes: list[int], sampled: list[int] | None, length: int, plan: EnginePlan) -> Step:
    """Rows of so many tokens, which nobody keeps: all read page 0, and write to slot -1."""
    ends = np.cumsum(takes, dtype=np.int32)
    starts = np.concatenate([np.zeros(1, np.int32), ends])
    num_tokens = int(ends[-1])
    kv_lens = np.array([take if take == 1 else length for take in takes], np.int32)
    kv_lens[-1] = length
    positions = np.concatenate(
        [np.arange(end - take, end) for take, end in zip(takes, kv_lens, strict=True)]
    )
    return Step(
        token_ids=np.zeros(num_tokens, np.int32),
        positions=positions.astype(np.int32),
        slots=np.full(num_tokens, -1, np.int32),
        row_starts=starts,
        kv_lens=kv_lens,
        page_table=np.zeros((len(takes), -(-length // plan.page_size)), np.int32),
        out_rows=ends[: len(takes if sampled is None else sampled)] - np.int32(1),
        page_size=plan.page_size,
        token_types=np.zeros(num_tokens, np.int32) if sampled is None else None,
        state_slots=np.full((len(takes), 2), -1, np.int32),
    )


def _run(network: Network, kv: Array, step: Step, params: SamplingParams = _ANY) -> Any:
    out = network.compiled(step, kv)
    if network.pooled:
        return out
    order = Request("", (0,), 1, params)
    states = [SamplingState(order)] * len(step.out_rows)
    return network.ops.sample(out, Sampler().rows(states, np.zeros(len(states), np.int32)))


def _page_bytes(network: Network, memory: DeviceMemory) -> int:
    one = memory.peak(lambda: network.new_kv(1))
    more = memory.peak(lambda: network.new_kv(1 + _PROBED_PAGES))
    return -(-(more - one) // _PROBED_PAGES)


def _refusal(
    setting: str, need: int, have: int, plan: EnginePlan, memory: DeviceMemory, pages: int = 0
) -> ConfigError:
    share = plan.gpu_memory_utilization
    fits = f" to {pages * plan.page_size}, the most that fits" if pages else ""
    lower = f"lower --max-model-len{fits}" if setting == "max_model_len" else "lower it"
    return ConfigError(
        f"{setting}: keys and values need {_mib(need)}, there are {_mib(have)} on the device "
        f"({_mib(memory.free)} are free of {_mib(memory.total)}, of which {share:.0%} may be used, "
        f"beside weights and the largest step); {lower}, lower --max-num-batched-tokens or "
        f"--max-num-seqs, raise --gpu-memory-utilization, or choose a smaller model",
        param=setting,
    )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
