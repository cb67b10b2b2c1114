"""A run of a network's layers as a model of its own: rows come from the stage before and go to the
one after.

Must not know: which network it is, how arrays travel.
"""

from dataclasses import dataclass

import torch

from pagemill.models import Model
from pagemill.ops.interface import Array, Ops, Step
from pagemill.parallel.group import Group
from pagemill.types import ModelCard


@dataclass(frozen=True, slots=True)
class _Memory:
    """A cache that has some of the layers, by their numbers among all."""

    kv: Array
    first: int

    def __getitem__(self, layer: int) -> Array:
        return self.kv[layer - self.first]


class Stage:
    """`stage(step, kv)` is the network's result on rank 0; elsewhere nothing that is of use."""

    def __init__(self, model: Model, ops: Ops, group: Group, card: ModelCard) -> None:
        self.model, self.ops, self.group = model, ops, group
        self.hidden = card.hidden_size
        self.first_layer = group.seat.layers(card.layers).start
        self.width = card.vocab_size  # of the result
        if card.pooling:
            self.width = max(1, len(card.labels)) if card.pooling == "rank" else card.hidden_size

    def __call__(self, step: Step, kv: Array) -> Array:
        group, seat = self.group, self.group.seat
        num_tokens, num_sampled = step.token_ids.shape[0], step.out_rows.shape[0]
        if seat.is_first:
            x = self.model.begin(step)
        else:
            x = group.receive((num_tokens, self.hidden), seat.rank - seat.tensor)
            x = self.ops.residual(x)
        memory = _Memory(kv, self.first_layer)
        for layer in self.model.layers:
            x = layer(x, step, memory)
        if not seat.is_last:
            x = x[:]  # read: a sum may have been put off
            group.send(x, seat.rank + seat.tensor)
            if seat.rank or not num_sampled:
                return x[:num_sampled]
            return group.receive((num_sampled, self.width), seat.ranks - seat.tensor, torch.float32)
        y = self.model.end(x, step)
        if num_sampled and not seat.part:
            group.send(group.native(group.tensor(y).float()), 0)
        return y
