"""A rank's share of a checkpoint: card, settings and tensors, cut as if they were a smaller model.

Which tensors are cut, and how, goes by their names, which are GGUF's in every network:

* By rows, whole heads or inner widths: what makes queries, keys and values, gates, the inner part
  of feed-forward networks, experts and mixers. Where there are fewer heads of keys and values than
  ranks, neighbours have the same one.
* By inputs, whole quantization blocks: what reads them. Each rank's product is a part of a sum, and
  rank 0 brings the bias.
* By rows of the vocabulary: embedding and head, which every token or every sampled row reads and
  which are a tenth and more of a small network.
* Not at all: norms, routers, the compressed vectors of latent attention, which are small.

A tensor is read whole and the share is copied out of it, so a rank holds no more than its share and
one tensor at a time. Must not know: networks, backends, other processes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pagemill.checkpoint import Keys, Part, WeightSource, rows_of
from pagemill.errors import Unsupported
from pagemill.ops.interface import Float32, Order, Weight
from pagemill.parallel.keys import SharedKeys
from pagemill.parallel.seat import Seat
from pagemill.types import ModelCard
from pagemill.weights import formats

# How the rows of one matrix are divided: among all, or so that neighbours may have the same.
_EVEN, _KV, _GROUP = "even", "kv", "group"
_ALL = "all"  # not
_ROWS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "attn_q": (_EVEN,),
        "attn_k": (_KV,),
        "attn_v": (_KV,),
        "attn_qkv": (_EVEN, _KV, _KV),
        "attn_sinks": (_EVEN,),
        "attn_q_b": (_EVEN,),
        "attn_k_b": (_EVEN,),
        "attn_v_b": (_EVEN,),
        "ffn_gate": (_EVEN,),
        "ffn_up": (_EVEN,),
        "ffn_gate_exps": (_EVEN,),
        "ffn_up_exps": (_EVEN,),
        "ffn_gate_shexp": (_EVEN,),
        "ffn_up_shexp": (_EVEN,),
        "ssm_in": (_EVEN, _EVEN, _GROUP, _GROUP, _EVEN),  # z, x, b, c, dt
        "ssm_conv1d": (_EVEN, _GROUP, _GROUP),
        "ssm_dt": (_EVEN,),
        "ssm_a": (_EVEN,),
        "ssm_d": (_EVEN,),
        "ssm_norm": (_EVEN,),
    }
)
# Of each head, which all ranks have then, or of all heads together.
_NORMS: Final[Mapping[str, str]] = MappingProxyType({"attn_q_norm": _EVEN, "attn_k_norm": _KV})
_INPUTS: Final = frozenset(
    {"attn_output", "ffn_down", "ffn_down_exps", "ffn_down_shexp", "ssm_out"}
)
_MOST_GROUPS: Final = 1 << 20
_EMBEDDING, _HEAD = "token_embd", "output"
_Rows = tuple[str, NDArray[np.uint8], Order | None]  # a format, (rows, bytes per row), inputs
_Item = TypeVar("_Item", bound=np.generic)
_FIRST_ONLY: Final = ("position_embd", "token_types")  # tables that no other stage looks up


@dataclass(frozen=True, slots=True)
class TablePart(Weight):
    """Rows of an embedding or a head: those of the ids from `first` on, of a vocabulary of `of`."""

    first: int
    of: int


@dataclass(frozen=True, slots=True)
class Elsewhere(Weight):
    """A table that another stage has. It holds nothing."""


class Readable(WeightSource, Protocol):
    """What a share needs of the whole."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def pass_over(self, begin: str) -> None: ...


