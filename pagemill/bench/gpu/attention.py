"""Attention over pages: answers that read long histories, and prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from pagemill.bench.gpu.bench import Bench, Task, Work
from pagemill.bench.gpu.found import Row
from pagemill.bench.gpu.steps import alike, num_pages
from pagemill.ops.cuda import CudaOps
from pagemill.ops.interface import Scoring
from pagemill.ops.plain.cache import LayerCache
from pagemill.ops.plain.step import to_device

_KINDS = ("bf16", "fp8", "q8")  # of caches
_SDPA = "torch: scaled_dot_product_attention of keys in one piece"
_NUMBERS = 121  # bytes below this are numbers in every type of eight bits


def tasks(bench: Bench) -> Iterator[Task]:
    """The shortest first: time may be up before the longest."""
    sizes = bench.sizes
    for context in sizes.contexts:
        for kind in _KINDS:
            for batch in sizes.batches:
                name = f"attention, decode, {kind}, {batch} x {context}"
                yield Task(name, _later(_decode, bench, kind, batch, context))
    for batch, tokens in sizes.prompts:
        name = f"attention, prefill, {batch} x {tokens}"
        yield Task(name, _later(_prefill, bench, "bf16", batch, tokens))


def _later(
    make: Callable[[Bench, str, int, int], Row], bench: Bench, kind: str, batch: int, length: int
) -> Callable[[], list[Row]]:
    return lambda: [make(bench, kind, batch, length)]


def _decode(bench: Bench, kind: str, batch: int, context: int) -> Row:
    """One token a row, its own key and value stored in the same call."""
    ops, cache = _pages(bench, kind, num_pages(batch, context, bench.sizes.page))
    q, k, v = _heads(bench, batch)
    step = to_device(alike(batch, context - 1, 1, bench.sizes.page), bench.device)
    scoring = Scoring(bench.sizes.dim**-0.5)
    per_token = _token_bytes(cache)
    work = Work(batch * context * per_token, 4.0 * batch * context * q[0].numel())
    torchs = None
    if kind == "bf16" and context % bench.sizes.page == 0:
        torchs = partial(_in_one_piece, q, cache, context, scoring.scale)
    return bench.kernel(
        f"attention, decode, {kind} cache",
        f"{batch} x {context}",
        work,
        lambda: ops.attention(q, k, v, cache, step, scoring),
        torchs,
        _SDPA if torchs else "",
    )


def _in_one_piece(q: Tensor, cache: LayerCache, context: int, scale: float) -> Tensor:
    """Torch's own, as if the pages were in order: one run of memory for each row."""
    keys, values = (
        part[:-1].view(len(q), context, *part.shape[2:]).transpose(1, 2)
        for part in (cache.keys, cache.values)
    )
    return functional.scaled_dot_product_attention(
        q[:, :, None], keys, values, scale=scale, enable_gqa=True
    )


def _prefill(bench: Bench, kind: str, batch: int, tokens: int) -> Row:
    """Prompts that nothing came before."""
    ops, cache = _pages(bench, kind, num_pages(batch, tokens, bench.sizes.page))
    q, k, v = _heads(bench, batch * tokens)
    step = to_device(alike(batch, 0, tokens, bench.sizes.page), bench.device)
    scoring = Scoring(bench.sizes.dim**-0.5)
    pairs = batch * tokens * (tokens + 1) / 2
    moved = 2.0 * (2 * q.nbytes + k.nbytes + v.nbytes)
    apart = [x.view(batch, tokens, *x.shape[1:]).transpose(1, 2) for x in (q, k, v)]
    return bench.kernel(
        "attention, prefill",
        f"{batch} x {tokens}",
        Work(moved, 4.0 * pairs * q[0].numel()),
        lambda: ops.attention(q, k, v, cache, step, scoring),
        lambda: functional.scaled_dot_product_attention(
            *apart, is_causal=True, scale=scoring.scale, enable_gqa=True
        ),
        _SDPA,
    )


def _pages(bench: Bench, kind: str, count: int) -> tuple[CudaOps, LayerCache]:
    """A layer's pages full of numbers."""
    sizes = bench.sizes
    elements = 2 * count * sizes.page * sizes.kv_heads * sizes.dim
    bench.need(1.1 * elements * (2 if kind == "bf16" else 1))
    ops = CudaOps(str(bench.device), torch.bfloat16, "auto" if kind == "bf16" else kind)
    cache = ops.new_kv(1, count, sizes.page, sizes.kv_heads, sizes.dim)[0]
    for part in (cache.keys, cache.values):
        if part.dtype == torch.bfloat16:
            part.normal_()
        else:
            part.view(torch.uint8).random_(0, _NUMBERS)
    for scales in (cache.key_scales, cache.value_scales):
        if scales is not None:
            scales.fill_(0.01)
    return ops, cache


def _heads(bench: Bench, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    sizes = bench.sizes
    counts = (sizes.heads, sizes.kv_heads, sizes.kv_heads)
    shapes = [(tokens, count, sizes.dim) for count in counts]
    q, k, v = (torch.randn(s, dtype=torch.bfloat16, device=bench.device) for s in shapes)
    return q, k, v


def _token_bytes(cache: LayerCache) -> float:
    """Of the cache, for each token."""
    parts = (cache.keys, cache.values, cache.key_scales, cache.value_scales)
    slots = int(cache.keys.shape[0] * cache.keys.shape[1])
    return sum(int(part.nbytes) for part in parts if part is not None) / slots
