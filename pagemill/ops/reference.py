"""The reference backend: every operation in plain numpy. This file is the definition.

Written for reading; it shares no code with any kernel and every other backend is tested against it.
It keeps the promise that it defines: a row's result does not depend on how many rows share the
call. So matrices are applied to one row at a time and a token attends over exactly its own history,
because BLAS and pairwise sums group their additions by shape.

Sampling, which other backends must follow to the letter (`_draw` is the text):

1. Edits, in float32. What is not a number counts as -inf, and a row whose largest logit is then not
   finite has no answer: its id is -1. Temperature 0 takes the largest logit, of equals the lowest
   id.
2. l = logit / temperature, in float32. top_k > 0 keeps the k largest l, of equals the lower ids.
3. p = exp(l - max l) in float32. The kept ids are ordered by p descending, of equals the lower id
   first, and summed in that order in float64. top_p < 1 keeps the shortest run whose sum reaches
   top_p * (the sum over all kept).
4. min_p > 0 drops what has p < min_p (the largest p is 1).
5. u = (w >> 8) / 2**24, where w is the first output word of Philox4x32-10 with the counter
   (position, 0, 0, 0) and the key (low 32 bits, high 32 bits) of the seed. (Salmon et al.,
   "Parallel random numbers: as easy as 1, 2, 3", 2011.)
6. In id order the kept p are summed in float64; the first id whose sum is greater than u * total
   wins.

Log-probabilities are of the logits before edits: l - max - log(sum(exp(l - max))), summed in
float64.

Must not know: which model is running.
"""

from collections.abc import Callable

import numpy as np

from pagemill.errors import Unsupported
from pagemill.ops.interface import (
    Array,
    Float32,
    Int32,
    Rope,
    Sampled,
    SampleRows,
    Step,
    Weight,
)
from pagemill.weights import formats


