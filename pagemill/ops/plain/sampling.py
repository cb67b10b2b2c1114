"""Sampling on torch's own calls, to the letter of `ops/reference.py`, where it is explained.

One copy brings what was asked to the device, and one brings the answer back. Must not know: where
logits come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pagemill.ops.interface import Sampled, SampleRows
from pagemill.ops.plain.ahead import to_host
from pagemill.ops.plain.step import moved

_WORD = 0xFFFFFFFF
_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Knobs:
    """`SampleRows` on a device, and what the host knows of them."""

    random: bool  # some row draws
    largest_k: int  # of rows with top_k; 0: none has it
    uses_top_p: bool
    uses_min_p: bool
    temperature: Tensor  # (S,) float32, and so on
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor  # (2, S) int32: low and high words
    positions: Tensor
    edit_rows: Tensor  # (E,) int32
    edit_ids: Tensor
    edit_mul: Tensor
    edit_add: Tensor

    @classmethod
    def of(cls, rows: SampleRows, vocab_size: int, device: torch.device) -> Knobs:
        count = len(rows.temperature)
        edit_rows = np.repeat(np.arange(count, dtype=np.int32), np.diff(rows.edit_starts))
        top_k = np.where(rows.top_k < vocab_size, rows.top_k, 0).astype(np.int32)
        words = np.ascontiguousarray(rows.seeds, "<u8").view(np.int32).reshape(-1, 2).T
        columns = (
            rows.temperature, top_k, rows.top_p, rows.min_p, words, rows.positions,
            edit_rows, rows.edit_ids, rows.edit_mul, rows.edit_add,
        )  # fmt: skip
        return cls(
            bool((rows.temperature > 0).any()),
            int(top_k.max(initial=0)),
            bool((rows.top_p < 1).any()),
            bool((rows.min_p > 0).any()),
            *moved([np.ascontiguousarray(column) for column in columns], device),
        )


def sample(logits: Tensor, rows: SampleRows) -> Sampled:
    """As `Ops.sample`."""
    return begin(logits, rows)[1]()


def begin(
    logits: Tensor,
    rows: SampleRows,
    chooser: Callable[[Tensor, Knobs], Tensor] | None = None,
) -> tuple[Tensor, Callable[[], Sampled]]:
    """Ids on their device, and what waits until all of the answer has come from there. `chooser`
    stands in for `choose`."""
    if logits.device.type == "mps":  # it has no float64, and shares its memory with the CPU
        logits = logits.cpu()
    logits = logits.float()
    knobs = Knobs.of(rows, logits.shape[1], logits.device)
    ids = (chooser or choose)(logits, knobs)
    asking = np.flatnonzero(rows.num_logprobs >= 0)
    most = max(0, int(rows.num_logprobs.max(initial=0)))
    answer = [ids.int()]
    if asking.size:
        answer += _log_probabilities(logits, ids, asking, most)
    wait = to_host(torch.cat([part.flatten().view(torch.int32) for part in answer]))
    most = min(most, logits.shape[1])
    return ids, lambda: _sampled(wait().numpy(), rows, asking, most)


def choose(logits: Tensor, knobs: Knobs) -> Tensor:
    """Float32 logits (S, V) -> ids (S,) int64, -1 where no logit is finite. Stays on the device."""
    logits = edited(logits, knobs)
    logits = logits.masked_fill(logits.isnan(), -torch.inf)
    ids = logits.argmax(dim=-1)
    top = logits.amax(dim=-1)
    if knobs.random:
        ids = torch.where(knobs.temperature > 0, _draw(logits, knobs), ids)
    return torch.where(top.isfinite(), ids, -1)


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """seeds (2, S) int32 words, positions (S,) -> (S,) float64 in [0, 1): 24 bits of noise."""
    low, high = (word.long() & _WORD for word in seeds)
    zeros = torch.zeros_like(low)
    words = philox((positions.long() & _WORD, zeros, zeros, zeros), (low, high))
    return (words[0] >> 8).double() / 2**24


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10 on int64 tensors of 32-bit words."""
    (a, b, c, d), (k0, k1) = counter, key
    for _ in range(_ROUNDS):
        (ab_high, ab), (cd_high, cd) = _product(a, 0xD2511F53), _product(c, 0xCD9E8D57)
        a, b, c, d = cd_high ^ b ^ k0, cd, ab_high ^ d ^ k1, ab
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return a, b, c, d


