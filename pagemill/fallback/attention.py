"""Attention of transformers' networks over our pages.

A network calls `PagedAttention.attend` once in each layer, in place of an attention function of the
library's own, with the queries, keys and values of all tokens of a step as one sequence. It stores
the keys and values in their slots and lets every row attend to its own history, so what a row gets
does not depend on the rows beside it.

What a token sees is the network's own choice (a window, chunks, everything before it): the library
asks for a mask once for each kind of layer, and gets a `Sees` that is worked out row by row.

Must not know: which network is running, and why a step has the rows it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from pagemill.errors import Unsupported
from pagemill.ops.interface import Step

NAME_START: Final = "pagemill_"  # of attention functions
MaskFunction = Callable[[Any, Any, Any, Any], Any]


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What a layer keeps of one token."""

    heads: int
    key_dim: int
    value_dim: int

    @property
    def elements(self) -> int:
        return self.heads * (self.key_dim + self.value_dim)


class Pages:
    """Keys (slots, G, D) and values of all layers, by the module that attends."""

    def __init__(
        self, shapes: Mapping[Any, HeadShape], num_pages: int, page_size: int, dtype: torch.dtype
    ) -> None:
        def zeros(heads: int, dim: int) -> Tensor:
            return torch.zeros((num_pages * page_size, heads, dim), dtype=dtype)

        self.layers = {
            module: (zeros(shape.heads, shape.key_dim), zeros(shape.heads, shape.value_dim))
            for module, shape in shapes.items()
        }


class Sees:
    """Which earlier tokens a token sees: the library's function of two positions."""

    def __init__(self, function: MaskFunction) -> None:
        self._function = function

    def __call__(self, positions: Tensor, kv_len: int) -> Tensor:
        """(n,) positions -> (n, kv_len), True where seen."""
        first = torch.zeros((1, 1), dtype=torch.long)  # of a batch of one, and of the heads
        keys = torch.arange(kv_len)[None, :]
        seen: Tensor = self._function(first, first, positions[:, None], keys)
        return seen.expand(len(positions), kv_len)


@dataclass(frozen=True, slots=True)
class _Row:
    """A sequence's tokens in a step, and where its history lies."""

    tokens: slice
    positions: Tensor  # (n,)
    pages: Tensor
    kv_len: int


