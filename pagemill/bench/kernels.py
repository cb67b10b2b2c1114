"""The kernels of the cpu backend beside what this machine can do at most, both measured now.

The limits are the fastest of several runs of loops that only read memory, or multiply int8, fp32 or
bf16, with the same instructions and threads. A kernel cannot be faster than the nearer of two: its
bytes at the speed of memory, its products at the speed of the instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from pagemill import _native
from pagemill.bench.document import Bars, Document, Table, ms, number
from pagemill.bench.facts import Facts
from pagemill.bench.run import Watch
from pagemill.errors import InvalidRequest
from pagemill.ops.cpu import CpuOps
from pagemill.ops.interface import Array, Scoring, Step, Weight
from pagemill.weights import formats

SCHEMA = 1
MOST_ROWS = 4096
WIDTH = 4096  # of square matrices
PACKED_ROWS = (
    32  # that are made and repeated: making them is slow, and speed does not depend on them
)
SET_BYTES = 128 << 20  # that a measurement reads: more than caches hold
LEAST_REPEATS, LONG_ENOUGH_S = 3, 0.3
HEADS, KV_HEADS, DIM, PAGE = 32, 8, 64, 16
FP16_BYTES = 2
DECODES = ((1, 8192), (8, 2048), (50, 1024))  # sequences, tokens of history each
PREFILLS = (256, 2048)  # tokens of a prompt
PAGES_AT_ONCE = 64  # written by a step
NORM_ROWS, MANY_NORMS = 256, 16


@dataclass(frozen=True, slots=True)
class Limits:
    """A second, all threads together."""

    read_bytes: float
    int8_ops: float
    fp32_ops: float
    bf16_ops: float = 0.0  # where kernels have it

    @classmethod
    def best(cls, all_: Sequence[Limits]) -> Limits:
        """The most that was reached of each."""
        return cls(
            max(of.read_bytes for of in all_),
            max(of.int8_ops for of in all_),
            max(of.fp32_ops for of in all_),
            max(of.bf16_ops for of in all_),
        )


@dataclass(frozen=True, slots=True)
class Timed:
    """One kernel at one size."""

    kernel: str
    size: str
    seconds: float
    bytes: float  # read and written at least
    ops: float  # a multiplication and an addition are two
    arithmetic: str  # int8, fp32 or bf16

    def bound(self, limits: Limits) -> tuple[float, str]:
        """The least seconds that it can take here, and why."""
        rates = {"int8": limits.int8_ops, "fp32": limits.fp32_ops, "bf16": limits.bf16_ops}
        memory, compute = self.bytes / limits.read_bytes, self.ops / rates[self.arithmetic]
        return (memory, "memory") if memory >= compute else (compute, self.arithmetic)


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """All of it, for other programs."""

    schema: int
    kind: str
    facts: Facts
    instructions: str
    threads: int
    limits: list[Limits]  # measured again and again meanwhile
    kernels: list[Timed]
    interrupted: bool


def measure_limits(ops: CpuOps) -> Limits:
    """What the machine gives right now."""
    return Limits(*_native.limits(ops.native, SET_BYTES))


def kernels(
    ops: CpuOps, names: Sequence[str], rows: Sequence[int], limits: list[Limits], watch: Watch
) -> Iterator[Timed]:
    """Products of each format and number of rows, then attention, then norms; `limits` takes what
    the machine gave before each."""
    watch.begin("kernels", len(names) + len(DECODES) + len(PREFILLS) + 1)
    for name in names:
        limits.append(measure_limits(ops))
        yield from _products(ops, name, rows)
        watch.one()
    limits.append(measure_limits(ops))
    arithmetic = "bf16" if limits[-1].bf16_ops else "fp32"
    for sequences, history in DECODES:
        size = f"{sequences} x {history} tokens"
        yield _attention(ops, "attention, decode", size, [history - 1] * sequences, 1, arithmetic)
        watch.one()
    for tokens in PREFILLS:
        yield _attention(ops, "attention, prefill", f"{tokens} tokens", [0], tokens, arithmetic)
        watch.one()
    yield from _norms(ops)
    watch.one()


def known_formats(wanted: str) -> list[str]:
    """Formats that products are measured for: all that can be written, or those of a list."""
    able = [name for name in _native.matrix_formats() if hasattr(formats.get(name), "pack")]
    chosen = [name.strip().upper() for name in wanted.split(",") if name.strip()]
    for name in chosen:
        if name not in able:
            raise InvalidRequest(f"--formats must be of {', '.join(able)}, not {name!r}")
    return chosen or able


def row_counts(text: str) -> list[int]:
    """The numbers of `--rows 1,8`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and 1 <= int(part) <= MOST_ROWS for part in parts):
        raise InvalidRequest(f"--rows must be numbers from 1 to {MOST_ROWS}, not {text!r}")
    return [int(part) for part in parts]


