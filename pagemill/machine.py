"""What this machine lets us use: cores and memory, within the limits of a container.

Every source may be missing; the next best one is asked then. Standard library only.
"""

import os
from pathlib import Path

from pagemill import gpus
from pagemill.types import Machine

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = 1 << 60  # version 1 writes a huge number for "none"


def this_machine() -> Machine:
    """Facts for the planning function. Reads a few files of the kernel."""
    total, available = _memory()
    for group in _groups():
        limit = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes")
        if limit is not None and limit < _NO_LIMIT:
            # Cached file content counts as used, but makes way.
            free = limit - max(0, (used or 0) - _cached(group))
            total, available = min(total, limit), min(available, max(0, free))
    return Machine(_cores(), total, available, gpus.seen())


def _cores() -> int:
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    for group in _groups():
        quota, _, period = _text(group / "cpu.max").partition(" ")
        if not quota:
            quota = _text(group / "cpu.cfs_quota_us")
            period = _text(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, max(1, -(-int(quota) // int(period))))
    return cores


def _memory() -> tuple[int, int]:
    """Installed and available bytes of the whole machine."""
    facts = dict(line.split(":", 1) for line in _text(_MEMINFO).splitlines() if ":" in line)
    sizes = [facts.get(name, "").split() for name in ("MemTotal", "MemAvailable")]
    if all(size and size[0].isdigit() for size in sizes):
        return int(sizes[0][0]) * 1024, int(sizes[1][0]) * 1024
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total, total // 2  # macOS does not say cheaply; half is free more often than not


def _groups() -> list[Path]:
    """Folders of our control groups, ours first; limits of every level hold."""
    folders: list[Path] = []
    for line in _text(_OWN_GROUP).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = _GROUPS
        elif {"memory", "cpu"} & set(controllers.split(",")):
            root = _GROUPS / controllers
        else:
            continue
        own = root / path.lstrip("/")
        # In a container the path may be the host's: then the root is what we see of ourselves.
        folders += [own, *(above for above in own.parents if above.is_relative_to(root))]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _cached(group: Path) -> int:
    for line in _text(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
