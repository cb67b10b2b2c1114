"""Makes a model file smaller: every matrix is rounded to the format that a mixture chooses for it.

Knows the keys that say how a file was quantized and what a mixture asks about. What is rounded
comes as `SourceTensor`s, from a GGUF file or elsewhere. One tensor is in work at a time, in slabs
of rows.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pagemill.errors import BadModelFile
from pagemill.weights import formats
from pagemill.weights.cursor import show
from pagemill.weights.gguf_parts import COUNT, NUMBER, TENSORS, GGUFParts
from pagemill.weights.gguf_writer import GGUFWriter, NewTensor, encode
from pagemill.weights.keys import MetadataKeys
from pagemill.weights.mixtures import Mixture, Network, choose

_SLAB_ELEMENTS: Final = 1 << 20
_LARGEST: Final = 65504.0  # in half precision, which the scales of most formats have
_ANY_SIZE: Final = frozenset({"F32", "BF16", "MXFP4"})
_FLOATS: Final = frozenset({"F32", "F16", "BF16"})
_FILE_TYPE, _VERSION = "general.file_type", "general.quantization_version"
# What the new file says itself, or what is no longer so.
_NOT_COPIED: Final = (_FILE_TYPE, _VERSION, "general.alignment", NUMBER, COUNT, TENSORS)
_QUANTIZATION_VERSION: Final = 2
_MOST_LAYERS: Final = 1 << 12
_MOST_HEADS: Final = 1 << 16

Progress = Callable[[int, int], None]  # bytes of tensors written, and of all


class SourceTensor(Protocol):
    """A tensor to be written to a new file."""

    @property
    def name(self) -> str: ...
    @property
    def format(self) -> str:
        """As it is stored; it keeps it unless the mixture chooses another."""
        ...

    @property
    def shape(self) -> tuple[int, ...]: ...
    def raw(self) -> NDArray[np.uint8]:
        """All its bytes in that format."""
        ...

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Some of its rows of shape[-1] elements, counted through all other dimensions."""
        ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a model."""

    elements: int
    tensor_bytes: int
    formats: Mapping[str, int]  # how many tensors have each
    odd_rows: int  # matrices whose rows are not whole blocks of the format chosen first
    rounded_again: Mapping[str, int]  # quantized formats of the source that were left

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.tensor_bytes / self.elements


class GGUFTensor:
    """A `SourceTensor` of an open GGUF file."""

    def __init__(self, file: GGUFParts, name: str) -> None:
        info = file.tensors[name]
        self.name, self.format, self.shape = name, info.format, info.shape
        self._file = file

    def raw(self) -> NDArray[np.uint8]:
        return self._file.data(self.name)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        stored = self.raw().reshape(math.prod(self.shape[:-1]), -1)
        return formats.get(self.format).unpack(stored[start:stop])


def quantize_file(
    source: Path,
    target: Path,
    mixture: Mixture,
    *,
    overwrite: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
) -> Summary:
    """Write the GGUF model at `source`, one file or several parts, to one file at `target`."""
    with GGUFParts.open(source) as file:
        values = {key: file.encoded(key) for key in file.metadata if key not in _NOT_COPIED}
        return write_quantized(
            target,
            mixture,
            read_network(file.metadata, show(source.name)),
            values,
            [GGUFTensor(file, name) for name in file.tensors],
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )


def read_network(metadata: Mapping[str, Any], name: str) -> Network:
    """What mixtures ask about a model, of which a file called `name` need not say all."""
    general = MetadataKeys(metadata, name)
    architecture = general.text("general.architecture", "")
    keys = general.of(architecture)
    layers = keys.whole("block_count", 0, _MOST_LAYERS, 0)
    heads = keys.wholes("attention.head_count", layers, 0, _MOST_HEADS, 1)[:1]
    kv_heads = keys.wholes("attention.head_count_kv", layers, 0, _MOST_HEADS, max(heads, default=1))
    experts = keys.whole("expert_count", 0, _MOST_HEADS, 0)
    return Network(architecture, layers, sum(heads[:1]), sum(kv_heads[:1]), experts)


def write_quantized(
    target: Path,
    mixture: Mixture,
    network: Network,
    values: Mapping[str, bytes],
    tensors: Sequence[SourceTensor],
    *,
    overwrite: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
) -> Summary:
    """Write a GGUF file with the metadata `values` (see `gguf_writer.encode`) and all tensors.

    BadModelFile names a tensor that cannot be rounded: one with values that are no numbers, or too
    large for half-precision scales.
    """
    numbers = [tensor for tensor in tensors if tensor.format in formats.names()]
    chosen = choose(mixture, network, {tensor.name: tensor.shape for tensor in numbers})
    new = [
        NewTensor(tensor.name, chosen.get(tensor.name, tensor.format), tensor.shape)
        for tensor in tensors
    ]
    total = sum(tensor.nbytes for tensor in new)
    values = {
        **values,
        _VERSION: encode("uint32", _QUANTIZATION_VERSION),
        _FILE_TYPE: encode("uint32", mixture.file_type),
    }
    done = 0
    with (
        ThreadPoolExecutor(threads, "quantize") as pool,
        GGUFWriter(target, values, new, overwrite=overwrite) as writer,
    ):
        for old, tensor in zip(tensors, new, strict=True):
            for packed in _packed(pool, old, tensor.format, ahead=threads):
                writer.write(packed)
                done += packed.nbytes
                if progress is not None:
                    progress(done, total)
    block_size = formats.get(mixture.base).BLOCK_SIZE
    pairs = zip(tensors, new, strict=True)
    changed = [old.format for old, tensor in pairs if old.format != tensor.format]
    return Summary(
        elements=sum(math.prod(tensor.shape) for tensor in new),
        tensor_bytes=total,
        formats=Counter(tensor.format for tensor in new),
        odd_rows=sum(t.shape[-1] % block_size != 0 for t in new if t.name in chosen),
        rounded_again=Counter(form for form in changed if form not in _FLOATS),
    )


def _packed(
    pool: ThreadPoolExecutor, tensor: SourceTensor, form: str, ahead: int
) -> Iterator[NDArray[np.uint8]]:
    """The tensor's bytes in the format `form`, one slab after another."""
    if form == tensor.format:
        yield tensor.raw()
        return
    step = max(1, _SLAB_ELEMENTS // tensor.shape[-1])
    num_rows = math.prod(tensor.shape[:-1])
    waiting: deque[Future[NDArray[np.uint8]]] = deque()
    for start in range(0, num_rows, step):
        waiting.append(pool.submit(_pack, tensor, form, start, min(num_rows, start + step)))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


def _pack(tensor: SourceTensor, form: str, start: int, stop: int) -> NDArray[np.uint8]:
    values = tensor.rows(start, stop)
    largest = float(np.abs(values).max())
    limit = math.inf if form in _ANY_SIZE else _LARGEST
    if not (math.isfinite(largest) and largest <= limit):
        what = (
            f"a weight of {largest:g}" if math.isfinite(largest) else "a weight that is no number"
        )
        raise BadModelFile(
            f"tensor {show(tensor.name)} has {what}, which {form} cannot hold; "
            f"it is in rows {start} to {stop - 1}"
        )
    return formats.get_packing(form).pack(values)
