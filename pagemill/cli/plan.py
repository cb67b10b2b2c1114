"""`pagemill plan`: the memory that a model would take here, before anything of it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from pagemill.cli import text
from pagemill.cli.models import is_file, local, remotes_of, required
from pagemill.engine.devices import is_gpu, with_memory_of
from pagemill.engine.plan import (
    ENGINE_BYTES,
    MAX_NUM_SEQS,
    SERVER_BYTES,
    SMALLEST_USEFUL_LEN,
    estimate,
)
from pagemill.engine.plan import plan as resolve
from pagemill.engine.ranks import count, shared
from pagemill.errors import BadModelFile, ConfigError, DownloadError
from pagemill.types import EnginePlan, Footprint, Gpu, Machine, ModelCard

if TYPE_CHECKING:
    from pagemill.config import EngineConfig, Settings

_HEADER_BYTES = (4 << 20, 32 << 20, 128 << 20)  # of GGUF files, whose vocabulary comes first
_BOUNDLESS = 1 << 60


class _OnlySize(Exception):
    """No more is known of a model than the size of its files, and why."""

    def __init__(self, size: int, why: str) -> None:
        super().__init__(why)
        self.size, self.why = size, why


@dataclass(frozen=True, slots=True)
class Planned:
    """A model and how many shall use it at once, `context` tokens each; 0: what serving chooses."""

    name: str
    card: ModelCard
    footprint: Footprint
    config: EngineConfig
    context: int
    users: int

    def plan(self, machine: Machine, context: int = 0, users: int = 0) -> EnginePlan:
        """What `serve` would plan, with a cache for so many users of so many tokens."""
        config, context, users = self.config, context or self.context, users or self.users
        if context:
            pages = users * -(-context // config.page_size)
            of_token = shared(config, self.card, config.backend, self.footprint).kv_token_bytes
            cache = pages * config.page_size * of_token
            asked = config.kv_cache_memory or cache
            config = replace(
                config, max_model_len=context, max_num_seqs=users, kv_cache_memory=asked
            )
        return resolve(config, self.card, machine, self.name, self.footprint)

    def needed(self, context: int, users: int, gpus: tuple[Gpu, ...] = ()) -> int:
        """Bytes in all, whether the machine has them or not."""
        machine = Machine(self.config.threads or 1, 0, 0, gpus)
        return self.plan(_boundless(machine), context, users).total_bytes

    def have(self, machine: Machine, device: str) -> Machine:
        """The machine, or what it has of cards, where a plan is for those."""
        share = self.config.gpu_memory_utilization
        return with_memory_of(machine, device, count(self.config), share)


def plan(name: str, settings: Settings, context: int, users: int) -> tuple[str, bool]:
    """The report, and whether the model fits."""
    from pagemill.machine import this_machine

    machine = this_machine()
    try:
        planned = look_up(name, settings, context, users)
    except _OnlySize as known:
        return _estimate_report(name, known, machine)
    if not planned.config.threads:
        planned = replace(planned, config=replace(planned.config, threads=machine.cores))
    made = planned.plan(_boundless(machine) if context or users else machine)
    there = planned.have(machine, made.device)
    lines = [_head(planned), *memory_lines(planned.card, planned.footprint, made)]
    fits = made.total_bytes <= there.available_bytes
    where = f"on {made.device}" if is_gpu(made.device) else "on this machine"
    lines.append(
        f"  available {text.size(there.available_bytes):>9}  "
        f"of {text.size(there.memory_bytes)} {where}"
    )
    lines += [
        "",
        *(_command(planned, made, settings.engine) if fits else _ways_out(planned, machine, made)),
    ]
    return "\n".join(lines), fits


def _boundless(machine: Machine) -> Machine:
    """On which everything fits, to learn what it would take."""
    gpus = tuple(
        replace(gpu, memory_bytes=_BOUNDLESS, available_bytes=_BOUNDLESS) for gpu in machine.gpus
    )
    return replace(machine, available_bytes=_BOUNDLESS, gpus=gpus)


def look_up(name: str, settings: Settings, context: int, users: int) -> Planned:
    """Read the model's header. ConfigError for what it cannot do at all."""
    from pagemill.backends import with_backend

    if users and not 1 <= users <= MAX_NUM_SEQS:
        raise ConfigError(f"--users is {users}; it must be in 1..{MAX_NUM_SEQS}", param="users")
    config = settings.engine
    stored = local(name, settings)
    if stored is not None or is_file(name):
        card, footprint = _read(config, required(name, settings).path)
    else:
        card, footprint = _ask(name, config, settings)
    config = with_backend(config, card)
    if context and not 1 <= context <= card.context_length:
        raise ConfigError(
            f"--ctx is {context}; the model takes 1 to {card.context_length} tokens", param="ctx"
        )
    if context or users:
        context, users = context or card.context_length, users or 1
    return Planned(name, card, footprint, config, context, users)


