"""What test_fuzz.py runs in a process of its own, so that a runaway allocation dies there.

    python -m tests.weights.fuzz_target truncate
    python -m tests.weights.fuzz_target mutate SEED COUNT
    python -m tests.weights.fuzz_target split SEED COUNT

Prints one JSON object: how many files loaded, how many were refused, the slowest in seconds, the
growth of memory in bytes. Any other end is a bug of the reader.
"""

import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pagemill import models
from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.reference import ReferenceOps
from pagemill.weights.load import open_model
from tests.weights.llama_file import llama_file
from tests.weights.split_file import part_name, split

MEMORY = 1 << 30  # of addresses, imports included
LAST = b"output_norm.weight"
PARTS = 3
EDGES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def truncated(good: bytes) -> Iterator[bytes]:
    return (good[:size] for size in range(len(good)))


def mutated(good: bytes, seed: int, count: int, last: bytes = LAST) -> Iterator[bytes]:
    """Single bytes and whole fields changed, nine in ten of them before the tensors' data. `last`
    is the name of the last tensor."""
    source = random.Random(seed)  # repeatable on purpose
    header = good.rindex(last) + 64
    for _ in range(count):
        raw = bytearray(good)
        end = header if source.random() < 0.9 else len(good) - 8
        place = source.randrange(end)
        if source.random() < 0.7:
            raw[place] = source.randrange(256)
        else:
            raw[place : place + 8] = struct.pack("<Q", source.choice(EDGES))
        yield bytes(raw)


def read_all(path: Path) -> None:
    """Open, and touch all that others will: every string of every array, every weight."""
    checkpoint = open_model(path, models)
    for value in checkpoint.metadata.values():
        if not isinstance(value, (str, int, float)):
            list(value)
    models.build(checkpoint.card, ReferenceOps(), checkpoint.source)


def files_of(folder: Path, kind: str, *numbers: int) -> tuple[Path, Iterator[bytes]]:
    """A file of a good model in `folder`, and what is to be written in its place."""
    if kind == "split":
        parts = split(llama_file(), PARTS)
        for number, part in enumerate(parts):
            (folder / part_name(number, PARTS)).write_bytes(part.to_bytes())
        number = numbers[0] % PARTS
        good = parts[number].to_bytes()
        path = folder / part_name(number, PARTS)
        return path, mutated(good, *numbers, str(parts[number].tensors[-1].name).encode())
    good = llama_file().to_bytes()
    path = folder / "some.gguf"
    path.write_bytes(good)
    return path, truncated(good) if kind == "truncate" else mutated(good, *numbers)


def main() -> None:
    kind, *numbers = sys.argv[1:]
    loaded = refused = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path, files = files_of(Path(folder), kind, *map(int, numbers))
        read_all(path)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for raw in files:
            path.write_bytes(raw)
            start = time.perf_counter()
            try:
                read_all(path)
                loaded += 1
            except (BadModelFile, Unsupported) as error:
                refused += 1
                if not error.message.isprintable() or folder in error.message:
                    raise AssertionError(f"unfit for a log: {error.message!r}") from error
            slowest = max(slowest, time.perf_counter() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    report = {"loaded": loaded, "refused": refused, "slowest": slowest, "grown": grown}
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
