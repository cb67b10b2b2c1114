"""Every kernel compiled for cards that are not here: do its resources fit, does it spill?

    python -m tests.ops.triton.aot [module ...] [--archs 80,90,100]

compiles the `VARIANTS` of modules of pagemill/ops/triton (all, unless named) and prints one line of
JSON for each variant and card: bytes of shared memory, registers of a thread, bytes of registers
that were spilled, seconds. It must run in a process of its own, without TRITON_INTERPRET, because
what `@triton.jit` makes is decided when Triton is imported. `test_aot` does that and checks.

A new kernel file takes part by a module-level tuple of `pagemill.ops.triton.variants.Variant`:

    VARIANTS = (
        Variant(
            "bf16, rows of 4096",
            _kernel,
            {"x": "*bf16", "y": "*bf16", "width": "i32:16", "eps": "fp32"},
            {"BLOCK": 4096},
            num_warps=8,
        ),
    )

Compiling takes seconds: list what is launched most, and what asks for the most shared memory.
"""

import argparse
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pagemill.ops.triton.card import LARGE, SMALL
from pagemill.ops.triton.variants import Variant

ROOT = Path(__file__).parents[3]
_MOST_WORKERS = 4
ARCHS = (80, 90, 100)
# Bytes that a block may ask for: of all cards that run what is compiled for 8.0, the least.
SHARED_LIMIT = {80: SMALL.shared, 90: LARGE.shared, 100: LARGE.shared}


@dataclass(frozen=True)
class Compiled:
    """What one variant takes on one card."""

    module: str
    variant: str
    arch: int
    shared: int  # bytes
    registers: int  # of a thread
    spilled: int  # bytes of a thread
    seconds: float
    may_spill: bool


def modules() -> list[str]:
    """Names of the kernel files: the modules of pagemill.ops.triton that list variants."""
    package = importlib.import_module("pagemill.ops.triton")
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if hasattr(_module(name), "VARIANTS")]


def compile_elsewhere(modules: Sequence[str]) -> dict[str, list[Compiled] | str]:
    """By module: `compiled`, or why it does not compile. In processes of their own, each with a
    part of all variants: loading Triton takes as long as compiling a file."""
    workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    found: dict[str, list[Compiled] | str] = {module: [] for module in modules}
    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(lambda at: _elsewhere(modules, f"{at}/{workers}"), range(workers))
    for line in (line for part in parts for line in part):
        of_module = found[line["module"]]
        if "error" in line:
            found[line["module"]] = line["error"]
        elif isinstance(of_module, list):
            of_module.append(Compiled(**line))
    return found


def _elsewhere(modules: Sequence[str], part: str) -> list[dict[str, Any]]:
    """What one process says, with nothing cached before or after."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        environment["TRITON_CACHE_DIR"] = cache
        command = [sys.executable, "-m", "tests.ops.triton.aot", *modules, "--part", part]
        done = subprocess.run(
            command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
        )
    if done.returncode:
        raise AssertionError(f"compiling ended with {done.returncode}:\n{done.stderr[-6000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def compiled(module: str, variant: Variant, arch: int) -> Compiled:
    """Compile one variant for one card."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.kernel.arg_names
    missing = set(names) ^ {*variant.types, *variant.constants}
    assert not missing, f"{module}, {variant.name}: arguments {sorted(missing)}"
    signature, attributes = {}, {}
    for at, name in enumerate(names):
        kind, _, multiple = variant.types.get(name, "constexpr").partition(":")
        signature[name] = kind
        if kind.startswith("*") or multiple:
            attributes[(at,)] = [["tt.divisibility", 16]]
    source = ASTSource(variant.kernel, signature, dict(variant.constants), attributes)
    options = {"num_warps": variant.num_warps, "num_stages": variant.num_stages}
    began = time.perf_counter()
    binary = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    seconds = round(time.perf_counter() - began, 2)
    registers, spilled = _usage(binary.asm["cubin"])
    shared = binary.metadata.shared
    return Compiled(
        module, variant.name, arch, shared, registers, spilled, seconds, variant.may_spill
    )


def specialized(variants: Sequence[Variant]) -> list[str]:
    """Integers of a module that may be anything in every variant, and that kernels are compiled
    for again when they are first 1 or a multiple of 16."""
    kernels = {variant.kernel: None for variant in variants}
    found = []
    for kernel in kernels:
        kinds = [variant.types for variant in variants if variant.kernel is kernel]
        names = [n for n in kernel.arg_names if all(of.get(n) == "i32" for of in kinds)]
        listed = kernel.do_not_specialize
        found += [f"{kernel.__name__}: {name}" for name in names if name not in listed]
    return found


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread. These kernels have no arrays, calls or recursion:
    whatever is on the stack was spilled."""
    from triton.knobs import nvidia

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [nvidia.cuobjdump.path, "-res-usage", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = dict(word.split(":") for word in text.split() if word.count(":") == 1)
    return int(usage["REG"]), int(usage["STACK"]) + int(usage["LOCAL"])


def _module(name: str) -> object:
    return importlib.import_module(f"pagemill.ops.triton.{name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--archs", default=",".join(map(str, ARCHS)))
    parser.add_argument("--part", default="0/1")
    asked = parser.parse_args()
    archs = {int(arch) for arch in asked.archs.split(",")}
    part, parts = map(int, asked.part.split("/"))
    count = 0
    for name in asked.modules or modules():
        variants = _module(name).VARIANTS  # type: ignore[attr-defined]
        try:
            assert not specialized(variants), f"{name} specializes {specialized(variants)}"
            for variant in variants:
                for arch in sorted(archs & set(variant.archs)):
                    count += 1
                    if count % parts == part:
                        print(json.dumps(asdict(compiled(name, variant, arch))), flush=True)
        except Exception as error:  # whatever is wrong with a file, the others are compiled
            print(json.dumps({"module": name, "error": str(error)[-6000:]}), flush=True)


if __name__ == "__main__":
    main()
