"""Products with matrices in every layout, and mixtures of experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from pagemill.bench.gpu.bench import Bench, Task, Work
from pagemill.bench.gpu.found import Row
from pagemill.bench.gpu.random_weights import weight
from pagemill.ops.cuda import CudaOps
from pagemill.ops.interface import Routing
from pagemill.ops.plain.ops import PlainOps

# Formats, what they are called here, and which limit of arithmetic is theirs at best.
_FORMATS = (
    ("BF16", "bf16", "bf16"),
    ("FP8", "fp8", "fp8"),
    ("Q8_0", "int8", "int8"),
    ("INT4", "int4, groups of 128", "bf16"),
    ("Q4_K", "Q4_K", "bf16"),
)
_INT_MM_ROWS = 17  # that torch._int_mm takes at least
_FEW = 256  # rows of the second shape at most


def tasks(bench: Bench) -> Iterator[Task]:
    """Both matrices of a gated network, then a mixture of such."""
    sizes = bench.sizes
    shapes = ((2 * sizes.ffn, sizes.hidden, max(sizes.rows)), (sizes.hidden, sizes.ffn, _FEW))
    for n, k, most in shapes:
        for form, name, rate in _FORMATS:
            run = partial(_products, bench, (form, name, rate), (n, k), most)
            yield Task(f"product, {name}, {n} x {k}", run)
    for rows in sizes.rows:
        yield Task(f"experts, {rows} rows", partial(_experts, bench, rows))


def _products(
    bench: Bench, of: tuple[str, str, str], shape: tuple[int, int], most: int
) -> Iterator[Row]:
    (form, name, rate), (n, k) = of, shape
    bench.need(8.0 * n * k)
    matrix = CudaOps(str(bench.device), torch.bfloat16).upload(weight(form, n, k))
    dense = torch.randn((n, k), dtype=torch.bfloat16, device=bench.device)
    for rows in bench.sizes.rows:
        if rows > most:
            continue
        x = torch.randn((rows, k), dtype=torch.bfloat16, device=bench.device)
        nbytes = matrix.nbytes + x.nbytes + 2.0 * rows * n
        torchs, note = _torchs(bench, form, x, dense)
        yield bench.kernel(
            f"product, {name}",
            f"{rows} x {k} x {n}",
            Work(nbytes, 2.0 * rows * n * k, rate),
            partial(matrix.product, x),
            torchs,
            note,
        )


def _torchs(bench: Bench, form: str, x: Tensor, dense: Tensor) -> tuple[Callable[[], Tensor], str]:
    """Torch's own product with a matrix of that kind, of inputs that are rounded already; where it
    has none, with bf16."""
    if form == "FP8" and bench.has_float8:
        codes, rounded = dense.to(torch.float8_e4m3fn), x.to(torch.float8_e4m3fn)
        ones = (
            torch.ones((len(x), 1), device=x.device),
            torch.ones((1, len(dense)), device=x.device),
        )
        return partial(
            torch._scaled_mm,
            rounded,
            codes.T,
            scale_a=ones[0],
            scale_b=ones[1],
            out_dtype=torch.bfloat16,
        ), "torch: _scaled_mm"
    if form == "Q8_0" and len(x) >= _INT_MM_ROWS:
        codes, rounded = dense.to(torch.int8), x.to(torch.int8)
        return partial(torch._int_mm, rounded, codes.T), "torch: _int_mm"
    return partial(functional.linear, x, dense), "torch: linear in bf16"


def _experts(bench: Bench, rows: int) -> Iterator[Row]:
    count, top, width, inner = bench.sizes.experts
    bench.need(8.0 * count * width * inner)
    device = str(bench.device)
    ops, plain = CudaOps(device, torch.bfloat16), PlainOps(device, torch.bfloat16)
    both = [weight("BF16", 2 * inner, width), weight("BF16", width, inner)]
    gate_up, down = ([ops.upload(of) for _ in range(count)] for of in both)
    x = torch.randn((rows, width), dtype=torch.bfloat16, device=bench.device)
    router = torch.randn((rows, count), dtype=torch.bfloat16, device=bench.device)
    touched = count * (1 - (1 - top / count) ** rows)  # experts that anybody chose, on average
    routing = Routing(top)
    yield bench.kernel(
        f"experts, {top} of {count}",
        f"{rows} x {width} x {inner}",
        Work(touched * 6.0 * width * inner + 2.0 * x.nbytes, 6.0 * rows * top * width * inner),
        lambda: ops.experts(x, router, routing, gate_up, down),
        lambda: plain.experts(x, router, routing, gate_up, down),
        "torch: a product for each expert",
    )
