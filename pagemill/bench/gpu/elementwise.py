"""What is done to each token between products, and the choice of the next: norms, rotations, gates,
sampling."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pagemill.bench.gpu.bench import Bench, Task, Work
from pagemill.bench.gpu.clock import first_line
from pagemill.bench.gpu.found import Row
from pagemill.bench.gpu.steps import alike, num_pages
from pagemill.ops.cuda import CudaOps
from pagemill.ops.interface import Rope, Sampled, SampleRows
from pagemill.ops.plain.cache import LayerCache

_EPS = 1e-5
_TOP_K, _TOP_P = 50, 0.9


def tasks(bench: Bench) -> Iterator[Task]:
    """Few rows first."""
    for rows in bench.sizes.rows:
        yield Task(f"rms_norm, {rows} rows", partial(_norm, bench, rows))
        yield Task(f"rope and store, {rows} rows", partial(_rope, bench, rows))
        yield Task(f"silu and product, {rows} rows", partial(_gate, bench, rows))
    for rows in bench.sizes.sampled:
        yield Task(f"sampling, {rows} rows", partial(_sampling, bench, rows))


def _ops(bench: Bench) -> CudaOps:
    return CudaOps(str(bench.device), torch.bfloat16)


def _numbers(bench: Bench, *shape: int) -> Tensor:
    return torch.randn(shape, device=bench.device).bfloat16()


def _norm(bench: Bench, rows: int) -> Iterator[Row]:
    ops, width = _ops(bench), bench.sizes.hidden
    x, weight = _numbers(bench, rows, width), torch.ones(width, device=bench.device)
    same = weight.bfloat16()
    yield bench.kernel(
        "rms_norm",
        f"{rows} x {width}",
        Work(2.0 * x.nbytes),
        lambda: ops.rms_norm(x, weight, _EPS),
        lambda: functional.rms_norm(x, (width,), same, _EPS),
        "torch: rms_norm",
    )


def _gate(bench: Bench, rows: int) -> Iterator[Row]:
    ops, width = _ops(bench), bench.sizes.ffn
    x = _numbers(bench, rows, 2 * width)
    yield bench.kernel(
        "silu of one half times the other",
        f"{rows} x {width}",
        Work(1.5 * x.nbytes),
        lambda: ops.act_mul(x, "silu"),
        lambda: functional.silu(x[:, :width]) * x[:, width:],
        "torch: silu, mul",
    )


def _rope(bench: Bench, rows: int) -> Iterator[Row]:
    """Queries and keys rotated, keys and values into their pages; beside it by torch's calls."""
    sizes, ops = bench.sizes, _ops(bench)
    rope = Rope(tuple(1e4 ** (-i / sizes.dim) for i in range(0, sizes.dim, 2)))
    table = ops.rope_table(rope)
    q = _numbers(bench, rows, sizes.heads, sizes.dim)
    k, v = (_numbers(bench, rows, sizes.kv_heads, sizes.dim) for _ in range(2))
    step = alike(rows, 0, 1, sizes.page)
    positions, slots = (torch.from_numpy(x).to(bench.device) for x in (step.positions, step.slots))
    pages = num_pages(rows, 1, sizes.page)
    cache: LayerCache = ops.new_kv(1, pages, sizes.page, sizes.kv_heads, sizes.dim)[0]

    def torchs() -> Tensor:
        cache.store(slots, _turn(k, table.cos, table.sin, positions), v)
        return _turn(q, table.cos, table.sin, positions)

    ours: Callable[[], Tensor] = torchs
    note = "there is no kernel here"
    if bench.on_card and importlib.util.find_spec("triton"):
        from pagemill.ops.triton.rope_cache import rope_and_store

        ours = partial(rope_and_store, q, k, v, table.cos, table.sin, positions, slots, cache)
        note = "torch: mul, cat, index_put"
    work = Work(2.0 * (q.nbytes + k.nbytes + v.nbytes))
    yield bench.kernel("rope and store", f"{rows} tokens", work, ours, torchs, note)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    c, s = cos[positions][:, None], sin[positions][:, None]
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * c - b * s, b * c + a * s], -1).to(x.dtype)


def _sampling(bench: Bench, rows: int) -> Iterator[Row]:
    """From logits to ids on the host, with everything on the way: what a step waits for."""
    vocab, ops = bench.sizes.vocab, _ops(bench)
    logits = 3 * torch.randn((rows, vocab), device=bench.device)

    def chosen(name: str, knobs: SampleRows, torchs: Callable[[], Tensor], calls: str) -> Row:
        took = bench.clock.wall_time(lambda: _waited(ops, logits, knobs))
        other, note = None, f"torch: {calls}"
        try:
            other = bench.clock.wall_time(lambda: torchs().cpu()).seconds
        except (RuntimeError, NotImplementedError) as error:
            note = f"torch: {first_line(error)}"
        work = Work(float(logits.nbytes))
        return bench.row(f"sampling, {name}", f"{rows} x {vocab}", took, work, other, note)

    greedy, plain = _knobs(rows, 0.0), _knobs(rows, 1.0)
    yield chosen("greedy", greedy, lambda: logits.argmax(-1), "argmax")
    yield chosen("temperature", plain, lambda: _drawn(logits), "softmax, multinomial")
    best, tops = f"top_k {_TOP_K}, top_p {_TOP_P}", _knobs(rows, 1.0, _TOP_K, _TOP_P)
    yield chosen(best, tops, lambda: _of_the_best(logits), "topk, softmax, cumsum, multinomial")


def _waited(ops: CudaOps, logits: Tensor, knobs: SampleRows) -> Sampled:
    wait = ops.sample_later(logits, knobs)
    return wait()


def _drawn(logits: Tensor) -> Tensor:
    return torch.multinomial(torch.softmax(logits, -1), 1)


def _of_the_best(logits: Tensor) -> Tensor:
    top, ids = logits.topk(min(_TOP_K, logits.shape[1]), -1)
    p = torch.softmax(top, -1)
    p = torch.where(p.cumsum(-1) - p < _TOP_P, p, 0.0)
    return ids.gather(1, torch.multinomial(p, 1))


def _knobs(rows: int, heat: float, top_k: int = 0, top_p: float = 1.0) -> SampleRows:
    return SampleRows(
        temperature=np.full(rows, heat, np.float32),
        top_k=np.full(rows, top_k, np.int32),
        top_p=np.full(rows, top_p, np.float32),
        min_p=np.zeros(rows, np.float32),
        seeds=np.arange(rows, dtype=np.uint64),
        positions=np.arange(rows, dtype=np.int32),
        num_logprobs=np.full(rows, -1, np.int32),
        edit_starts=np.zeros(rows + 1, np.int32),
        edit_ids=np.empty(0, np.int32),
        edit_mul=np.empty(0, np.float32),
        edit_add=np.empty(0, np.float32),
    )