def _product(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The high and the low word of a product, which may need all 64 bits, so that an int64 would
    take it for a negative number."""
    low, high = (word & 0xFFFF) * factor, (word >> 16) * factor
    middle = high + (low >> 16)
    return middle >> 16, ((middle << 16) | (low & 0xFFFF)) & _WORD


def edited(logits: Tensor, knobs: Knobs) -> Tensor:
    """Logits after their edits: the same tensor where there are none."""
    if not len(knobs.edit_ids):
        return logits
    old = logits[knobs.edit_rows, knobs.edit_ids]
    new = torch.where(old > 0, old / knobs.edit_mul, old * knobs.edit_mul) + knobs.edit_add
    logits = logits.clone()
    logits[knobs.edit_rows, knobs.edit_ids] = new
    return logits


def _draw(logits: Tensor, knobs: Knobs) -> Tensor:
    """Ids by keyed noise. Rows of temperature 0 get some id."""
    temperature = knobs.temperature
    scaled = logits / torch.where(temperature > 0, temperature, 1)[:, None]
    p = torch.exp(scaled - scaled.amax(dim=-1, keepdim=True))
    if knobs.largest_k:
        p = p.masked_fill(~_largest(scaled, knobs.top_k, knobs.largest_k), 0)
    if knobs.uses_top_p:
        p = _nucleus(p, knobs.top_p)
    if knobs.uses_min_p:
        p = p.masked_fill(p < knobs.min_p[:, None], 0)
    sums = p.cumsum(dim=-1, dtype=torch.float64)
    aim = uniform(knobs.seeds, knobs.positions)[:, None] * sums[:, -1:]
    return (sums <= aim).sum(dim=-1).clamp(max=logits.shape[1] - 1)


def _largest(scaled: Tensor, top_k: Tensor, largest_k: int) -> Tensor:
    """Which are among the top_k of their row, of equals the lower ids; all, where top_k is 0."""
    best = scaled.topk(largest_k, dim=-1).values
    last = best.gather(1, (top_k.long() - 1).clamp(min=0)[:, None])
    more, equal = scaled > last, scaled == last
    room = top_k[:, None] - more.sum(dim=-1, keepdim=True)
    kept = more | (equal & (equal.cumsum(dim=-1) <= room))
    return kept | (top_k <= 0)[:, None]


def _nucleus(p: Tensor, top_p: Tensor) -> Tensor:
    """The shortest run of the most likely whose sum reaches top_p of all; zeros for the rest."""
    ordered, ids = p.sort(dim=-1, descending=True, stable=True)
    sums = ordered.cumsum(dim=-1, dtype=torch.float64)
    aim = top_p.double()[:, None] * sums[:, -1:]
    beyond = torch.zeros_like(ordered, dtype=torch.bool)  # those before it suffice
    beyond[:, 1:] = sums[:, :-1] >= aim
    kept = ordered.masked_fill(beyond & (top_p < 1)[:, None], 0)
    return torch.zeros_like(p).scatter_(1, ids, kept)


def _log_probabilities(logits: Tensor, ids: Tensor, asking: Any, most: int) -> list[Tensor]:
    """Of the rows that ask: the chosen id's log-probability; the most likely ids and theirs."""
    (rows,) = moved([asking.astype(np.int32)], logits.device)
    of_rows = logits[rows]
    shifted = (of_rows - of_rows.amax(dim=-1, keepdim=True)).double()
    logprobs = (shifted - shifted.exp().sum(dim=-1, keepdim=True).log()).float()
    chosen = logprobs.gather(1, ids[rows].long().clamp(min=0)[:, None])
    best, best_ids = logprobs.sort(dim=-1, descending=True, stable=True)
    return [chosen, best_ids[:, :most].int(), best[:, :most]]


def _sampled(packed: Any, rows: SampleRows, asking: Any, most: int) -> Sampled:
    count = len(rows.temperature)
    wide = max(0, int(rows.num_logprobs.max(initial=0)))
    sampled = Sampled(
        ids=packed[:count].copy(),
        logprobs=np.zeros(count, np.float32),
        top_ids=np.full((count, wide), -1, np.int32),
        top_logprobs=np.zeros((count, wide), np.float32),
    )
    chosen, top_ids, top = np.split(packed[count:], [asking.size, asking.size * (1 + most)])
    for at, row in enumerate(asking.tolist()):
        if sampled.ids[row] >= 0:
            asked = min(int(rows.num_logprobs[row]), most)
            sampled.logprobs[row] = chosen[at : at + 1].view(np.float32)[0]
            best = slice(at * most, at * most + asked)
            sampled.top_ids[row, :asked] = top_ids[best]
            sampled.top_logprobs[row, :asked] = top[best].view(np.float32)
    return sampled
