"""Random histories in pages, and what the reference makes of them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pagemill.ops.interface import Float32, Scoring, Step
from pagemill.ops.plain.cache import LayerCache, new_pages
from pagemill.ops.plain.step import DeviceStep, to_device
from pagemill.ops.reference import ReferenceOps
from tests.ops.case import normal, ragged_step

CPU = torch.device("cpu")
# Of results around 1, by the type of queries: products round probabilities to it.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass(frozen=True)
class Shape:
    """Heads over pages."""

    heads: int
    kv_heads: int
    dim: int
    page_size: int = 16


@dataclass(frozen=True)
class History:
    """A step, its queries, and pages where everything that no row owns is no number."""

    q: Tensor
    cache: LayerCache
    step: Step
    sinks: Tensor | None

    def on_device(self) -> DeviceStep:
        return to_device(self.step, CPU)

    def expected(self, scoring: Scoring) -> Float32:
        """What the reference says of the numbers that are stored."""
        step, kv_heads, dim = self.step, *self.cache.keys.shape[2:]
        every = torch.arange(len(self.cache.keys), dtype=torch.int32)[None]
        kv = np.stack(
            [
                read(every, torch.float32).reshape(-1, kv_heads, dim).numpy()
                for read in (self.cache.read_keys, self.cache.read_values)
            ]
        )
        sinks = None if self.sinks is None else self.sinks.numpy()
        k, v = kv[:, step.slots]
        q = self.q.float().numpy()
        return ReferenceOps().attention(q, k, v, kv, step, scoring, sinks)


def history(
    shape: Shape,
    lens: list[int],
    takes: list[int],
    dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype | None = None,
    sinks: bool = False,
) -> History:
    """Rows with `lens` tokens that bring `takes` more."""
    rng = np.random.default_rng([*lens, *takes, shape.dim, shape.heads])
    longest = max(a + b for a, b in zip(lens, takes, strict=True))
    per_row = -(-longest // shape.page_size)
    pages = rng.permutation(per_row * len(lens) + 2).astype(np.int32)
    step = ragged_step(lens, takes, pages, shape.page_size)
    sizes = (len(pages), shape.page_size, shape.kv_heads, shape.dim)
    cache = new_pages(sizes, CPU, cache_dtype or dtype)
    for tensor in (cache.keys, cache.values, cache.key_scales, cache.value_scales):
        if tensor is not None and tensor.dtype != torch.int8:
            tensor.fill_(torch.nan)
    slots = owned_slots(step)
    k, v = torch.from_numpy(normal(rng, 2, len(slots), shape.kv_heads, shape.dim))
    cache.store(torch.from_numpy(slots), k, v)
    tokens = len(step.positions)
    # Queries lie in a wider row, as where q, k and v come of one product.
    wide = torch.from_numpy(normal(rng, tokens, shape.heads + 2, shape.dim)).to(dtype)
    scores = torch.from_numpy(normal(rng, shape.heads)) if sinks else None
    return History(wide[:, : shape.heads], cache, step, scores)


def owned_slots(step: Step) -> np.ndarray:
    """Slots that hold a row's history, this step's tokens among them."""
    rows = np.repeat(np.arange(len(step.kv_lens)), step.kv_lens)
    where = np.concatenate([np.arange(kv_len) for kv_len in step.kv_lens])
    page = step.page_table[rows, where // step.page_size]
    return page.astype(np.int64) * step.page_size + where % step.page_size


def with_padding(step: Step) -> Step:
    """One more row, of one token, that keeps nothing: as in graphs captured for more rows."""
    return replace(
        step,
        slots=np.append(step.slots, np.int32(-1)),
        positions=np.append(step.positions, np.int32(0)),
        row_starts=np.append(step.row_starts, step.row_starts[-1] + 1).astype(np.int32),
        kv_lens=np.append(step.kv_lens, np.int32(0)),
        page_table=np.concatenate([step.page_table, np.zeros_like(step.page_table[:1])]),
    )


def assert_close(got: Tensor, want: Float32, tolerance: float) -> None:
    np.testing.assert_allclose(got.float().numpy(), want, 0, tolerance * max(1, np.abs(want).max()))
