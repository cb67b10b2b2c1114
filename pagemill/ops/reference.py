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

import math
from collections.abc import Callable, Sequence

import numpy as np

from pagemill.errors import Unsupported
from pagemill.ops.alone import Alone
from pagemill.ops.interface import (
    Activation,
    Array,
    Float32,
    Int32,
    Pooling,
    Rope,
    Routing,
    Sampled,
    SampleRows,
    Scoring,
    Step,
    Weight,
)
from pagemill.ops.low_rank import LowRankSums
from pagemill.ops.recurrence import Recurrence
from pagemill.weights import formats


class ReferenceOps(Alone, LowRankSums, Recurrence):
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
        out, start = np.empty(weight.shape, np.float32), 0
        for name, part, rows, order in weight.segments:
            columns = slice(None) if order is None else order
            out[start : start + rows, columns] = formats.get(name).unpack(part.reshape(rows, -1))
            start += rows
        return out

    def vector(self, values: Float32) -> Float32:
        return np.array(values, np.float32)

    def new_kv(
        self, layers: int, num_pages: int, page_size: int, heads: int, dim: int,
        latent: bool = False,
    ) -> Float32:  # fmt: skip
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

    def linear_heads(self, x: Float32, weight: Float32) -> Float32:
        matrices = weight.reshape(x.shape[1], -1, x.shape[2])  # (H, N, K)
        heads = [self.linear(x[:, h], matrix) for h, matrix in enumerate(matrices)]
        return np.stack(heads, axis=1)

    def bias(self, x: Float32, bias: Float32) -> Float32:
        return x + bias

    def rms_norm(self, x: Float32, weight: Float32, eps: float) -> Float32:
        mean_square = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
        scale = 1 / np.sqrt(mean_square + np.float32(eps))
        return np.asarray(x * scale * weight.reshape(-1, x.shape[-1]), np.float32)

    def layer_norm(self, x: Float32, weight: Float32, bias: Float32 | None, eps: float) -> Float32:
        centred = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float32)
        variance = np.mean(centred * centred, axis=-1, keepdims=True, dtype=np.float32)
        y = centred / np.sqrt(variance + np.float32(eps)) * weight
        return np.asarray(y if bias is None else y + bias, np.float32)

    def act(self, x: Float32, kind: Activation) -> Float32:
        return _activation(x, kind)

    def act_mul(self, gate_up: Float32, kind: Activation) -> Float32:
        gate, up = np.split(gate_up, 2, axis=-1)
        return self.gated(up, gate, kind)

    def gated(self, x: Float32, gate: Float32, kind: Activation) -> Float32:
        if kind == "clamped_silu":
            limit = np.float32(7)
            gate, up = np.minimum(gate, limit), np.clip(x, -limit, limit)
            return np.asarray(gate * _sigmoid(np.float32(1.702) * gate) * (up + 1), np.float32)
        return np.asarray(_activation(gate, kind) * x, np.float32)

    def sigmoid_mul(self, x: Float32, gate: Float32) -> Float32:
        return np.asarray(x * _sigmoid(gate), np.float32)

    def scale(self, x: Float32, factor: float) -> Float32:
        return np.asarray(x * np.float32(factor), np.float32)

    def softcap(self, x: Float32, cap: float) -> Float32:
        return np.asarray(np.float32(cap) * np.tanh(x / np.float32(cap)), np.float32)

    def rope(self, x: Float32, positions: Int32, rope: Rope) -> Float32:
        half = len(rope.inv_freq)
        angles = positions[:, None].astype(np.float32) * np.array(rope.inv_freq, np.float32)
        scale = np.full((len(positions), 1), rope.scale)
        if rope.period:
            scale *= 1 + rope.growth * np.log1p(positions[:, None] // rope.period)
        cos, sin = (
            (f(angles.astype(np.float64)) * scale).astype(np.float32)[:, None]  # (T, 1, half)
            for f in (np.cos, np.sin)
        )
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)

    def attention(
        self,
        q: Float32,
        k: Float32,
        v: Float32,
        kv: Float32,
        step: Step,
        scoring: Scoring,
        sinks: Float32 | None = None,
        rope: Rope | None = None,
    ) -> Float32:
        if rope is not None:
            q, k = (self.rope(x, step.positions, rope) for x in (q, k))
        kv[0, step.slots] = k  # all rows of the step, before any row attends
        kv[1, step.slots] = v
        out = np.empty_like(q)
        for row, kv_len in enumerate(step.kv_lens):
            where = np.arange(kv_len)
            pages = step.page_table[row, where // step.page_size]
            slots = pages * step.page_size + where % step.page_size
            keys, values = kv[0][slots], kv[1][slots]  # (n, G, D)
            for t in range(step.row_starts[row], step.row_starts[row + 1]):
                end = step.positions[t] + 1
                seen = slice(max(0, end - scoring.window) if scoring.window else 0, end)
                out[t] = _attend(q[t], keys[seen], values[seen], scoring, sinks)
        return out

    def latent_attention(
        self,
        q: Float32,
        q_rope: Float32,
        latent: Float32,
        k_rope: Float32,
        kv: Float32,
        step: Step,
        scale: float,
    ) -> Float32:
        both = np.concatenate([latent, k_rope], axis=-1)[:, None]  # (T, one head, L + R)
        queries = np.concatenate([q, q_rope], axis=-1)
        out = self.attention(queries, both, both, kv, step, Scoring(scale))
        return np.ascontiguousarray(out[..., : latent.shape[-1]])

    def dense_attention(
        self, q: Float32, k: Float32, v: Float32, step: Step, scoring: Scoring
    ) -> Float32:
        out = np.empty_like(q)
        for start, end in zip(step.row_starts[:-1], step.row_starts[1:], strict=True):
            reach = scoring.window or end - start
            for t in range(start, end):
                seen = slice(max(start, t - reach + 1), min(end, t + reach))
                out[t] = _attend(q[t], k[seen], v[seen], scoring, None)
        return out

    def experts(
        self,
        x: Float32,
        router: Float32,
        routing: Routing,
        gate_up: Sequence[Float32],
        down: Sequence[Float32],
        *,
        selection_bias: Float32 | None = None,
        gate_up_bias: Sequence[Float32] | None = None,
        down_bias: Sequence[Float32] | None = None,
    ) -> Float32:
        out = np.zeros_like(x)
        for t, row in enumerate(x):
            chosen, weights = _route(router[t], routing, selection_bias)
            for expert, weight in zip(chosen, weights, strict=True):
                inner = self.linear(row[None], gate_up[expert])
                if gate_up_bias is not None:
                    inner = inner + gate_up_bias[expert]
                y = self.linear(self.act_mul(inner, routing.activation), down[expert])
                if down_bias is not None:
                    y = y + down_bias[expert]
                out[t] += weight * y[0]
        return out

    def pool(self, x: Float32, step: Step, kind: Pooling) -> Float32:
        out = np.empty((len(step.out_rows), x.shape[1]), np.float32)
        for i, last in enumerate(step.out_rows):
            start = step.row_starts[np.searchsorted(step.row_starts, last, side="right") - 1]
            if kind == "mean":
                out[i] = x[start : last + 1].mean(axis=0, dtype=np.float32)
            else:
                out[i] = x[start if kind == "cls" else last]
        return out

    def normalize(self, x: Float32) -> Float32:
        length = np.sqrt(np.sum(x * x, axis=-1, keepdims=True, dtype=np.float32))
        return np.divide(x, length, out=np.zeros_like(x), where=length > 0)

    def fetch(self, x: Float32) -> Float32:
        return x

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


def _attend(
    q: Float32,
    keys: Float32,
    values: Float32,
    scoring: Scoring,
    sinks: Float32 | None,
) -> Float32:
    """One token's attention: q (H, D) over keys and values (n, G, D) -> (H, D)."""
    group = q.shape[0] // keys.shape[1]
    keys, values = np.repeat(keys, group, axis=1), np.repeat(values, group, axis=1)
    scores = np.einsum("hd,nhd->hn", q, keys) * np.float32(scoring.scale)
    if scoring.softcap:
        cap = np.float32(scoring.softcap)
        scores = cap * np.tanh(scores / cap)
    top = scores.max(axis=-1, keepdims=True)
    if sinks is not None:
        top = np.maximum(top, sinks[:, None])
    p = np.exp(scores - top)
    total = p.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(sinks[:, None] - top)
    return np.asarray(np.einsum("hn,nhd->hd", p / total, values), np.float32)


def _activation(x: Float32, kind: Activation) -> Float32:
    if kind == "silu":
        return np.asarray(x * _sigmoid(x), np.float32)
    if kind == "gelu":
        return np.asarray(x * (0.5 + 0.5 * _erf(x / math.sqrt(2))), np.float32)
    if kind == "gelu_tanh":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
        return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)), np.float32)
    if kind == "relu":
        return np.maximum(x, np.float32(0))
    if kind == "tanh":
        return np.tanh(x)
    raise ValueError(f"{kind} needs a second input")


