"""What must stand beside a figure: the machine, the programs, the command, the day."""

from __future__ import annotations

import platform
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pagemill import __version__
from pagemill.machine import this_machine


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one measurement."""

    command: str
    date: str  # with its offset from UTC
    pagemill: str
    python: str
    system: str
    cpu: str
    cores: int  # that we may use
    memory_bytes: int

    @classmethod
    def now(cls, command: Sequence[str]) -> Facts:
        """Of this machine, at this moment."""
        machine = this_machine()
        return cls(
            command=without_secrets(shlex.join(command)),
            date=time.strftime("%Y-%m-%d %H:%M:%S %z"),
            pagemill=__version__,
            python=platform.python_version(),
            system=platform.platform(),
            cpu=_cpu(),
            cores=machine.cores,
            memory_bytes=machine.memory_bytes,
        )

    def rows(self) -> list[tuple[str, str]]:
        """Label and value."""
        return [
            ("command", self.command),
            ("date", self.date),
            ("machine", f"{self.cpu}; {self.cores} cores, {self.memory_bytes / 1e9:.0f} GB"),
            ("system", self.system),
            ("versions", f"Pagemill {self.pagemill}, Python {self.python}"),
        ]


def without_secrets(command: str) -> str:
    """A report is passed on: keys, and passwords in URLs, are not."""
    command = re.sub(r"(--api-key[= ]+)[^\s'\"]+", r"\1***", command)
    return re.sub(r"(://)[^/@\s]+@", r"\1***@", command)


def _cpu() -> str:
    """Its model, as the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return " ".join(value.split())
    return platform.processor() or platform.machine()
