"""The command: all parts, each in its own process; or, for such a process, one."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from pagemill.bench.facts import Facts
from pagemill.bench.gpu.children import run
from pagemill.bench.gpu.found import Line, read
from pagemill.bench.gpu.parts import PARTS, TOTAL_S, carry_out_here, named
from pagemill.bench.gpu.table import SCHEMA, Record, as_json, as_text

_FAILED, _WRONG_USE = 1, 2


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, or 1 if a case of the table or a part failed."""
    asked = _parser().parse_args(arguments)
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: pip install 'pagemill[cuda]'", file=sys.stderr)
        return _WRONG_USE
    if asked.only:
        part = next(part for part in PARTS if part.name == asked.only)
        carry_out_here(part, asked.device, asked.tiny, asked.until, asked.found)
        return 0
    try:
        parts = named(asked.parts)
    except ValueError as error:
        print(error, file=sys.stderr)
        return _WRONG_USE
    device, why_not = _described(asked.device)
    if why_not:
        print(why_not, file=sys.stderr)
        return _WRONG_USE
    facts, started = Facts.now(["python", "-m", "pagemill.bench.gpu", *arguments]), perf_counter()
    with tempfile.TemporaryDirectory(prefix="pagemill-bench-") as folder:
        found = Path(folder) / "found"
        try:
            run(parts, asked.device, asked.tiny, asked.seconds, found)
        except KeyboardInterrupt:
            print("stopped; this was found until now:", file=sys.stderr)
        lines = read(found)
    record = Record(SCHEMA, facts, device, _software(), perf_counter() - started, lines)
    if asked.json:
        asked.json.write_bytes(as_json(record))
    print(as_text(record), end="")
    return _FAILED if _any_failed(lines) else 0


def _any_failed(lines: Sequence[Line]) -> bool:
    return any(line.failed for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pagemill.bench.gpu", description=__doc__)
    names = ", ".join(part.name for part in PARTS)
    parser.add_argument("--device", default="cuda", help="as torch calls it: cuda, cuda:1, cpu")
    parser.add_argument("--parts", default="", help=f"some of: {names}")
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="for all of it")
    parser.add_argument("--json", type=Path, help="a file for all that was found")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: tries the command itself")
    for name, kind in (("only", str), ("found", Path), ("until", float)):  # of its own processes
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    return parser


def _described(device: str) -> tuple[str, str]:
    """A device for people, or why it cannot be used."""
    import torch

    try:
        on = torch.device(device)
        torch.zeros(1, device=on).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return "", f"--device {device} cannot be used: {str(error).splitlines()[0]}"
    if on.type != "cuda":
        return f"{on} ({platform.machine()})", ""
    properties = torch.cuda.get_device_properties(on)
    memory = f"{properties.total_memory / 1e9:.0f} GB"
    return f"{properties.name}, {memory}, {properties.multi_processor_count} multiprocessors", ""


def _software() -> str:
    """Versions of what computes."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("torch", "triton", "transformers"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join([*found, f"Python {platform.python_version()}"])


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # libraries that a broken device is stuck in are not waited for