class ReferenceOps:
    """Ops over numpy arrays. Weights are unpacked to float32; keys and values are float32."""

    name = "reference"

    def upload(self, weight: Weight, table: bool = False) -> Float32:
        """The matrix (N, K) as float32."""
        unknown = set(weight.formats) - set(formats.names())
        if unknown:
            raise Unsupported(
                f"the reference backend has no format {', '.join(sorted(unknown))}; "
                f"it has {', '.join(formats.names())}"
            )
        parts = [
            formats.get(name).unpack(part.reshape(rows, -1))
            for name, part, rows in zip(weight.formats, weight.parts, weight.rows, strict=True)
        ]
        return np.concatenate(parts).reshape(weight.shape)

    def vector(self, values: Float32) -> Float32:
        return np.array(values, np.float32)

    def new_kv(self, layers: int, num_pages: int, page_size: int, heads: int, dim: int) -> Float32:
        """(layers, keys and values, slots, G, D)"""
        return np.zeros((layers, 2, num_pages * page_size, heads, dim), np.float32)

    def compile(self, model: Callable[[Step, Array], Array]) -> Callable[[Step, Array], Array]:
        return model

    def embed(self, ids: Int32, table: Float32) -> Float32:
        return table[ids]

    def linear(self, x: Float32, weight: Float32) -> Float32:
        out = np.empty((x.shape[0], weight.shape[0]), np.float32)
        for i, row in enumerate(np.ascontiguousarray(x)):
            np.dot(weight, row, out=out[i])
        return out

    def rms_norm(self, x: Float32, weight: Float32, eps: float) -> Float32:
        mean_square = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
        scale = 1 / np.sqrt(mean_square + np.float32(eps))
        return np.asarray(x * scale * weight, np.float32)

    def silu_mul(self, gate_up: Float32) -> Float32:
        gate, up = np.split(gate_up, 2, axis=-1)
        with np.errstate(over="ignore"):  # exp(-gate) = inf means silu = 0, as it should
            return np.asarray(gate / (1 + np.exp(-gate)) * up, np.float32)

    def rope(self, x: Float32, positions: Int32, rope: Rope) -> Float32:
        half = len(rope.inv_freq)
        angles = positions[:, None].astype(np.float32) * np.array(rope.inv_freq, np.float32)
        cos = np.cos(angles.astype(np.float64)).astype(np.float32)[:, None]  # (T, 1, half)
        sin = np.sin(angles.astype(np.float64)).astype(np.float32)[:, None]
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)

    def attention(
        self, q: Float32, k: Float32, v: Float32, kv: Float32, step: Step, scale: float
    ) -> Float32:
        kv[0, step.slots] = k  # all rows of the step, before any row attends
        kv[1, step.slots] = v
        out = np.empty_like(q)
        group = q.shape[1] // k.shape[1]
        for row, kv_len in enumerate(step.kv_lens):
            where = np.arange(kv_len)
            pages = step.page_table[row, where // step.page_size]
            slots = pages * step.page_size + where % step.page_size
            keys, values = (np.repeat(side[slots], group, axis=1) for side in kv)  # (n, H, D)
            for t in range(step.row_starts[row], step.row_starts[row + 1]):
                seen = step.positions[t] + 1
                scores = np.einsum("hd,nhd->hn", q[t], keys[:seen]) * np.float32(scale)
                p = np.exp(scores - scores.max(axis=-1, keepdims=True))
                p /= p.sum(axis=-1, keepdims=True)
                out[t] = np.einsum("hn,nhd->hd", p, values[:seen])
        return out

    def sample(self, logits: Float32, rows: SampleRows) -> Sampled:
        num_rows = len(rows.temperature)
        num_top = max(0, int(rows.num_logprobs.max(initial=0)))
        sampled = Sampled(
            ids=np.empty(num_rows, np.int32),
            logprobs=np.zeros(num_rows, np.float32),
            top_ids=np.full((num_rows, num_top), -1, np.int32),
            top_logprobs=np.zeros((num_rows, num_top), np.float32),
        )
        for row in range(num_rows):
            chosen = _draw(_edited(logits[row], rows, row), rows, row)
            sampled.ids[row] = chosen
            num_top = rows.num_logprobs[row]
            if num_top >= 0 and chosen >= 0:
                logprobs = _log_softmax(logits[row])
                best = np.argsort(-logprobs, kind="stable")[:num_top]
                sampled.logprobs[row] = logprobs[chosen]
                sampled.top_ids[row, : len(best)] = best
                sampled.top_logprobs[row, : len(best)] = logprobs[best]
        return sampled


def _edited(logits: Float32, rows: SampleRows, row: int) -> Float32:
    start, end = rows.edit_starts[row], rows.edit_starts[row + 1]
    ids, mul, add = (column[start:end] for column in (rows.edit_ids, rows.edit_mul, rows.edit_add))
    old = logits[ids]
    logits = logits.copy()
    logits[ids] = np.where(old > 0, old / mul, old * mul) + add
    return logits


def _draw(logits: Float32, rows: SampleRows, row: int) -> int:
    """One id from edited logits (V,)."""
    temperature, top_k = rows.temperature[row], int(rows.top_k[row])
    top_p, min_p = rows.top_p[row], rows.min_p[row]
    logits = np.where(np.isnan(logits), np.float32(-np.inf), logits)
    if not np.isfinite(logits.max()):
        return -1
    if temperature == 0:
        return int(logits.argmax())
    scaled = logits / temperature
    kept = np.ones(len(logits), bool)
    if 0 < top_k < len(logits):
        kept[np.argsort(-scaled, kind="stable")[top_k:]] = False
    p = np.where(kept, np.exp(scaled - scaled.max()), np.float32(0))
    if top_p < 1:
        order = np.argsort(-p, kind="stable")
        sums = np.cumsum(p[order], dtype=np.float64)
        last = np.searchsorted(sums, float(top_p) * sums[-1], side="left")
        p[order[last + 1 :]] = 0
    if min_p > 0:
        p[p < min_p] = 0
    sums = np.cumsum(p, dtype=np.float64)
    u = uniform(int(rows.seeds[row]), int(rows.positions[row]))
    return int(np.searchsorted(sums, u * sums[-1], side="right"))


def _log_softmax(logits: Float32) -> Float32:
    shifted = (logits - logits.max()).astype(np.float64)
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), np.float32)


def uniform(seed: int, position: int) -> float:
    """The noise of one token: 24 bits in [0, 1), a function of (seed, position) alone."""
    word, _, _, _ = philox((position, 0, 0, 0), (seed & 0xFFFFFFFF, seed >> 32))
    return (word >> 8) / 2**24


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10: four words of counter and two of key to four random words."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(10):
        ab, cd = 0xD2511F53 * a, 0xCD9E8D57 * c  # 64-bit products; both halves are used
        a, b, c, d = (
            (cd >> 32) ^ b ^ k0,
            cd & 0xFFFFFFFF,
            (ab >> 32) ^ d ^ k1,
            ab & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return a, b, c, d
