"""Runs parts one after another, each in a process that is ended when its time is long up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from pagemill.bench.gpu.found import Line, append
from pagemill.bench.gpu.parts import Part

_GRACE_S = 15.0  # to end what is under way
_WORTH_STARTING_S = 10.0


def run(parts: Iterable[Part], device: str, tiny: bool, total: float, found: Path) -> None:
    """All of them within `total` seconds. What comes of them is appended to `found`."""
    ends = time.time() + total
    for part in parts:
        left = ends - time.time()
        if left < _WORTH_STARTING_S:
            append(found, Line(part.name, skipped=f"all of it: {total:g} seconds were spent"))
            continue
        seconds = min(part.seconds, left)
        print(f"{part.name}: {part.title}, {seconds:.0f} s at most", file=sys.stderr, flush=True)
        if failed := _run(part, device, tiny, seconds, found):
            append(found, Line(part.name, failed=failed))
            print(f"  FAILED: {failed}", file=sys.stderr, flush=True)


def _run(part: Part, device: str, tiny: bool, seconds: float, found: Path) -> str:
    """One part in a process of its own. Why it did not end well; "": it did."""
    command = [sys.executable, "-m", "pagemill.bench.gpu", "--only", part.name]
    command += ["--found", str(found), "--until", repr(time.time() + seconds), "--device", device]
    command += ["--tiny"] if tiny else []
    process = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
    )
    try:
        code = process.wait(seconds + _GRACE_S)
    except subprocess.TimeoutExpired:
        return f"its process was ended: it did not come back within {seconds + _GRACE_S:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "" if code == 0 else f"its process ended with {code}"
