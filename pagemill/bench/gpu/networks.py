"""Steps of whole networks: answers beside what reading the weights takes, prompts beside what
multiplying takes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from statistics import median
from time import perf_counter

from pagemill.bench.gpu.bench import Bench, Task, Work
from pagemill.bench.gpu.found import Row
from pagemill.bench.gpu.llama import Loaded, load
from pagemill.bench.gpu.sizes import Shape
from pagemill.bench.gpu.steps import alike, num_pages
from pagemill.ops.interface import Array, Captures, Step

# How layers are stored, what that is called, and which limit of arithmetic is theirs at best.
_FORMATS = (("BF16", "bf16", "bf16"), ("FP8", "fp8", "fp8"), ("INT4", "w4a16", "bf16"))
_BFLOAT16 = 2  # bytes
_BITS = {"BF16": 16, "FP8": 8, "INT4": 4}
_STEPS = 20  # in a row, of which the host is never told


def tasks(bench: Bench) -> Iterator[Task]:
    """The aims are about the large one in bf16: it comes first."""
    for shape in (bench.sizes.large, bench.sizes.small):
        for form in _FORMATS:
            yield Task(f"{shape.name}, {form[1]}", partial(_network, bench, shape, form))


def _network(bench: Bench, shape: Shape, form: tuple[str, str, str]) -> Iterator[Row]:
    sizes, (stored_as, called, rate) = bench.sizes, form
    length = max(sizes.history + 1, *(tokens for _, tokens in sizes.prefills))
    rows = max(*sizes.decoded, *(batch for batch, _ in sizes.prefills))
    pages = num_pages(rows, length, sizes.page)
    per_token = 2 * shape.layers * shape.kv_heads * shape.dim * _BFLOAT16
    of_layers = shape.layers * shape.hidden * (3 * shape.ffn + 3 * shape.heads * shape.dim)
    tables = 2 * _BFLOAT16 * shape.vocab * shape.hidden
    scaled = 1.3 * of_layers * _BITS[stored_as] / 8
    bench.need(scaled + 2 * tables + pages * sizes.page * per_token)
    loaded = load(shape, stored_as, bench.device)
    kv = loaded.network.new_kv(pages, sizes.page, rows)
    run = loaded.ops.compile(loaded.network)
    name = f"{shape.name}, {called}"
    eager = {count: _decode(bench, run, kv, count) for count in sizes.decoded}
    if isinstance(run, Captures):
        run.capture(kv, max(sizes.decoded), sizes.history + 1, sizes.page)
    for count in sizes.decoded:
        step_s, host_s = _decode(bench, run, kv, count)
        history = count * (sizes.history + 1) * per_token
        floor = (loaded.read_bytes + history) / bench.limits.bytes if bench.limits.bytes else 0.0
        slow_s, slow_host_s = eager[count]
        yield Row(
            f"{name}, decode",
            f"{count} x {sizes.history}",
            1e3 * step_s,
            "ms a step",
            share=100 * floor / step_s if floor else None,
            limit="memory" if floor else "",
            note=f"floor {1e3 * floor:.2f} ms, host {1e3 * host_s:.2f} ms; "
            f"eager {1e3 * slow_s:.2f} ms, host {1e3 * slow_host_s:.2f} ms",
        )
    for batch, tokens in sizes.prefills:
        yield _prefill(bench, (name, rate), loaded, kv, (batch, tokens))


def _decode(bench: Bench, run: Array, kv: Array, rows: int) -> tuple[float, float]:
    """Seconds a step, of many that follow each other as they do while answers are written; and how
    long the host is busy with one, which is less where the device is what takes time."""
    sizes = bench.sizes
    step = alike(rows, sizes.history, 1, sizes.page, sizes.vocab)
    for _ in range(3):
        run(step, kv)
    bench.clock.wait()
    calls = []
    started = perf_counter()
    for _ in range(_STEPS):
        before = perf_counter()
        run(step, kv)
        calls.append(perf_counter() - before)
    bench.clock.wait()
    return (perf_counter() - started) / _STEPS, median(calls)


def _prefill(
    bench: Bench, called: tuple[str, str], loaded: Loaded, kv: Array, size: tuple[int, int]
) -> Row:
    (name, rate), (batch, tokens), card = called, size, loaded.card
    step: Step = alike(batch, 0, tokens, bench.sizes.page, bench.sizes.vocab)
    run = loaded.ops.compile(loaded.network)
    took = bench.clock.wall_time(lambda: run(step, kv))
    pairs = batch * tokens * (tokens + 1) / 2
    ops = 2.0 * batch * tokens * loaded.layer_parameters
    ops += 4.0 * pairs * card.layers * card.heads * card.head_dim
    least, limit = bench.limits.bound(Work(0.0, ops, rate))
    return Row(
        f"{name}, prefill",
        f"{batch} x {tokens}",
        batch * tokens / took.seconds,
        "tok/s",
        share=100 * least / took.seconds if least else None,
        limit=limit if least else "",
        note=f"{1e3 * took.seconds:.2f} ms, with the logits of {batch} tokens",
    )