def _read(config: EngineConfig, path: Path) -> tuple[ModelCard, Footprint]:
    from pagemill.backends import with_backend
    from pagemill.footprint import footprint_of
    from pagemill.runtime import open_as_asked

    checkpoint = open_as_asked(config, path)
    card = checkpoint.card
    config = with_backend(config, card)
    footprint = footprint_of(
        checkpoint, config.backend, config.kv_cache_dtype, config.dtype, config.device
    )
    if footprint is None:
        footprint = estimate(card, config.backend, config.dtype, config.kv_cache_dtype)
    return card, footprint


def _ask(name: str, config: EngineConfig, settings: Settings) -> tuple[ModelCard, Footprint]:
    """Of a model that is not here: from headers in its repository. _OnlySize for one of the
    catalogue whose header cannot be had alone."""
    from pagemill.hub.headers import headers, listed
    from pagemill.hub.names import Name
    from pagemill.machine import this_machine

    wanted, memory = Name.parse(name), this_machine().available_bytes
    try:
        for header_bytes in _HEADER_BYTES:
            with headers(wanted, remotes_of(settings), header_bytes, memory=memory) as path:
                try:
                    return _read(config, path)
                except BadModelFile:  # perhaps a longer header
                    if header_bytes == _HEADER_BYTES[-1]:
                        raise
    except DownloadError as error:
        if wanted.kind == "hub":
            raise
        raise _OnlySize(listed(wanted).size, error.message) from error
    raise AssertionError("the last attempt returns or raises")


def _estimate_report(name: str, known: _OnlySize, machine: Machine) -> tuple[str, bool]:
    """What can be said of a model whose header is inside of what would be downloaded."""
    least = known.size + ENGINE_BYTES + SERVER_BYTES
    rows = [
        ("weights", known.size, "estimated: the size of its file"),
        ("processes", ENGINE_BYTES + SERVER_BYTES, "engine and server, and what its words add"),
        ("at least", least, "estimated: a cache and workspace come on top"),
        ("available", machine.available_bytes, f"of {text.size(machine.memory_bytes)}"),
    ]
    lines = [f"{name}: not on this machine, and its header could not be read alone ({known.why})"]
    lines += [f"  {label:<9} {text.size(size):>9}  {why}" for label, size, why in rows]
    fits = least <= machine.available_bytes
    end = f"`pagemill pull {name}`, then plan again." if fits else "It does not fit."
    return "\n".join([*lines, "", end]), fits


