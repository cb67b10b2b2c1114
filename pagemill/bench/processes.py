"""Memory of a process and all below it, from /proc. Where there is none, nothing is known."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a process tree."""

    processes: int
    resident: int  # pages that several of them map count once for each
    proportional: int  # such pages are shared out


def memory(pid: int) -> Memory | None:
    """None where the kernel does not say."""
    sizes = [size for process in tree(pid) if (size := _sizes(process)) is not None]
    if not sizes:
        return None
    return Memory(len(sizes), sum(rss for rss, _ in sizes), sum(pss for _, pss in sizes))


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                yield from tree(int(child))


def _sizes(pid: int) -> tuple[int, int] | None:
    """Resident and proportional bytes; None for a process that has ended or is another user's."""
    found = {}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("Rss", "Pss"):
                found[name] = int(value.split()[0]) * 1024
    except OSError:
        return None
    return (found["Rss"], found["Pss"]) if len(found) == 2 else None
