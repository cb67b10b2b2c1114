"""What test_fuzz.py runs in a process of its own, so that a runaway allocation dies there.

    python -m tests.weights.fuzz_target truncate
    python -m tests.weights.fuzz_target mutate SEED COUNT
    python -m tests.weights.fuzz_target split SEED COUNT
    python -m tests.weights.fuzz_target header|index SEED COUNT      of a folder
    python -m tests.weights.fuzz_target config                       every key, every kind of value

Prints one JSON object: how many files loaded, how many were refused, the slowest in seconds, the
growth of memory in bytes. Any other end is a bug of the reader.
"""

import json
import random
import re
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pagemill import models
from pagemill.errors import BadModelFile, Unsupported
from pagemill.ops.reference import ReferenceOps
from pagemill.weights.load import open_model
from tests.weights.llama_file import llama_file
from tests.weights.safetensors_writer import CONFIG, llama_tensors, write_folder, write_shards
from tests.weights.split_file import part_name, split

MEMORY = 1 << 30  # of addresses, imports included
LAST = b"output_norm.weight"
PARTS = 3
ODD_NUMBERS = (0, 1, 3, 1 << 31, 1 << 62, 1 << 63, 1 << 64, -1, 1.5, "1e999", "true", "null")
ODD_VALUES = (
    None, True, False, 0, 1, 2, -1, 3, 1 << 20, 1 << 31, 1 << 63, 10**400, 0.0, 0.5, -2.5, 1e308,
    float("inf"), float("nan"), "", "x", "default", [], [1], ["x"], [[]], [None], {}, {"a": 1},
    {"rope_type": "yarn"}, {"rope_type": "longrope", "factor": 2}, "a" * 5000,
)  # fmt: skip
LETTERS = b'0123456789-+.eE"[]{}:,\\ untFUB_\xc3\x00'
FULL_CONFIG = {
    **CONFIG,
    "head_dim": 4,
    "hidden_act": "silu",
    "layer_types": ["full_attention"],
    "num_local_experts": None,
    "num_experts_per_tok": None,
    "partial_rotary_factor": 1.0,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "attention_factor": 1.1,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "truncate": True,
        "short_factor": [1.0, 1.0],
        "long_factor": [1.0, 1.0],
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "sliding_window": 16,
    "use_sliding_window": True,
    "text_config": {"hidden_size": 8},
    "quantization_config": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq"},
}
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


def scribbled(good: bytes, seed: int, count: int) -> Iterator[bytes]:
    """JSON with characters changed, taken out or put in, or a number replaced."""
    source = random.Random(seed)
    numbers = [match.span() for match in re.finditer(rb"\d+", good)]
    for _ in range(count):
        start, end = source.choice(numbers)
        new = str(source.choice(ODD_NUMBERS)).encode()
        if source.random() < 0.6:
            start = source.randrange(len(good))
            end, new = start + source.randrange(3), bytes(source.choices(LETTERS, k=2))
        yield good[:start] + new + good[end:]


def with_length(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def changed_configs(config: dict[str, Any]) -> Iterator[bytes]:
    """Each setting, and each within another, as something else or left out."""
    for key, value in config.items():
        for odd in ODD_VALUES:
            yield json.dumps({**config, key: odd}).encode()
        yield json.dumps({name: config[name] for name in config if name != key}).encode()
        if isinstance(value, dict):
            for inner in changed_configs(value):
                yield json.dumps({**config, key: json.loads(inner)}).encode()


def all_changed_configs() -> Iterator[bytes]:
    """For every way to stretch rotary positions."""
    for kind in ("yarn", "longrope", "dynamic", "llama3", "linear"):
        rope = {**FULL_CONFIG["rope_parameters"], "rope_type": kind}
        yield from changed_configs({**FULL_CONFIG, "rope_parameters": rope})


def folder_files(folder: Path, kind: str, *numbers: int) -> tuple[Path, Iterator[bytes]]:
    """The same for a folder with safetensors files."""
    if kind == "index":
        write_shards(folder, llama_tensors())
        path = folder / "model.safetensors.index.json"
        return path, scribbled(path.read_bytes(), *numbers)
    write_folder(folder, config=FULL_CONFIG)
    if kind == "config":
        return folder / "config.json", all_changed_configs()
    path = folder / "model.safetensors"
    good = path.read_bytes()
    end = 8 + int.from_bytes(good[:8], "little")
    headers = scribbled(good[8:end], *numbers)
    return path, (with_length(header, good[end:]) for header in headers)


def read_all(path: Path) -> None:
    """Open, and touch all that others will: every string of every array, every weight."""
    checkpoint = open_model(path, models)
    for value in checkpoint.metadata.values():
        if not isinstance(value, (str, int, float)):
            list(value)
    models.build(checkpoint.card, ReferenceOps(), checkpoint.source)


def files_of(folder: Path, kind: str, *numbers: int) -> tuple[Path, Iterator[bytes]]:
    """A file of a good model in `folder`, and what is to be written in its place."""
    if kind in ("header", "index", "config"):
        return folder_files(folder, kind, *numbers)
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
        model = path.parent if path.suffix != ".gguf" else path
        read_all(model)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for raw in files:
            path.write_bytes(raw)
            start = time.perf_counter()
            try:
                read_all(model)
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
