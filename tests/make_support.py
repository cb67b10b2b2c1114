"""Writes docs/support.md from the sources: `python -m tests.make_support`.

What is listed is what modules and golden files say; tests/test_support.py fails when the page is
another than this program writes. Needs the native kernels.
"""

import importlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pagemill import _native, models
from pagemill.checkpoint import Family
from pagemill.ops.cpu import CpuOps
from pagemill.text.kinds import KINDS
from pagemill.weights import formats
from tests.ops.case import weight

PAGE = Path(__file__).parents[1] / "docs" / "support.md"
GOLDEN = Path(__file__).parent / "golden"
ROWS, INPUTS = 512, 4096  # of a matrix whose size in memory is stated
DENSE_BITS = 16  # codes of so many are floats, without scales
_LAST_BITS = 1e-6
_COLUMNS = ("format", "as read, bits", "on cpu", "in memory, bits", "can be written")
_KERNEL_COLUMNS = ("kind", "made of", "code, bits", "means", "inputs of a scale", "in memory, bits")


def page() -> str:
    """The whole page."""
    networks = _table(("GGUF name", "classes of config.json", "gives", "tested"), _networks())
    weights = _table(_COLUMNS, _formats())
    kernels = _table(_KERNEL_COLUMNS, _kinds())
    return f"""\
# What is supported

Written by `python -m tests.make_support` from the sources and from the golden files of the tests.

## Networks

"Tested" names the kinds of files from which tiny random networks gave the numbers that
transformers computed, on the reference, cpu and torch backends. The others are read by the same
code.

{networks}

Safetensors folders of other architectures may run [through transformers](models.md), where that is
installed.

## Weights

The reference backend computes with all of them, exactly, and so do torch and cuda
([GPUs](gpu.md)), in the type that the model computes in. "On cpu" is whether the kernels compute
with the same values, or with those of the nearest format that has a kernel, and then the bits that
an element takes in memory, padding included: what `pagemill plan` counts. [formats.md](formats.md)
says what each format means.

{weights}

## Kinds of packed matrices

What the kernels of the cpu backend multiply with, as `native/layout.h` calls them, and the formats
that are packed into each when they are loaded. A code is a number, or names one of a table's
values.

{kernels}

## Tokenizers

Vocabularies of GGUF files, by `tokenizer.ggml.model`: {", ".join(sorted(KINDS))}. Folders: what
[models.md](models.md) lists.
"""


def _networks() -> Iterator[Sequence[str]]:
    tested = _tested()
    for architecture in models.architectures():
        families: Sequence[Family] = importlib.import_module(
            f"pagemill.models.{architecture}"
        ).FAMILIES
        for family in families:
            for name in family.classes:
                gives = {"": "text", "rank": "scores"}.get(family.pooling, "vectors")
                yield f"`{family.name}`", name, gives, ", ".join(sorted(tested[name]))


def _tested() -> dict[str, set[str]]:
    """Class of config.json -> the kinds of golden files of it."""
    found: dict[str, set[str]] = defaultdict(set)
    for config in [*GOLDEN.glob("*/config.json"), *GOLDEN.glob("encoders/*/config.json")]:
        for name in json.loads(config.read_text("utf-8")).get("architectures", ()):
            if (config.parent / "model.gguf").exists():
                found[name].add("GGUF")
            if (config.parent / "model.safetensors").exists():
                found[name].add("safetensors")
    return found


def _formats() -> Iterator[Sequence[str]]:
    kernels = _native.matrix_formats()
    for name in formats.names():
        stored = _bits(formats.bytes_per_row(name, INPUTS) * ROWS)
        raw = np.zeros((1, formats.bytes_per_row(name, INPUTS)), np.uint8)
        kept = name if name in kernels else formats.as_gguf(name, raw)[0]
        how = f"nearest: {kept}" if kept != name else _exactness(name)
        size = _bits(_native.packed_bytes(kept, ROWS, INPUTS))
        yield name, stored, how, size, "yes" if name in formats.packing_names() else ""


def _exactness(name: str) -> str:
    """How far packed values are from what the file means."""
    rows = 64
    matrix = weight(np.random.default_rng(1), 1024, (name, rows))
    want = formats.get(name).unpack(matrix.parts[0].reshape(rows, -1))
    ops = CpuOps()
    got = ops.embed(np.arange(rows, dtype=np.int32), ops.upload(matrix, table=True))
    error = np.abs(got - want).max() / np.abs(want).max()
    return "same values" if error <= _LAST_BITS else f"off by at most {error:.1%} of the largest"


def _kinds() -> Iterator[Sequence[str]]:
    made: dict[str, list[str]] = defaultdict(list)
    rows = {}
    for name, kind, bits, looked_up, inputs in _native.matrix_kinds():
        made[kind].append(name)
        means = "one of a table" if looked_up else "a number"
        size = _bits(_native.packed_bytes(name, ROWS, INPUTS))
        rows[kind] = (str(bits), means, "" if bits >= DENSE_BITS else str(inputs), size)
    for kind, (bits, *rest) in rows.items():
        yield f"`{kind}`", ", ".join(made[kind]), bits, *rest


def _bits(size: int) -> str:
    return f"{8 * size / (ROWS * INPUTS):.2f}".rstrip("0").rstrip(".")


def _table(header: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