@dataclass(slots=True)
class _Pass:
    """One forward pass over pages."""

    kv: Pages
    page_size: int
    slots: Tensor
    rows: list[_Row]
    seen: dict[Sees, list[Tensor | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, step: Step, kv: Pages) -> _Pass:
        rows = []
        for row, kv_len in enumerate(step.kv_lens.tolist()):
            tokens = slice(int(step.row_starts[row]), int(step.row_starts[row + 1]))
            pages = step.page_table[row, : -(-kv_len // step.page_size)]
            positions = torch.from_numpy(step.positions[tokens]).long()
            rows.append(_Row(tokens, positions, torch.from_numpy(pages).long(), kv_len))
        return cls(kv, step.page_size, torch.from_numpy(step.slots).long(), rows)

    def attend(self, module: Any, q: Tensor, k: Tensor, v: Tensor, how: _Scoring) -> Tensor:
        """q (T, H, D), k (T, G, D) and v (T, G, Dv) of a layer -> (T, H, Dv)."""
        keys, values = self.kv.layers[module]
        keys[self.slots] = k.to(keys.dtype)  # all rows of the step, before any row attends
        values[self.slots] = v.to(values.dtype)
        out = q.new_empty((*q.shape[:2], v.shape[2]))
        for row, seen in zip(self.rows, self._seen(how.sees), strict=True):
            history = [self._history(stored, row) for stored in (keys, values)]
            query = q[row.tokens].transpose(0, 1).to(keys.dtype)  # (H, n, D)
            result = how.weigh(query, history[0], history[1], seen)
            out[row.tokens] = result.transpose(0, 1).to(out.dtype)
        return out

    def _history(self, stored: Tensor, row: _Row) -> Tensor:
        """(G, kv_len, D)"""
        paged = stored.view(-1, self.page_size, *stored.shape[1:])
        return paged[row.pages].flatten(0, 1)[: row.kv_len].transpose(0, 1)

    def _seen(self, sees: Sees) -> list[Tensor | None]:
        """For each row what its tokens see; None: all. Once a step for all layers of a kind."""
        if sees not in self.seen:
            tables = [sees(row.positions, row.kv_len) for row in self.rows]
            self.seen[sees] = [None if bool(table.all()) else table for table in tables]
        return self.seen[sees]


class _Measuring:
    """Stands in for a pass to learn which layers there are and what they keep."""

    def __init__(self) -> None:
        self.shapes: dict[Any, HeadShape] = {}

    def attend(self, module: Any, q: Tensor, k: Tensor, v: Tensor, how: _Scoring) -> Tensor:
        if module in self.shapes:
            raise Unsupported("a layer of it attends twice")
        near = torch.arange(2)
        if how.sees(near, 2).tolist() != [[True, False], [True, True]]:
            raise Unsupported("its tokens do not see exactly themselves and those before them")
        self.shapes[module] = HeadShape(k.shape[1], k.shape[2], v.shape[2])
        return q.new_zeros((*q.shape[:2], v.shape[2]))


@dataclass(frozen=True, slots=True)
class _Scoring:
    """How scores become weights: see `ops.interface.Scoring`."""

    sees: Sees
    scale: float
    softcap: float
    sinks: Tensor | None

    def weigh(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        """q (H, n, D), k (G, kv_len, D) and v (G, kv_len, Dv) -> (H, n, Dv)."""
        by_hand = self.softcap or self.sinks is not None
        if by_hand or q.shape[1] == 1:  # for one token torch's own takes up to ten times as long
            return self._weigh_by_hand(q.float(), k.float(), v.float(), seen)
        result: Tensor = functional.scaled_dot_product_attention(
            *(part[None] for part in (q, k, v)),
            attn_mask=seen,
            scale=self.scale,
            enable_gqa=q.shape[0] != k.shape[0],
        )
        return result[0]

    def _weigh_by_hand(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        (heads, num_tokens, dim), groups = q.shape, len(k)
        queries = (q * self.scale).reshape(groups, -1, dim)  # heads of a group below each other
        scores = (queries @ k.transpose(1, 2)).view(groups, -1, num_tokens, k.shape[1])
        if self.softcap:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        if self.sinks is not None:
            sinks = self.sinks.float().view(groups, -1, 1, 1).expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, sinks], dim=-1)
        weights = torch.softmax(scores, dim=-1)[..., : k.shape[1]].flatten(1, 2)
        return (weights @ v).view(heads, num_tokens, -1)


class PagedAttention:
    """The attention function of one network, under a name of its own at the library's."""

    def __init__(self) -> None:
        self.name = f"{NAME_START}{id(self):x}"
        self._now: _Pass | _Measuring | None = None
        self._windows: dict[int, Sees] = {}
        AttentionInterface.register(self.name, self.attend)
        AttentionMaskInterface.register(self.name, self._mask)

    def measure(self, forward: Callable[[], Any]) -> Mapping[Any, HeadShape]:
        """What each layer keeps of a token, in the order in which `forward` comes to them.
        Unsupported where a layer does what pages cannot serve."""
        self._now = measuring = _Measuring()
        try:
            forward()
        finally:
            self._now = None
        return measuring.shapes

    def run(self, step: Step, kv: Pages, forward: Callable[[], Tensor]) -> Tensor:
        """`forward` over the tokens of a step, its keys and values in `kv`."""
        self._now = _Pass.of(step, kv)
        try:
            return forward()
        finally:
            self._now = None

    def attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        **asked: Any,
    ) -> tuple[Tensor, None]:
        """As transformers calls it: heads before tokens, a batch of one around both."""
        assert self._now is not None, "forward is called by measure or run only"
        how = _Scoring(
            sees=self._what_is_seen(attention_mask, asked.get("sliding_window") or 0),
            scale=_given(asked.get("scaling"), query.shape[-1] ** -0.5),
            softcap=_given(asked.get("softcap"), 0.0),
            sinks=asked.get("s_aux"),
        )
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
        return self._now.attend(module, q, k, v, how)[None], None

    @staticmethod
    def _mask(*_: Any, mask_function: MaskFunction, **__: Any) -> Sees:
        return Sees(mask_function)

    def _what_is_seen(self, mask: Any, window: int) -> Sees:
        if isinstance(mask, Sees):
            return mask
        if mask is not None:
            raise Unsupported("it makes a mask of its own")
        # Without a mask, the library's functions look at earlier tokens, of a window if given.
        if window not in self._windows:
            self._windows[window] = Sees(
                lambda _, __, q, k: (k <= q) & ((k > q - window) | (window == 0))
            )
        return self._windows[window]


def _given(value: float | None, default: float) -> float:
    return default if value is None else float(value)
