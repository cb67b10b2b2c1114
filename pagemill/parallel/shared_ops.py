"""A backend's operations for a network of which this rank has a share.

Those that ranks do together are here, the rest are the backend's own. Must not know: networks, how
an operation is computed.
"""

from dataclasses import dataclass
from typing import Any

from pagemill.ops.interface import Array, Ops, Weight
from pagemill.parallel.group import Group
from pagemill.parallel.share import Elsewhere, TablePart


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Rows of an embedding or a head, on the backend."""

    array: Array
    first: int
    rows: int
    of: int  # rows of all parts


class SharedOps:
    """`Ops` for one rank's part of a network."""

    def __init__(self, ops: Ops, group: Group, groups: int) -> None:
        """`groups` of many heads have a norm of their own (see `share.groups_of`)."""
        self._ops, self._group = ops, group
        self._one_norm = groups == 1 and group.seat.tensor > 1

    def __getattr__(self, name: str) -> Any:
        """What a rank does alone."""
        return getattr(self._ops, name)

    def upload(self, weight: Weight, table: bool = False) -> Array:
        if isinstance(weight, Elsewhere):
            return None
        array = self._ops.upload(weight, table)
        if isinstance(weight, TablePart):
            return _Table(array, weight.first, weight.shape[0], weight.of)
        return array

    def embed(self, ids: Array, table: Array) -> Array:
        """Of a part: each rank looks up the ids it has, and their sum is the embedding."""
        if not isinstance(table, _Table):
            return self._ops.embed(ids, table)
        group = self._group
        local = group.tensor(ids) - table.first
        ours = (local >= 0) & (local < table.rows)
        found = self._ops.embed(group.native(local.clamp(0, table.rows - 1)), table.array)
        return group.sum(group.native(group.tensor(found) * ours[:, None]))

    def linear(self, x: Array, weight: Array) -> Array:
        """Of a part of a head: the logits of all parts."""
        if not isinstance(weight, _Table):
            return self._ops.linear(x, weight)
        return self._group.join(self._ops.linear(x, weight.array), weight.of)

    def all_reduce(self, x: Array) -> Array:
        return self._group.sum(x)

    def rms_norm_all(self, x: Array, weight: Array, eps: float) -> Array:
        """Of one group for all ranks: the mean goes over what all of them have."""
        if not self._one_norm:
            return self._ops.rms_norm(x, weight, eps)
        group = self._group
        ours = group.tensor(x).float()
        squares = group.tensor(group.sum(group.native((ours * ours).sum(-1, keepdim=True))))
        mean = squares / (x.shape[-1] * group.seat.tensor)
        scaled = ours * (mean + eps).rsqrt() * group.tensor(weight)
        return group.native(scaled.to(group.dtype))
