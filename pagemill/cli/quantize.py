"""`pagemill quantize`: which file, which type, and what became of it in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pagemill.cli.boundary import print_note
from pagemill.cli.models import ensure
from pagemill.cli.progress import byte_progress
from pagemill.cli.text import count, size

if TYPE_CHECKING:
    from pagemill.config import Settings
    from pagemill.hub.store import StoredModel
    from pagemill.weights.mixtures import Mixture
    from pagemill.weights.quantize import Summary


class _Step(NamedTuple):
    status: str
    total: int
    completed: int


def quantize(
    source: str, target: Path, type_: str, settings: Settings, *, overwrite: bool, threads: int
) -> str:
    """Quantize a model on this machine to a file; the line that says how large it became."""
    from pagemill.text.overlay import read_overlay

    chosen, model = checked_type(type_), ensure(source, settings)
    summary = write(model, target, chosen, overwrite=overwrite, threads=threads)
    if read_overlay(model.path) is not None:
        print_note(f"Not in the file: what {source} was created with; `pagemill create` keeps it.")
    return (
        f"{target}: {size(target.stat().st_size)}, {summary.bits_per_weight:.2f} bits for each of "
        f"{count(summary.elements)} weights ({_listed(summary.formats)})"
    )


def checked_type(type_: str) -> Mixture:
    """Unsupported lists the types there are."""
    from pagemill.weights.mixtures import mixture

    return mixture(type_)


def write(
    model: StoredModel,
    target: Path,
    type_: Mixture,
    *,
    name: str = "",
    overwrite: bool = False,
    threads: int = 0,
) -> Summary:
    """Quantize a model to a file, with a bar, and tell what it lost beside precision. `name` is
    what the file calls the model of a folder."""
    from pagemill.conversion import write_gguf
    from pagemill.machine import this_machine

    is_path = model.name.kind == "file"
    with byte_progress() as report:
        written = write_gguf(
            model.path,
            target,
            type_,
            name=name or (model.path.resolve().name if is_path else model.name.model),
            overwrite=overwrite,
            threads=threads or this_machine().cores,
            progress=lambda done, total: report(_Step("quantizing", total, done)),
        )
    for note in (*_notes(written.summary), *(f"Not in the file: {one}." for one in written.notes)):
        print_note(note)
    return written.summary


def _notes(summary: Summary) -> list[str]:
    notes = []
    if summary.rounded_again:
        notes.append(
            f"The source was quantized already ({_listed(summary.rounded_again)}) and is now "
            "rounded once more; the original in F16 or BF16 gives a better file."
        )
    if summary.odd_rows:
        notes.append(
            f"{summary.odd_rows} of the matrices have rows that are not whole blocks of this type "
            "and get a larger one."
        )
    return notes


def _listed(formats: Mapping[str, int]) -> str:
    """{"F32": 61, "Q4_K": 210} -> "Q4_K 210, F32 61"."""
    ordered = sorted(formats.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {number}" for name, number in ordered)