def memory_lines(card: ModelCard, footprint: Footprint, plan: EnginePlan) -> list[str]:
    """What takes how much, and why."""
    slots = plan.num_pages * plan.page_size
    usual = ("auto", "f16") if plan.backend == "cpu" else ("auto",)
    kept = "" if plan.kv_cache_dtype in usual else f" as {plan.kv_cache_dtype}"
    cache = (
        f"{slots:,} tokens of {text.size(footprint.kv_token_bytes)}{kept}, "
        f"{plan.num_pages:,} pages of {plan.page_size}"
        if footprint.kv_token_bytes
        else "the network keeps nothing of a text"
    )
    states = f"{plan.max_num_seqs} at once, {text.size(footprint.state_bytes)} each"
    sampled = min(plan.max_num_seqs, plan.max_num_batched_tokens)
    rows = [
        ("weights", plan.weights_bytes, _weights(footprint)),
        ("cache", plan.kv_bytes, cache),
        *([("states", plan.state_bytes, states)] if plan.state_bytes else []),
        (
            "workspace",
            plan.workspace_bytes,
            f"steps of {plan.max_num_batched_tokens:,} tokens, {sampled} of them answered; "
            f"{plan.threads} threads",
        ),
        ("processes", plan.process_bytes, f"engine and server, {card.vocab_size:,} words each"),
        ("total", plan.total_bytes, "" if footprint.exact else "estimated"),
    ]
    return [f"  {label:<9} {text.size(size):>9}  {why}".rstrip() for label, size, why in rows]


def _weights(footprint: Footprint) -> str:
    """Formats by size; those that the backend keeps as others, with both sizes."""
    parts = []
    for kept in sorted(footprint.weights, key=lambda kept: -kept.kept_bytes):
        part = f"{kept.format} {text.size(kept.kept_bytes)}"
        if kept.kept_as != kept.format:
            part += f" (kept as {kept.kept_as}; {text.size(kept.stored_bytes)} in the file)"
        parts.append(part)
    return ", ".join(parts)


def _head(planned: Planned) -> str:
    card = planned.card
    head = f"{planned.name}: {text.network(card)}, {text.count(card.parameters)} parameters"
    if planned.users:
        head += f"; {planned.users} at once, {planned.context} tokens each"
    return head


def _command(planned: Planned, made: EnginePlan, asked: EngineConfig) -> list[str]:
    """Whatever was asked for is a flag, or `serve` would do something else."""
    if planned.users:
        asked = replace(
            asked,
            max_model_len=made.max_model_len,
            max_num_seqs=made.max_num_seqs,
            kv_cache_memory=made.kv_bytes,
        )
    return [" ".join(["It fits: pagemill serve", quote(planned.name), *_flags(asked)])]


def _flags(config: EngineConfig) -> Iterator[str]:
    """Settings of an engine that differ from the defaults, as `serve` takes them."""
    from pagemill.config import all_settings

    for setting in all_settings():
        if setting.section == "engine":
            value = getattr(config, setting.attribute)
            if value == setting.default:
                continue
            if isinstance(value, bool):
                yield setting.flag if value else f"--no-{setting.flag[2:]}"
            elif setting.name == "kv_offload_gib":
                yield f"{setting.flag} {value / (1 << 30):.17g}"
            else:
                yield f"{setting.flag} {value}"


def _ways_out(planned: Planned, machine: Machine, made: EnginePlan) -> list[str]:
    """The longest context and the most users that would fit, each with its setting."""
    have, gpus = planned.have(machine, made.device).available_bytes, machine.gpus
    context, users = made.max_model_len, made.max_num_seqs
    lines = [f"It does not fit: {text.size(made.total_bytes - have)} are missing."]
    shorter = _most(context, lambda n: planned.needed(n, users, gpus) <= have)
    if shorter >= min(SMALLEST_USEFUL_LEN, planned.card.context_length):
        lines.append(f"  --ctx {shorter}: the longest context for {users} at once")
    fewer = _most(users, lambda n: planned.needed(context, n, gpus) <= have)
    if fewer:
        lines.append(f"  --users {fewer}: the most at once with {context} tokens each")
    if len(lines) == 1:
        lines.append("  Nothing of it fits: choose a smaller model, or one of fewer bits.")
    return lines


def _most(limit: int, holds: Callable[[int], bool]) -> int:
    """The largest number in 1..limit for which `holds`, which holds for all below it; else 0."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