def _sigmoid(x: Float32) -> Float32:
    with np.errstate(over="ignore"):  # exp(-x) = inf means 0, as it should
        return np.asarray(1 / (1 + np.exp(-x)), np.float32)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _route(
    logits: Float32, routing: Routing, selection_bias: Float32 | None
) -> tuple[list[int], list[np.float32]]:
    """The experts of one token, best first, and their weights. `Routing` is the text."""
    if routing.score == "softmax":
        p = np.exp(logits - logits.max())
        scores = p / p.sum()
    else:
        scores = _sigmoid(logits)
    merit = scores if selection_bias is None else scores + selection_bias
    if routing.groups > 1:
        groups = merit.reshape(routing.groups, -1)
        best = np.sort(groups, axis=1)[:, ::-1]
        group_merit = best[:, :2].sum(axis=1) if routing.group_pairs else best[:, 0]
        kept = np.argsort(-group_merit, kind="stable")[: routing.top_groups]
        allowed = np.full_like(groups, -np.inf)
        allowed[kept] = groups[kept]
        merit = allowed.reshape(-1)
    chosen = np.argsort(-merit, kind="stable")[: routing.top_k]
    weights = scores[chosen]
    if routing.normalize:
        weights = weights / weights.sum()
    return chosen.tolist(), list(weights * np.float32(routing.scale))


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
