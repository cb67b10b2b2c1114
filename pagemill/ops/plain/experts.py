"""Mixtures of experts on torch's own calls. Must not know: which network is running."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pagemill.ops.interface import Routing
from pagemill.ops.plain.matrices import Matrix


def route(logits: Tensor, routing: Routing, selection_bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Router logits (T, E) -> the chosen experts (T, top_k), best first, and their weights."""
    logits = logits.float()
    scores = logits.softmax(dim=-1) if routing.score == "softmax" else logits.sigmoid()
    merit = scores if selection_bias is None else scores + selection_bias
    if routing.groups > 1:
        merit = _of_best_groups(merit, routing)
    chosen = merit.sort(dim=-1, descending=True, stable=True).indices[:, : routing.top_k]
    weights = scores.gather(1, chosen)
    if routing.normalize:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return chosen, weights * routing.scale


def mixture(
    x: Tensor,
    chosen: Tensor,
    weights: Tensor,
    gate_up: Sequence[Matrix],
    down: Sequence[Matrix],
    biases: tuple[Sequence[Tensor] | None, Sequence[Tensor] | None],
    act_mul: Callable[[Tensor], Tensor],
) -> Tensor:
    """Each expert computes the tokens that chose it, all together. The host must know who chose
    whom, so it waits for the device once."""
    tokens, top_k = chosen.shape
    order = chosen.flatten().sort(stable=True).indices
    counts = torch.bincount(chosen.flatten(), minlength=len(gate_up)).tolist()
    results = x.new_empty((tokens * top_k, x.shape[1]))
    gate_up_bias, down_bias = biases
    at = 0
    for expert, count in enumerate(counts):
        if not count:
            continue
        routes = order[at : at + count]
        at += count
        inner = gate_up[expert].product(x[routes // top_k])
        if gate_up_bias is not None:
            inner = (inner + gate_up_bias[expert]).to(x.dtype)
        y = down[expert].product(act_mul(inner))
        if down_bias is not None:
            y = (y + down_bias[expert]).to(x.dtype)
        results[routes] = y
    weighed = results.view(tokens, top_k, -1).float() * weights[..., None]
    return weighed.sum(dim=1).to(x.dtype)


def _of_best_groups(merit: Tensor, routing: Routing) -> Tensor:
    """-inf for experts of all but the best groups."""
    groups = merit.view(len(merit), routing.groups, -1)
    best = groups.topk(min(2, groups.shape[2]), dim=-1).values
    of_group = best.sum(dim=-1) if routing.group_pairs else best[..., 0]
    order = of_group.sort(dim=-1, descending=True, stable=True).indices
    kept = torch.zeros_like(of_group, dtype=torch.bool)
    kept.scatter_(1, order[:, : routing.top_groups], True)
    return groups.masked_fill(~kept[..., None], -torch.inf).flatten(1)
