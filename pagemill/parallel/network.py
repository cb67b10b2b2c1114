"""A rank's part of a network: from a checkpoint to something that runs steps.

Composes weights, models and what ranks do together. Must not know: how ranks are started and told.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from pagemill import models
from pagemill.engine.devices import is_gpu
from pagemill.ops.interface import Array, Ops, Step
from pagemill.parallel.ahead import Ahead
from pagemill.parallel.group import Group
from pagemill.parallel.seat import Seat
from pagemill.parallel.share import Share, card_of, groups_of
from pagemill.parallel.shared_ops import SharedOps
from pagemill.parallel.stage import Stage
from pagemill.types import EnginePlan
from pagemill.weights.load import Checkpoint

Network = Callable[[Step, Array], Array]


def seat_of(plan: EnginePlan, rank: int) -> Seat:
    return Seat(rank, plan.tensor_parallel, plan.pipeline_parallel)


def plan_of(plan: EnginePlan, rank: int) -> EnginePlan:
    """A rank's own: GPUs are taken in order from the first on, cores are divided."""
    threads, device = max(1, plan.threads // plan.ranks), plan.device
    if is_gpu(device):
        device = f"cuda:{int(device.partition(':')[2] or 0) + rank}"
    return replace(plan, threads=threads, device=device)


def meet(seat: Seat, meeting: str, ops: Ops) -> Group:
    """All ranks of a network whose arrays are those of `ops`."""
    device: Any = getattr(ops, "device", "")  # numpy's arrays have none
    return Group(seat, meeting, str(device), getattr(ops, "dtype", torch.float32))


def build(
    plan: EnginePlan, checkpoint: Checkpoint, ops: Ops, group: Group
) -> tuple[Network, Array]:
    """This rank's part, and its memory of sequences. Raises what loading a model does."""
    card, seat = checkpoint.card, group.seat
    source = Share(checkpoint.source, card, seat)
    shared: Any = SharedOps(ops, group, groups_of(checkpoint.source.keys))
    model = models.build(card_of(card, seat), shared, source)
    kv = model.new_kv(plan.num_pages, plan.page_size, plan.max_num_seqs)
    network: Network = model if seat.pipeline == 1 else Stage(model, shared, group, card)
    run = ops.compile(network)
    choices = getattr(ops, "choices", None)  # of a backend that runs while others plan
    return run if choices is None else Ahead(run, group, choices), kv
