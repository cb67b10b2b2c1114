"""`pagemill doctor`: what this machine has, in plain words, and what to do about what it lacks.

Every check stands alone and never fails itself: a broken thing is what it is there to find.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pagemill import gpus
from pagemill.cli.boundary import FAILED
from pagemill.cli.text import size
from pagemill.errors import PagemillError
from pagemill.machine import this_machine

if TYPE_CHECKING:
    from pagemill.config import Settings

State = Literal["ok", "note", "broken"]
MARKS: Mapping[State, str] = {"ok": "ok     ", "note": "note   ", "broken": "BROKEN "}

LOW_MEMORY = 1 << 30
LOW_DISK = 2 << 30
PACKAGES = ("numpy", "tokenizers", "jinja2", "starlette", "uvicorn", "msgspec", "typer", "rich")
EXTENSIONS: Mapping[str, tuple[str, ...]] = {
    "x86_64": ("avx512_vnni", "avx512_bf16", "avx512f", "avx2", "fma", "f16c"),
    "aarch64": ("asimddp", "i8mm", "bf16"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. What is broken has a fix."""

    state: State
    subject: str
    words: str
    fix: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Run every check."""
    checks: list[Callable[[], list[Finding]]] = [
        python,
        processor,
        native,
        gpu,
        memory,
        lambda: store(Path(settings.hub.home)),
        lambda: address(settings),
        packages,
    ]
    return [finding for check in checks for finding in check()]


def report(findings: list[Finding]) -> tuple[str, int]:
    """The text of the report, and the exit code."""
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.state]}{finding.subject + ':':<12}{finding.words}")
        if finding.fix:
            lines.append(f"{'':<19}-> {finding.fix}")
    broken = sum(finding.state == "broken" for finding in findings)
    lines.append("")
    lines.append(f"{broken} thing(s) to repair." if broken else "Ready to serve.")
    return "\n".join(lines), FAILED if broken else 0


def python() -> list[Finding]:
    """The interpreter and the system."""
    from pagemill import __version__

    system = f"{platform.system()} {platform.machine()}"
    words = f"{__version__} on Python {platform.python_version()}, {system}"
    return [Finding("ok", "pagemill", words)]


def processor() -> list[Finding]:
    """The CPU, its useful instruction sets, and how many cores may be used."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    except OSError:  # not Linux
        pass
    useful = [flag for flag in EXTENSIONS.get(platform.machine(), ()) if flag in flags]
    words = f"{name}, {this_machine().cores} of {os.cpu_count()} cores usable"
    if useful:
        words += f", has {', '.join(useful)}"
    return [Finding("ok", "processor", words)]


def native() -> list[Finding]:
    """Whether our own kernels are there, and which instruction set they chose."""
    try:
        from pagemill import _native
    except ImportError as error:
        return [
            Finding(
                "note",
                "kernels",
                f"the native module is missing ({error}); the slow reference backend will run",
                "install a C++ compiler, then `pip install --force-reinstall pagemill`",
            )
        ]
    best, *others = _native.instruction_sets()
    words = f"native, using {best}" + (f" (also runs {', '.join(others)})" if others else "")
    return [Finding("ok", "kernels", words)]


def gpu() -> list[Finding]:
    """The cards that there are, and whether a backend on them can run; nothing where there are
    none."""
    build = gpus.torch_build()
    cards = [
        f"{card.name}, {size(card.available_bytes)} free of {size(card.memory_bytes)}"
        + (
            f", compute capability {'.'.join(map(str, card.capability))}"
            if card.capability[0]
            else ""
        )
        for card in gpus.seen()
    ]
    if not cards:
        return []
    words = "; ".join(cards)
    if gpus.usable():
        triton = importlib.util.find_spec("triton") is not None
        kernels = "with Triton kernels" if triton else "without Triton, by torch's own calls"
        return [Finding("ok", "gpu", f"{words}; --backend auto computes there, {kernels}")]
    lack = "torch is not installed" if not build else "torch here was built without GPUs"
    fix = "pip install 'pagemill[cuda]', where pip finds torch built for your driver"
    return [Finding("note", "gpu", f"{words}; not used: {lack}", fix)]


def memory() -> list[Finding]:
    """What this process may use, and what of it is free now: as the plan of an engine sees it."""
    machine = this_machine()
    words = f"{size(machine.available_bytes)} free of {size(machine.memory_bytes)}"
    if machine.available_bytes < LOW_MEMORY:
        fix = "close other programs, or choose a smaller model or --max-model-len"
        return [Finding("note", "memory", words, fix)]
    return [Finding("ok", "memory", words)]


def store(home: Path) -> list[Finding]:
    """Where models live, whether it can be written, and how much fits."""
    place = home
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK):
        fix = "make it writable, or set PAGEMILL_HOME to a folder that is"
        return [Finding("broken", "store", f"{home} cannot be written", fix)]
    free = shutil.disk_usage(place).free
    words = f"{home}, {size(free)} free"
    if free < LOW_DISK:
        fix = "`pagemill rm` a model, or set PAGEMILL_HOME to a larger disk"
        return [Finding("note", "store", words, fix)]
    return [Finding("ok", "store", words)]


def address(settings: Settings) -> list[Finding]:
    """Who listens at the configured address: nobody, our server, or a stranger."""
    from pagemill.cli.remote import Server
    from pagemill.server.address import port_problem

    server = Server.chosen(settings.http)
    if server.listens():
        try:
            models = server.models()
        except PagemillError as error:
            fix = "choose another port with --port or PAGEMILL_PORT"
            return [Finding("note", "server", f"{server.url} is taken: {error.message}", fix)]
        names = ", ".join(model.name for model in models) or "no models"
        return [Finding("ok", "server", f"running at {server.url}, serves {names}")]
    if problem := port_problem(settings.http.host, settings.http.port):
        fix = "choose another address with --host, --port, PAGEMILL_HOST or PAGEMILL_PORT"
        return [Finding("broken", "server", problem, fix)]
    return [Finding("ok", "server", f"not running; {server.url} is free")]


def packages() -> list[Finding]:
    """Versions of what we stand on."""
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    findings = [Finding("ok", "packages", ", ".join(found))]
    if missing:
        fix = "`pip install --force-reinstall pagemill`"
        findings.append(Finding("broken", "packages", f"missing: {', '.join(missing)}", fix))
    return findings
