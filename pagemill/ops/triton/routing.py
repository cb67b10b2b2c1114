"""Which experts take a token, and with what weight, in one launch.

By torch's calls this is a softmax, a sort, a gather, a sum, a quotient and more, each of a few
thousand numbers: about ten launches of two microseconds or more in every layer, for nothing but
their number. Here a program holds a token's logits in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagemill.ops.interface import Routing
from pagemill.ops.triton.variants import Variant

_NO_EXPERT: tl.constexpr = tl.constexpr(0x7FFFFFFF)


def route(logits: Tensor, routing: Routing, selection_bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Router logits (T, E) -> the chosen experts (T, top_k) int32, best first, and their weights,
    float32."""
    tokens, experts = logits.shape
    logits = logits.contiguous()
    chosen = torch.empty((tokens, routing.top_k), dtype=torch.int32, device=logits.device)
    weights = torch.empty(chosen.shape, dtype=torch.float32, device=logits.device)
    if tokens:
        _route_kernel[(tokens,)](
            logits, selection_bias, chosen, weights, routing.scale,
            **_constants(experts, routing, selection_bias is not None), num_warps=1,
        )  # fmt: skip
    return chosen, weights


def _constants(experts: int, routing: Routing, biased: bool) -> dict[str, object]:
    return {
        "EXPERTS": experts,
        "TOP_K": routing.top_k,
        "GROUPS": routing.groups,
        "TOP_GROUPS": routing.top_groups,
        "PAIRS": routing.group_pairs and experts > routing.groups,
        "SOFTMAX": routing.score == "softmax",
        "BIASED": biased,
        "NORMALIZE": routing.normalize,
        "GROUPS_BLOCK": triton.next_power_of_2(routing.groups),
        "EACH_BLOCK": triton.next_power_of_2(experts // routing.groups),
        "TOP_K_BLOCK": triton.next_power_of_2(routing.top_k),
    }


@triton.jit
def _route_kernel(
    logits, bias, chosen, weights, scale,
    EXPERTS: tl.constexpr, TOP_K: tl.constexpr, GROUPS: tl.constexpr, TOP_GROUPS: tl.constexpr,
    PAIRS: tl.constexpr, SOFTMAX: tl.constexpr, BIASED: tl.constexpr, NORMALIZE: tl.constexpr,
    GROUPS_BLOCK: tl.constexpr, EACH_BLOCK: tl.constexpr, TOP_K_BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    each: tl.constexpr = EXPERTS // GROUPS
    group, i = tl.arange(0, GROUPS_BLOCK)[:, None], tl.arange(0, EACH_BLOCK)[None, :]
    inside = (group < GROUPS) & (i < each)
    expert = tl.where(inside, group * each + i, _NO_EXPERT)
    score = tl.load(logits + token * EXPERTS + expert, inside, float("-inf")).to(tl.float32)
    if SOFTMAX:
        score = tl.exp(score - tl.max(tl.max(score, 1), 0))
        score /= tl.sum(tl.sum(score, 1), 0)
    else:
        score = tl.sigmoid(score)
    merit = score
    if BIASED:
        merit += tl.load(bias + expert, inside, 0.0)
    merit = tl.where(inside, merit, float("-inf"))
    if GROUPS > 1:
        merit = _of_best_groups(merit, expert, GROUPS_BLOCK, TOP_GROUPS, PAIRS)
    place = tl.arange(0, TOP_K_BLOCK)
    ids, of_chosen = tl.zeros_like(place), tl.zeros_like(place).to(tl.float32)
    for rank in range(TOP_K):
        top = tl.max(tl.max(merit, 1), 0)
        best = tl.min(tl.min(tl.where(merit == top, expert, _NO_EXPERT), 1), 0)
        taken = expert == best
        weight = tl.sum(tl.sum(tl.where(taken, score, 0.0), 1), 0)
        ids = tl.where(place == rank, best, ids)
        of_chosen = tl.where(place == rank, weight, of_chosen)
        merit = tl.where(taken, float("-inf"), merit)
        expert = tl.where(taken, _NO_EXPERT, expert)
    if NORMALIZE:
        of_chosen /= tl.sum(of_chosen, 0)
    at = token * TOP_K + place
    # Where logits are not numbers nobody is best; the answer is worthless then, but in bounds.
    tl.store(chosen + at, tl.minimum(ids, EXPERTS - 1), place < TOP_K)
    tl.store(weights + at, of_chosen * scale, place < TOP_K)


@triton.jit
def _of_best_groups(
    merit, expert,
    GROUPS_BLOCK: tl.constexpr, TOP_GROUPS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """-inf for experts of all but the best groups."""
    of_group = tl.max(merit, 1)
    if PAIRS:
        first = tl.min(tl.where(merit == of_group[:, None], expert, _NO_EXPERT), 1)
        rest = tl.where(expert == first[:, None], float("-inf"), merit)
        of_group += tl.max(rest, 1)
    group = tl.arange(0, GROUPS_BLOCK)
    left, kept = group, group * 0
    for _ in range(TOP_GROUPS):
        top = tl.max(of_group, 0)
        best = tl.min(tl.where(of_group == top, left, _NO_EXPERT), 0)
        taken = left == best
        kept = tl.where(taken, 1, kept)
        of_group = tl.where(taken, float("-inf"), of_group)
        left = tl.where(taken, _NO_EXPERT, left)
    return tl.where(kept[:, None] > 0, merit, float("-inf"))


def _variant(name: str, experts: int, routing: Routing, biased: bool) -> Variant:
    types = {"logits": "*bf16", "chosen": "*i32", "weights": "*fp32", "scale": "fp32"}
    constants = _constants(experts, routing, biased)
    if biased:
        types["bias"] = "*fp32"
    else:
        constants["bias"] = None
    return Variant(name, _route_kernel, types, constants, num_warps=1)


VARIANTS = (
    _variant("8 of 128", 128, Routing(8), False),
    _variant(
        "8 of 256 in 8 groups",
        256,
        Routing(8, "sigmoid", groups=8, top_groups=4, group_pairs=True),
        True,
    ),
)