def card_of(card: ModelCard, seat: Seat) -> ModelCard:
    """The card of a rank's share. Heads and widths must divide (see `engine.ranks`)."""
    return replace(
        card,
        heads=card.heads // seat.tensor,
        kv_heads=max(1, card.kv_heads // seat.tensor),
        ffn_size=card.ffn_size // seat.tensor,
    )


def groups_of(keys: Keys) -> int:
    """Groups of a mixer's heads, which share vectors and a norm; 1 where there are no mixers."""
    return keys.whole("ssm.group_count", 1, _MOST_GROUPS, 1)


class Share:
    """`checkpoint.WeightSource`: what is asked for in sizes of `card_of` is cut from the whole."""

    def __init__(self, whole: Readable, card: ModelCard, seat: Seat) -> None:
        """`card` is that of the whole."""
        self._whole, self._card, self._seat = whole, card, seat
        self.keys: Keys = SharedKeys(whole.keys, seat.tensor) if seat.tensor > 1 else whole.keys
        self.layers = seat.layers(card.layers)
        # Into how many pieces a matrix is cut, and which of them is ours.
        counts = {
            _EVEN: seat.tensor,
            _KV: min(seat.tensor, card.kv_heads),
            _GROUP: min(seat.tensor, groups_of(whole.keys)),
            _ALL: 1,
        }
        self._pieces = {
            kind: (count, seat.part * count // seat.tensor) for kind, count in counts.items()
        }
        for layer in set(range(card.layers)) - set(self.layers):
            whole.pass_over(f"blk.{layer}.")

    def has(self, name: str) -> bool:
        return self._whole.has(name)

    def matrix(self, *parts: Part, k: int) -> Weight:
        (name, *_), *more = parts
        if not more and name in (_EMBEDDING, _HEAD, *_FIRST_ONLY):
            return self._table(parts[0], k)
        return _stacked([self._cut(part, self._read(part, k)) for part in parts], k)

    def experts(self, *parts: Part, k: int, count: int) -> Iterator[Weight]:
        wholes = [
            self._whole.experts(self._asked(part), k=self._inputs(part[0], k), count=count)
            for part in parts
        ]
        for weights in zip(*wholes, strict=True):
            cuts = [self._cut(part, weight) for part, weight in zip(parts, weights, strict=True)]
            yield _stacked(cuts, k)

    def expert_vectors(self, *parts: Part, count: int) -> Iterator[Float32]:
        wholes = [self._whole.expert_vectors(self._asked(part), count=count) for part in parts]
        for vectors in zip(*wholes, strict=True):
            both = zip(parts, vectors, strict=True)
            yield np.concatenate([self._cut_vector(part, vector) for part, vector in both])

    def vector(self, *parts: Part) -> Float32:
        return np.concatenate(
            [self._cut_vector(part, self._whole.vector(self._asked(part))) for part in parts]
        )

    def unused(self) -> Sequence[str]:
        return self._whole.unused()

    def _read(self, part: Part, k: int) -> Weight:
        return self._whole.matrix(self._asked(part), k=self._inputs(part[0], k))

    def _runs(self, part: Part) -> list[tuple[int, int, int]]:
        """Of each matrix in a tensor: rows of a rank, into how many pieces the whole is cut, and
        which of them is this rank's."""
        name, rows = part
        sizes = (rows,) if isinstance(rows, int) else rows
        kinds = _ROWS.get(_kind(name), (_ALL,))
        if _kind(name) in _NORMS and self._whole.shape(name) != (rows_of(part),):
            kinds = (_NORMS[_kind(name)],)
        kinds = kinds * len(sizes) if len(kinds) == 1 else kinds
        return [(size, *self._pieces[kind]) for size, kind in zip(sizes, kinds, strict=True)]

    def _asked(self, part: Part) -> Part:
        """The part of the whole from which a part is cut."""
        return part[0], tuple(size * of for size, of, _ in self._runs(part))

    def _inputs(self, name: str, k: int) -> int:
        return k * self._seat.tensor if _kind(name) in _INPUTS else k

    def _cut(self, part: Part, weight: Weight) -> _Rows:
        """A rank's rows, or inputs, of a tensor."""
        ((form, rows, _, order),) = weight.segments
        if _kind(part[0]) not in _INPUTS or self._seat.tensor == 1:
            return form, self._cut_rows(part, rows), order
        if order is not None:  # a share of the inputs is not a share of each group
            form, rows = formats.in_order(form, rows, order)
        return form, self._cut_inputs(part[0], form, rows, weight.shape[1]), None

    def _cut_vector(self, part: Part, values: Float32) -> Float32:
        if part[0].endswith(".bias") and _kind(part[0]) in _INPUTS:
            # Of a sum over ranks: once.
            return values if self._seat.part == 0 else np.zeros_like(values)
        return self._cut_rows(part, values)

    def _cut_rows(self, part: Part, rows: NDArray[_Item]) -> NDArray[_Item]:
        pieces, at = [], 0
        for size, of, index in self._runs(part):
            pieces.append(rows[at + size * index : at + size * (index + 1)])
            at += size * of
        if at == sum(map(len, pieces)):
            return rows
        return np.concatenate(pieces)  # a copy: the whole can go

    def _cut_inputs(
        self, name: str, form: str, rows: NDArray[np.uint8], inputs: int
    ) -> NDArray[np.uint8]:
        ranks, part = self._seat.tensor, self._seat.part
        block = formats.get(form).BLOCK_SIZE if form in formats.names() else inputs
        if inputs % (block * ranks):
            raise Unsupported(
                f"tensor {name}: its {inputs} inputs are {inputs // block} {form} blocks of "
                f"{block}, which {ranks} ranks cannot divide; lower --tensor-parallel-size, or "
                f"use --pipeline-parallel-size",
                param="tensor_parallel_size",
            )
        size = rows.shape[1] // ranks
        return np.ascontiguousarray(rows[:, part * size : (part + 1) * size])

    def _table(self, part: Part, k: int) -> Weight:
        name, rows, seat = part[0], rows_of(part), self._seat
        embeds = seat.is_first or (seat.is_last and self._card.tied_embeddings)
        here = {_EMBEDDING: embeds, _HEAD: seat.is_last}.get(name, seat.is_first)
        if not here:
            self._whole.pass_over(f"{name}.weight")
            return Elsewhere((rows, k), (), (), ())
        weight = self._whole.matrix(part, k=k)
        if name in _FIRST_ONLY or seat.tensor == 1:
            return weight
        first, end = (rows * (seat.part + i) // seat.tensor for i in (0, 1))
        ours = weight.parts[0][first:end].copy()
        return TablePart((end - first, k), weight.formats, (ours,), (end - first,), first, rows)


def _kind(name: str) -> str:
    """ "attn_q" of "blk.3.attn_q.weight"."""
    return name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2]


def _stacked(cuts: Sequence[_Rows], k: int) -> Weight:
    """Parts of one matrix, as one."""
    counts = tuple(len(rows) for _, rows, _ in cuts)
    return Weight(
        shape=(sum(counts), k),
        formats=tuple(form for form, _, _ in cuts),
        parts=tuple(rows for _, rows, _ in cuts),
        rows=counts,
        orders=tuple(order for *_, order in cuts),
    )
