"""What the card can do at most, measured now: everything else is told as a share of it."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import torch

from pagemill.bench.gpu.bench import Bench, Skip, Task
from pagemill.bench.gpu.found import Row

_LAUNCHES = 500


def tasks(bench: Bench) -> Iterator[Task]:
    """Rows name in `limit` what they are the limit of."""
    yield Task("memory", lambda: _memory(bench))
    yield Task("bf16 products", lambda: _bf16(bench))
    yield Task("fp8 products", lambda: _fp8(bench))
    yield Task("int8 products", lambda: _int8(bench))
    yield Task("launches", lambda: _launches(bench))


def _memory(bench: Bench) -> Iterator[Row]:
    size = bench.sizes.copied_bytes
    bench.need(2.2 * size)
    numbers = torch.ones(size // 4, dtype=torch.float32, device=bench.device)
    into = torch.empty_like(numbers)
    named = f"{size / (1 << 30):.3g} GiB"
    took = bench.clock.device_time(lambda: into.copy_(numbers))
    yield Row("memory, copy", named, 2 * size / took.seconds / 1e9, "GB/s", limit="memory")
    took = bench.clock.device_time(numbers.sum)
    yield Row("memory, read", named, size / took.seconds / 1e9, "GB/s", limit="memory")


def _bf16(bench: Bench) -> Iterator[Row]:
    a, b = (torch.randn(_cube(bench), device=bench.device).bfloat16() for _ in range(2))
    yield _rate(bench, "bf16", "torch.matmul", bench.clock.device_time(lambda: a @ b.T).seconds)


def _fp8(bench: Bench) -> Iterator[Row]:
    if not bench.has_float8:
        raise Skip("this device has no products of eight-bit floats")
    a, b = (
        torch.randn(_cube(bench), device=bench.device).to(torch.float8_e4m3fn) for _ in range(2)
    )
    one = torch.ones((), device=bench.device)
    took = bench.clock.device_time(
        lambda: torch._scaled_mm(a, b.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    )
    yield _rate(bench, "fp8", "torch._scaled_mm", took.seconds)


def _int8(bench: Bench) -> Iterator[Row]:
    a, b = (
        torch.randint(-127, 128, _cube(bench), dtype=torch.int8, device=bench.device)
        for _ in range(2)
    )
    took = bench.clock.device_time(lambda: torch._int_mm(a, b.T))
    yield _rate(bench, "int8", "torch._int_mm", took.seconds)


def _launches(bench: Bench) -> Iterator[Row]:
    x = torch.zeros(1, device=bench.device)
    with torch.inference_mode():
        x.add_(1)
        bench.clock.wait()
        started = perf_counter()
        for _ in range(_LAUNCHES):
            x.add_(1)
        took = (perf_counter() - started) / _LAUNCHES
        bench.clock.wait()
    yield Row("launch of a kernel", "time of the host", 1e6 * took, "us", limit="host")
    replayed = bench.clock.device_time(lambda: x.add_(1))
    yield Row("graph of one kernel", "time of the device", 1e6 * replayed.seconds, "us",
              limit="launch", note=replayed.note)  # fmt: skip


def _cube(bench: Bench) -> tuple[int, int]:
    return bench.sizes.cube, bench.sizes.cube


def _rate(bench: Bench, name: str, call: str, seconds: float) -> Row:
    size = bench.sizes.cube
    return Row(f"{name} products", f"{size}^3", 2.0 * size**3 / seconds / 1e12, "Tflop/s",
               limit=name, note=call)  # fmt: skip
