"""Attention on torch's own calls: pages are gathered, and torch attends.

Rows attend in the groups that a step came with, padded to the longest of the group. What is padding
is read as zeros: memory that somebody else left may hold anything, and 0 * NaN is NaN.

Must not know: which network is running.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pagemill.ops.interface import Scoring
from pagemill.ops.plain.cache import LayerCache
from pagemill.ops.plain.step import DeviceStep, RowGroup


def paged(
    q: Tensor, cache: LayerCache, step: DeviceStep, scoring: Scoring, sinks: Tensor | None
) -> Tensor:
    """q (T, H, D) over what is stored already -> (T, H, D)."""
    out = torch.zeros_like(q)
    for group in step.groups:
        history = _History.of(group, step)
        keys = history.known(cache.read_keys(history.pages, q.dtype))
        values = history.known(cache.read_values(history.pages, q.dtype))
        tokens = group.tokens()
        if group.fresh and group.stop - group.start == group.take and not scoring.window:
            seen = None
        else:
            seen = history.seen(step.positions[tokens], scoring.window)
        out[tokens] = _weigh(q[tokens], keys, values, seen, scoring, sinks)
    return out


def latent(q: Tensor, cache: LayerCache, step: DeviceStep, scale: float, value_dim: int) -> Tensor:
    """Attention to one head, whose values are the first elements of its keys: q (T, H, D) ->
    (T, H, value_dim)."""
    out = q.new_zeros((*q.shape[:2], value_dim))
    for group in step.groups:
        history = _History.of(group, step)
        keys = history.known(cache.read_keys(history.pages, q.dtype))
        tokens = group.tokens()
        seen = history.seen(step.positions[tokens], 0)
        scoring = Scoring(scale)
        out[tokens] = _weigh(q[tokens], keys, keys[..., :value_dim], seen, scoring, None)
    return out


def dense(q: Tensor, k: Tensor, v: Tensor, step: DeviceStep, scoring: Scoring) -> Tensor:
    """Every token of a row attends to all of that row: q (T, H, D) -> (T, H, D)."""
    out = torch.zeros_like(q)
    for group in step.groups:
        tokens, whole = group.tokens(), group.whole()
        columns = torch.arange(group.take, device=q.device)
        if scoring.window:
            away = columns[group.start : group.stop, None] - columns
            seen = (away.abs() < scoring.window).expand(len(whole), -1, -1)
        else:
            seen = torch.ones((*tokens.shape, group.take), dtype=torch.bool, device=q.device)
        out[tokens] = _weigh(q[tokens], k[whole], v[whole], seen, scoring, None)
    return out


@dataclass(frozen=True, slots=True)
class _History:
    """Where the histories of a group's rows lie, and how long each is."""

    pages: Tensor  # (B, P)
    at: Tensor  # (length,) positions
    lens: Tensor  # (B,)

    @classmethod
    def of(cls, group: RowGroup, step: DeviceStep) -> _History:
        num_pages = -(-group.length // step.page_size)
        pages = step.page_table[group.rows, :num_pages]
        at = torch.arange(group.length, dtype=torch.int32, device=pages.device)
        return cls(pages, at, step.kv_lens[group.rows])

    def known(self, x: Tensor) -> Tensor:
        """(B, slots of the pages, G, D) -> (B, length, G, D), zeros where nothing is stored."""
        stored = self.at < self.lens[:, None]
        return x[:, : len(self.at)].masked_fill(~stored[..., None, None], 0)

    def seen(self, positions: Tensor, window: int) -> Tensor:
        """positions (B, n) -> (B, n, length). Rows that only fill a batch up see their first slot,
        which is zeros: a softmax over nothing is no number."""
        last = torch.minimum(positions, (self.lens - 1).clamp(min=0)[:, None])[..., None]
        seen = self.at <= last
        return seen & (self.at > last - window) if window else seen


def _weigh(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Tensor | None,
    scoring: Scoring,
    sinks: Tensor | None,
) -> Tensor:
    """q (B, n, H, D), k and v (B, L, G, D), seen (B, n, L) -> (B, n, H, Dv). Without `seen` each
    token sees those before it, and n is L."""
    batch, num, heads, _ = q.shape
    groups = k.shape[2]
    k, v = k.transpose(1, 2), v.transpose(1, 2)  # (B, G, L, D)
    by_hand = scoring.softcap or sinks is not None
    if seen is None and not by_hand:
        result = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k, v, is_causal=True, scale=scoring.scale, enable_gqa=heads > groups
        )
        return result.transpose(1, 2)
    if seen is None:
        seen = torch.ones((1, num, num), dtype=torch.bool, device=q.device).tril()
    # Heads that read the same keys stand below each other: (B, G, H / G * n, D).
    q = q.transpose(1, 2).reshape(batch, groups, -1, q.shape[3])
    if by_hand or (num == 1 and q.device.type == "cpu"):  # torch's own is slow for one token there
        result = _weigh_by_hand(q, k, v, seen, scoring, sinks)
    else:
        mask = seen[:, None, None].expand(-1, 1, heads // groups, -1, -1).flatten(2, 3)
        result = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scoring.scale
        )
    return result.reshape(batch, heads, num, -1).transpose(1, 2)


def _weigh_by_hand(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scoring: Scoring, sinks: Tensor | None
) -> Tensor:
    """q (B, G, heads * n, D), k and v (B, G, L, D), seen (B, n, L) -> (B, G, heads * n, Dv)."""
    (batch, groups), length = q.shape[:2], k.shape[2]
    scores = (q.float() @ k.float().transpose(2, 3)) * scoring.scale
    scores = scores.view(batch, groups, -1, seen.shape[1], length)
    if scoring.softcap:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    scores = scores.masked_fill(~seen[:, None, None], -torch.inf)
    if sinks is not None:
        last = sinks.float().view(1, groups, -1, 1, 1).expand(*scores.shape[:4], 1)
        scores = torch.cat([scores, last], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., :length].flatten(2, 3)
    return (weights @ v.float()).to(q.dtype)
