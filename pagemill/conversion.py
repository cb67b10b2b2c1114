"""From a Hugging Face folder to a GGUF file: where networks, tokenizers and the writer meet.

Everything is read, checked and compared before the first byte is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pagemill import models
from pagemill.errors import Unsupported
from pagemill.models.rotary import rotary
from pagemill.ops.interface import Float32, Weight
from pagemill.ops.reference import ReferenceOps
from pagemill.text.gguf_words import gguf_words
from pagemill.weights.gguf_writer import encode
from pagemill.weights.mixtures import Mixture
from pagemill.weights.quantize import (
    Progress,
    SourceTensor,
    Summary,
    quantize_file,
    read_network,
    write_quantized,
)
from pagemill.weights.twin import Twin, Vector, open_twin


@dataclass(frozen=True, slots=True)
class Written:
    """A new file. `notes` are for people: what of the source it cannot say."""

    summary: Summary
    notes: Sequence[str] = ()


def write_gguf(
    source: Path,
    target: Path,
    mixture: Mixture,
    *,
    name: str = "",
    overwrite: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
) -> Written:
    """Write the model at `source`, a GGUF file or a folder of safetensors, as one GGUF file.

    `name` is what the new file calls the model of a folder; a GGUF file keeps its own. Unsupported
    names what of a folder GGUF has no word for.
    """
    if not source.is_dir():
        return Written(
            quantize_file(
                source, target, mixture, overwrite=overwrite, threads=threads, progress=progress
            )
        )
    twin = open_twin(source, models, name or source.resolve().name)
    checkpoint = twin.checkpoint
    # The network itself says which tensors it lacks, and which of the folder's it does not know.
    models.build(checkpoint.card, _NoWeights(), checkpoint.source.outline())
    text = gguf_words(source, checkpoint.card.vocab_size)
    values = {**twin.values, **{w.key: encode(w.kind, w.content) for w in text.words}}
    tensors: list[SourceTensor] = [*_stretch(twin), *twin.tensors]
    summary = write_quantized(
        target,
        mixture,
        read_network(checkpoint.metadata, source.name),
        values,
        tensors,
        overwrite=overwrite,
        threads=threads,
        progress=progress,
    )
    return Written(summary, text.notes)


class _NoWeights(ReferenceOps):
    """Lets a network ask for its weights, and keeps none: no memory is taken."""

    def upload(self, weight: Weight, table: bool = False) -> Float32:
        return np.broadcast_to(np.float32(0), weight.shape)


def _stretch(twin: Twin) -> list[Vector]:
    """How much slower each frequency is than it would be without the folder's way to stretch."""
    if not twin.stretched:
        return []
    card, source = twin.checkpoint.card, twin.checkpoint.source
    rope = rotary(card, source)
    if rope.scale != 1.0:
        raise Unsupported("rope_scaling: GGUF cannot say how this model scales its positions")
    plain = rotary(card, source, scaled=False)
    factors = np.array(plain.inv_freq) / np.array(rope.inv_freq)
    return [Vector("rope_freqs.weight", factors.astype(np.float32))]
