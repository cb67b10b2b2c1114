"""The parts of a measurement, in their order, and one of them carried out in this process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pagemill.bench.gpu.found import Line, append, read, rows
from pagemill.bench.gpu.sizes import FULL, TINY

if TYPE_CHECKING:
    import torch

TOTAL_S = 470.0  # all of them, and what starts and ends them


@dataclass(frozen=True, slots=True)
class Part:
    """`module` of this package has its tasks. `seconds` it may take, its process's start included;
    what one leaves is the others'."""

    name: str
    module: str
    seconds: float
    title: str


PARTS = (
    Part("limits", "limits", 25, "what the card can do at most"),
    Part("agree", "agree", 75, "whether kernels agree with the reference"),
    Part("attention", "attention", 60, "attention"),
    Part("products", "products", 65, "products and experts"),
    Part("elementwise", "elementwise", 35, "norms, rotation, gates, sampling"),
    Part("networks", "networks", 90, "steps of whole networks"),
    Part("engine", "users", 60, "users of the engine alone"),
    Part("http", "served", 80, "users through HTTP"),
    Part("peer", "peer", 45, "users of transformers"),
)


def carry_out_here(part: Part, device: str, tiny: bool, until: float, found: Path) -> None:
    """Measure one part, and append what it finds to a file. Limits are read from there."""
    import torch

    from pagemill.bench.gpu.bench import Bench, Limits, carry_out

    on = _ready(torch.device(device))
    if on.type != "cuda" and tiny:
        torch.set_num_threads(1)  # several would only wait for each other
    limits = Limits.of(rows(line for line in read(found) if line.part == "limits"))
    bench = Bench(on, TINY if tiny else FULL, limits, until)
    module = importlib.import_module(f"pagemill.bench.gpu.{part.module}")
    for line in carry_out(part.name, module.tasks(bench), bench):
        append(found, line)
        print(f"  {told(line)}", file=sys.stderr, flush=True)


def _ready(device: torch.device) -> torch.device:
    """The device for this process. A card gets its number: torch makes none current without."""
    import torch

    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device


def told(line: Line) -> str:
    """In one line."""
    if line.row is not None:
        row = line.row
        share = "" if row.share is None else f", {row.share:.0f} % of {row.limit}"
        return f"{row.what}, {row.size}: {row.figure:,.4g} {row.unit}{share}"
    return f"FAILED: {line.failed}" if line.failed else f"skipped: {line.skipped}"


def named(wanted: str) -> Iterable[Part]:
    """Of a list as "limits,attention"; the limits come with all others. ValueError lists what there
    is."""
    chosen = [name.strip() for name in wanted.split(",") if name.strip()]
    known = [part.name for part in PARTS]
    for name in chosen:
        if name not in known:
            raise ValueError(f"--parts takes {', '.join(known)}, not {name!r}")
    return [p for p in PARTS if not chosen or p.name in chosen or p.name == "limits"]