def _products(ops: CpuOps, name: str, rows: Sequence[int]) -> Iterator[Timed]:
    """x @ w.T through a chain of matrices, so that each is read from memory."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((PACKED_ROWS, WIDTH)).astype(np.float32) / np.sqrt(WIDTH)
    packed = np.ascontiguousarray(formats.get(name).pack(values.astype(np.float32)))  # type: ignore[attr-defined]
    raw = np.tile(packed.reshape(-1).view(np.uint8), WIDTH // PACKED_ROWS)
    weight = Weight((WIDTH, WIDTH), (name,), (raw,), (WIDTH,))
    first = ops.upload(weight)
    matrices = [first]
    while len(matrices) * first.bytes < SET_BYTES:
        matrices.append(ops.upload(weight))
    table = _table(ops, WIDTH)

    def model(step: Step, kv: Array) -> Array:
        x = ops.embed(step.token_ids, table)
        for matrix in matrices:
            x = ops.linear(x, matrix)
        return x

    run = ops.compile(model)
    for count in rows:
        seconds = _best(run, _step([0] * count, 1), None, ("linear", "quantize"))
        yield Timed(
            f"product {name}",
            f"{count} row{'s' if count > 1 else ''}",
            seconds / len(matrices),
            first.bytes,
            2.0 * count * WIDTH * WIDTH,
            "int8" if first.quantized else "fp32",
        )


def _attention(
    ops: CpuOps, kernel: str, size: str, history: list[int], brings: int, arithmetic: str
) -> Timed:
    """Grouped-query attention over an fp16 cache, storing what comes included."""
    step = _step(history, brings)
    num_pages = int(step.page_table.max()) + 1
    kv = ops.new_kv(1, num_pages, PAGE, KV_HEADS, DIM)
    q_width, kv_width = HEADS * DIM, KV_HEADS * DIM
    table = _table(ops, q_width + 2 * kv_width)

    def model(step: Step, kv: Array) -> Array:
        x = ops.embed(step.token_ids, table)
        count = x.shape[0]
        q = x[:, :q_width].reshape(count, HEADS, DIM)
        k = x[:, q_width : q_width + kv_width].reshape(count, KV_HEADS, DIM)
        v = x[:, q_width + kv_width :].reshape(count, KV_HEADS, DIM)
        return ops.attention(q, k, v, kv[0], step, Scoring(DIM**-0.5)).reshape(count, q_width)

    run = ops.compile(model)
    for written in writing(num_pages):
        run(written, kv)
    seconds = _best(run, step, kv, ("attend", "store_kv"))
    seen = sum(first + i + 1 for first in history for i in range(brings))
    stored = sum(first + brings for first in history)
    nbytes = 2.0 * stored * kv_width * FP16_BYTES  # keys and values
    return Timed(kernel, size, seconds, nbytes, 4.0 * seen * q_width, arithmetic)


def writing(num_pages: int) -> Iterator[Step]:
    """Steps that write all pages of a cache. Memory that nobody has written is one page of zeros,
    which the caches hold: attention over it would say nothing of memory."""
    for first in range(0, num_pages, PAGES_AT_ONCE):
        step = _step([0] * min(PAGES_AT_ONCE, num_pages - first), PAGE)
        yield replace(step, page_table=step.page_table + first, slots=step.slots + first * PAGE)


def _norms(ops: CpuOps) -> Iterator[Timed]:
    """Rows that are in the caches, as they are in a network: what many norms take more than one."""
    weight, shift = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    scale, bias, table = ops.vector(weight), ops.vector(shift), _table(ops, WIDTH)
    norms: Sequence[tuple[str, Callable[[Any], Any]]] = (
        ("rms_norm", lambda x: ops.rms_norm(x, scale, 1e-5)),
        ("layer_norm", lambda x: ops.layer_norm(x, scale, bias, 1e-5)),
    )
    for name, norm in norms:

        def chain(count: int, norm: Callable[[Any], Any] = norm) -> float:
            def model(step: Step, kv: Array) -> Array:
                x = ops.embed(step.token_ids, table)
                for _ in range(count):
                    x = norm(x)
                return x

            return _best(ops.compile(model), _step([0] * NORM_ROWS, 1), None)

        seconds = (chain(1 + MANY_NORMS) - chain(1)) / MANY_NORMS
        size = 4.0 * NORM_ROWS * WIDTH
        yield Timed(name, f"{NORM_ROWS} rows of {WIDTH}", seconds, 2 * size, size, "fp32")


def _best(run: Any, step: Step, kv: Any, operations: Sequence[str] = ()) -> float:
    """Seconds of these operations (none: of all) in the fastest run, the least disturbed one."""
    best, repeats, started = float("inf"), 0, perf_counter()
    while repeats < LEAST_REPEATS or perf_counter() - started < LONG_ENOUGH_S:
        spent = [took for name, took in run.profile(step, kv) if name in (operations or (name,))]
        best = min(best, sum(spent))
        repeats += 1
    return best


def _table(ops: CpuOps, width: int) -> Array:
    """An embedding table of one row."""
    values = np.linspace(-1, 1, width, dtype=np.float32)
    return ops.upload(Weight((1, width), ("F32",), (values.view(np.uint8),), (1,)), table=True)


def _step(history: list[int], brings: int) -> Step:
    """Sequences with so many tokens of history that bring so many more, in pages of their own."""
    sequences = len(history)
    pages = max(-(-(first + brings) // PAGE) for first in history)
    page_table = np.arange(sequences * pages, dtype=np.int32).reshape(sequences, pages)
    positions = np.concatenate([np.arange(n, n + brings, dtype=np.int32) for n in history])
    of = np.repeat(np.arange(sequences), brings)
    return Step(
        token_ids=np.zeros(len(positions), np.int32),
        positions=positions,
        slots=page_table[of, positions // PAGE] * PAGE + positions % PAGE,
        row_starts=np.arange(sequences + 1, dtype=np.int32) * brings,
        kv_lens=np.array(history, np.int32) + brings,
        page_table=page_table,
        out_rows=np.zeros(0, np.int32),
        page_size=PAGE,
    )


def record(
    facts: Facts,
    ops: CpuOps,
    limits: Sequence[Limits],
    found: Sequence[Timed],
    *,
    interrupted: bool,
) -> KernelRecord:
    """What --json writes."""
    threads = int(ops.native.threads)
    return KernelRecord(
        SCHEMA, "ops", facts, ops.isa, threads, list(limits), list(found), interrupted
    )


def report(made: KernelRecord) -> Document:
    """A table of the limits and one of the kernels."""
    best = Limits.best(made.limits)
    rows, shares = [], []
    for timed in made.kernels:
        least, why = timed.bound(best)
        share = 100 * least / timed.seconds
        rows.append(
            [
                timed.kernel,
                timed.size,
                ms(timed.seconds),
                number(timed.bytes / timed.seconds / 1e9),
                number(timed.ops / timed.seconds / 1e9),
                f"{share:.0f}",
                why,
            ]
        )
        shares.append((f"{timed.kernel}, {timed.size}", (share,)))
    limits = [
        [when, *(number(value / 1e9) for value in astuple(of))]
        for when, of in (("first", made.limits[0]), ("last", made.limits[-1]), ("best", best))
    ]
    named = ["memory, GB/s", "int8, Gop/s", "fp32, Gop/s", *["bf16, Gop/s"] * bool(best.bf16_ops)]
    facts = [
        *made.facts.rows(),
        ("kernels", f"{made.instructions}, {made.threads} threads"),
    ]
    notes = [
        "Times are those of the fastest run. Shares are of the best measurement of the nearer "
        "limit, of those made before each format. Bytes are those that must be read: weights as "
        "packed, keys and values. "
        "Products include the rounding of their inputs. Rows of norms stay in the caches, which "
        "give more than memory does.",
    ]
    return Document(
        "Kernels and what this machine can do",
        facts,
        [
            Table("Limits", ["measured", *named], [row[: 1 + len(named)] for row in limits]),
            Table(
                "Kernels",
                ["kernel", "size", "ms", "GB/s", "Gop/s", "% of the limit", "limit"],
                rows,
                notes,
            ),
            Bars("Share of the nearer limit", "%", ("share",), shares, most=100.0),
        ],
        ["Stopped before its end."] if made.interrupted else [],
    )
