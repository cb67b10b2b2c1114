"""What test_fuzz.py runs in a process of its own, so that a runaway allocation dies there.

    python -m tests.weights.fuzz_target truncate
    python -m tests.weights.fuzz_target mutate SEED COUNT

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

MEMORY = 1 << 30  # of addresses, imports included
EDGES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def truncated(good: bytes) -> Iterator[bytes]:
    return (good[:size] for size in range(len(good)))


def mutated(good: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Single bytes and whole fields changed, nine in ten of them before the tensors' data."""
    source = random.Random(seed)  # repeatable on purpose
    header = good.rindex(b"output_norm.weight") + 64
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


def main() -> None:
    good = llama_file().to_bytes()
    kind, *numbers = sys.argv[1:]
    files = truncated(good) if kind == "truncate" else mutated(good, *map(int, numbers))
    loaded = refused = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some.gguf"
        path.write_bytes(good)
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
