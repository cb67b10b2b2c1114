"""What networks and model files say to each other: settings, tensors, and how families differ.

A network asks for tensors and settings under GGUF's names, whatever file they come from; a
`Family` says what the files of one architecture look like where they differ from the rest. Readers
(`pagemill.weights`) implement `Keys` and `WeightSource`; networks (`pagemill.models`) declare
families. Must not know: file formats, arrays' contents, networks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.interface import Array, Float32, Weight
from pagemill.types import ModelCard

# A tensor's name and the rows it must have; of one that is several matrices, stacked in the file
# already, the rows of each.
Part = tuple[str, int | tuple[int, ...]]
Origin = Literal["gguf", "safetensors"]


class Keys(Protocol):
    """Settings of a checkpoint, under GGUF's names without the architecture in front:
    "attention.sliding_window". Each read states its type and range; what is there and breaks them
    is one BadModelFile that names key and value. Without `default` the key must be there.
    """

    def has(self, key: str) -> bool: ...

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int: ...

    def wholes(
        self, key: str, count: int, least: int, most: int, default: int | None = None
    ) -> tuple[int, ...]:
        """`count` integers; one integer stands for as many of it."""
        ...

    def real(self, key: str, most: float, default: float | None = None) -> float:
        """A finite number above 0."""
        ...

    def reals(self, key: str, count: int, most: float) -> tuple[float, ...]: ...

    def flag(self, key: str, default: bool) -> bool: ...

    def flags(self, key: str, count: int, default: bool) -> tuple[bool, ...]: ...

    def text(self, key: str, default: str | None = None) -> str: ...

    def bad(self, key: str, what: str) -> BadModelFile:
        """The error to raise for a value that contradicts another."""
        ...

    def unsupported(self, key: str, what: str) -> Unsupported:
        """The error to raise for a value that is legal and cannot be run."""
        ...


class WeightSource(Protocol):
    """A checkpoint as networks see it. Names are GGUF's; ".weight" may be left out: "token_embd",
    "blk.0.attn_q", "blk.0.attn_q.bias". Shapes are stated and checked: BadModelFile names what is
    missing or of the wrong shape. One tensor is read at a time.
    """

    @property
    def keys(self) -> Keys: ...

    @property
    def layers(self) -> Sequence[int]:
        """The layers that are here: all, or a run of them where several processes share them."""
        ...

    def has(self, name: str) -> bool: ...

    def matrix(self, *parts: Part, k: int) -> Weight:
        """Tensors (rows, k) stacked along their rows into one Weight."""
        ...

    def experts(self, *parts: Part, k: int, count: int) -> Iterator[Weight]:
        """Tensors (count, rows, k): the Weight of each expert, its parts stacked as in `matrix`."""
        ...

    def expert_vectors(self, *parts: Part, count: int) -> Iterator[Float32]:
        """Tensors (count, size): those of each expert, one after another."""
        ...

    def vector(self, *parts: Part) -> Float32:
        """Tensors as float32, one after another; of a part the number of elements is stated."""
        ...

    def unused(self) -> Sequence[str]:
        """Tensors of the file that nobody has asked for."""
        ...


@dataclass(frozen=True, slots=True)
class Take:
    """A tensor that is made from another of the file's when it is read.

    `change` gets it as a float32 array and uses methods and arithmetic of arrays only.
    """

    name: str  # in the file, "{}" for the layer
    change: Callable[[Array, Keys], Array]


@dataclass(frozen=True, slots=True)
class Pick:
    """Some rows of another tensor of the file's, as they are stored: quantized ones stay so."""

    name: str  # in the file, "{}" for the layer
    rows: Callable[[int, Keys], Sequence[int]]  # of a matrix (of each expert) with so many


# Where safetensors files have a tensor: its name, "{}" for the layer and, where each expert has its
# own, another "{}" for the expert; or how to make it.
Place = str | Take | Pick

# Where config.json has a setting: its key, or a function of the whole (parsed) file. A function
# returns None for "not there", and raises Unsupported for what cannot be run.
Setting = str | Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Family:
    """What the files of one architecture look like, beside what all have in common."""

    name: str  # general.architecture of its GGUF files: "qwen2"
    classes: tuple[str, ...] = ()  # "architectures" of its config.json: "Qwen2ForCausalLM"
    # GGUF's setting -> where config.json has it.
    settings: Mapping[str, Setting] = field(default_factory=lambda: MappingProxyType({}))
    # GGUF's tensor, "blk.{}.ffn_norm.weight" -> where safetensors files have it; of several places
    # the first that is there.
    tensors: Mapping[str, Place | Sequence[Place]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    # Tensors of safetensors files that are no weights or repeat others: endings of names.
    ignored: tuple[str, ...] = ()
    # Tensor ("attn_q") -> the rows of the file in the order that networks expect (see `Rope`).
    row_orders: Callable[[ModelCard, Keys, Origin], Mapping[str, Sequence[int]]] | None = None
    # Elements of keys and values that one token adds to the cache, in all layers.
    kv_elements: Callable[[ModelCard, Keys], int] | None = None
    # Elements of recurrent state that one sequence keeps, in all layers.
    state_elements: Callable[[ModelCard, Keys], int] | None = None
    pooling: str = ""  # "mean", "cls", "last" or "rank" when the files need not say it


def rows_of(part: Part) -> int:
    """All rows of a part."""
    rows = part[1]
    return rows if isinstance(rows, int) else sum(rows)


def neighbours_to_halves(heads: int, head_dim: int, rope_dim: int) -> list[int]:
    """Rows of q or k for files that rotate elements 2i and 2i + 1 of a head together, where `Rope`
    pairs i and i + rope_dim / 2. Elements past rope_dim are not rotated and stay."""
    of_head = [*range(0, rope_dim, 2), *range(1, rope_dim, 2), *range(rope_dim, head_dim)]
    return [head * head_dim + row for head in range(heads) for row in of_head]
