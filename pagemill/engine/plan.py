"""Planning: every "auto" of the engine's settings resolved for one model on one machine.

One pure function from what was asked and what is there to a frozen `EnginePlan`. What was asked for
explicitly is honoured or refused with both numbers and the ways out, never changed in silence.
Standard library only: the plan is made, and shown, before anything heavy is loaded.
"""

from dataclasses import dataclass, replace
from typing import Protocol

from pagemill.engine import ranks
from pagemill.engine.devices import (
    CODES_SHARE,
    CONTEXT_BYTES,
    ON_GPU,
    TORCH_BYTES,
    Habits,
    Placed,
    device_of,
    element_size,
    habits_of,
    is_gpu,
    place_layers,
    with_memory_of,
)
from pagemill.engine.kv_types import kv_bytes_per_token, kv_type
from pagemill.errors import ConfigError
from pagemill.types import EnginePlan, Footprint, KeptWeights, Machine, ModelCard

CPU_PAGE_SIZE = 16  # its attention kernel reads whole groups of that many tokens
MAX_NUM_SEQS = 1024
DEFAULT_QUEUED = 512
POOLED_QUEUED = 4096  # one call may bring two thousand texts
POOLED_BATCHED_TOKENS = 1024  # a longer text has a step of its own
TYPICAL_LEN = 384  # tokens of one conversation turn, prompt and answer; sizes the default cache
STATE_SHARE = 0.2  # of the memory left beside the weights, at most, for recurrent states
USEFUL_LEN = 4096  # tokens of cache that a card has room for before it has all layers
SMALLEST_USEFUL_LEN = 256  # a context below this is refused rather than chosen

# Fitted (docs/numbers.md): what engine and server take besides, and their copies of a vocabulary.
ENGINE_BYTES, SERVER_BYTES, TOKEN_BYTES = 31 << 20, 38 << 20, 680
FIRST_POSITIONS = 2048  # rows of a rotary table, which doubles from there


class EngineSettings(ranks.RankSettings, Protocol):
    """What may be asked for; 0 and "auto" leave the choice to the plan."""

    @property
    def backend(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def max_num_batched_tokens(self) -> int: ...
    @property
    def max_queued(self) -> int: ...
    @property
    def kv_cache_memory(self) -> int: ...
    @property
    def kv_cache_dtype(self) -> str: ...
    @property
    def page_size(self) -> int: ...
    @property
    def prefix_caching(self) -> bool: ...
    @property
    def async_scheduling(self) -> bool: ...
    @property
    def enforce_eager(self) -> bool: ...
    @property
    def gpu_memory_utilization(self) -> float: ...
    @property
    def gpu_layers(self) -> int: ...
    @property
    def kv_offload_bytes(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def quantization(self) -> str: ...


def plan(
    config: EngineSettings,
    card: ModelCard,
    machine: Machine,
    model_path: str,
    footprint: Footprint | None = None,
) -> EnginePlan:
    """Resolve `config`. Raises ConfigError, naming the setting, for what cannot be honoured.

    The backend "auto" becomes "cpu". Without a footprint memory is estimated from the card.
    """
    backend = "cpu" if config.backend == "auto" else config.backend
    device = device_of(backend, config.device)
    host, habits = machine, habits_of(device)
    share = config.gpu_memory_utilization
    machine = with_memory_of(machine, device, ranks.count(config), share)
    page_size = _page_size(config, backend)
    threads = _within("threads", config.threads or machine.cores, 1, 1024)
    found = footprint or estimate(card, backend, config.dtype, config.kv_cache_dtype)
    footprint = ranks.shared(config, card, backend, found)
    page_bytes = page_size * footprint.kv_token_bytes
    process = _process_bytes(card, device, ranks.count(config)) + footprint.process_bytes
    placed = _placed(config, card, host, footprint, device, machine.available_bytes - process)
    fixed = placed.device_bytes + process
    max_num_seqs = _max_num_seqs(config, card, footprint, machine.available_bytes - fixed, habits)
    state_bytes = max_num_seqs * footprint.state_bytes
    batched, max_queued = _batching(config, card, max_num_seqs, habits)

    def workspace(model_len: int) -> int:
        longest_row = model_len if card.pooling else 0
        step_tokens = min(max(batched, longest_row), max_num_seqs * model_len)
        return workspace_bytes(footprint, step_tokens, max_num_seqs, threads, model_len)

    useful = _useful_pages(card, batched, max_num_seqs, page_size)
    fixed += state_bytes + workspace(_len_to_fit(config, card, habits))
    room = _Room(machine.available_bytes, fixed, page_size, page_bytes, state_bytes > 0)
    num_pages = _num_pages(config, card, room, useful, habits)
    max_model_len = config.max_model_len or min(card.context_length, num_pages * page_size)
    made = EnginePlan(
        model_path=model_path,
        backend=backend,
        threads=threads,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=batched,
        max_queued=max_queued,
        page_size=page_size,
        num_pages=num_pages,
        kv_bytes=num_pages * page_bytes,
        # Pages alone do not hold what a network with states knows of a prefix.
        prefix_caching=config.prefix_caching and not card.pooling and not state_bytes,
        state_bytes=state_bytes,
        weights_bytes=placed.device_bytes,
        workspace_bytes=workspace(max_model_len),
        process_bytes=process,
        device=device,
        gpu_layers=placed.gpu_layers,
    )
    return _as_asked(made, config, card)


def _placed(
    config: EngineSettings,
    card: ModelCard,
    host: Machine,
    footprint: Footprint,
    device: str,
    room: int,
) -> Placed:
    """Where the weights of layers are, with room on a card for a cache of one useful context."""
    if ranks.several(config):
        if config.gpu_layers >= 0:
            raise ConfigError("gpu_layers is for one rank; several divide all", param="gpu_layers")
        return Placed(-1, footprint.weights_bytes)
    cache = min(config.max_model_len or USEFUL_LEN, card.context_length) * footprint.kv_token_bytes
    room -= cache + workspace_bytes(footprint, ON_GPU.batched_tokens, ON_GPU.num_seqs, 1, 1)
    placed = place_layers(config.gpu_layers, card, device, footprint.weights_bytes, room)
    if placed.host_bytes > host.available_bytes:
        raise ConfigError(
            f"gpu_layers: the layers that stay on the host need {_mib(placed.host_bytes)}, there "
            f"are {_mib(host.available_bytes)}; choose a smaller model or one of fewer bits",
            param="gpu_layers",
        )
    return placed


def _as_asked(made: EnginePlan, config: EngineSettings, card: ModelCard) -> EnginePlan:
    """A plan with what its engine must know of the settings."""
    if config.kv_offload_bytes and made.backend in ("cpu", "transformers"):
        raise ConfigError(
            f"kv_offload_gib is set, but the {made.backend} backend keeps its pages in the host's "
            f"memory: --kv-cache-memory gives it more",
            param="kv_offload_gib",
        )
    measured = is_gpu(made.device) and not ranks.several(config)
    return replace(
        made,
        dtype=config.dtype,
        quantization=config.quantization,
        tensor_parallel=config.tensor_parallel_size,
        pipeline_parallel=config.pipeline_parallel_size,
        async_scheduling=config.async_scheduling,
        gpu_memory_utilization=config.gpu_memory_utilization if measured else 0.0,
        enforce_eager=config.enforce_eager,
        asked_model_len=config.max_model_len,
        asked_kv_bytes=config.kv_cache_memory,
        least_model_len=min(SMALLEST_USEFUL_LEN, card.context_length),
        kv_offload_bytes=config.kv_offload_bytes,
        kv_cache_dtype=kv_type(config.kv_cache_dtype, made.backend, made.device),
    )


def _useful_pages(card: ModelCard, batched: int, max_num_seqs: int, page_size: int) -> int:
    """As many as requests typically need. A pooled row is gone after its step, so the pages of one
    step are enough."""
    if card.pooling:
        return batched // page_size + max_num_seqs
    return -(-max_num_seqs * TYPICAL_LEN // page_size)


def _len_to_fit(config: EngineSettings, card: ModelCard, habits: Habits) -> int:
    """The length whose workspace must fit beside the cache. Where the cache takes all that is left,
    that is the longest."""
    if config.max_model_len:
        return _within("max_model_len", config.max_model_len, 1, card.context_length)
    if habits.fills:
        return card.context_length
    return min(SMALLEST_USEFUL_LEN, card.context_length)


def _page_size(config: EngineSettings, backend: str) -> int:
    page_size = _within("page_size", config.page_size, 1, 1024)
    if backend == "cpu" and page_size % CPU_PAGE_SIZE:
        raise ConfigError(
            f"page_size is {page_size}; the cpu backend takes multiples of {CPU_PAGE_SIZE}",
            param="page_size",
        )
    return page_size


def _process_bytes(card: ModelCard, device: str, num_ranks: int) -> int:
    """Beside weights, cache and workspace: of engine and server, or of a card."""
    if is_gpu(device):
        return num_ranks * CONTEXT_BYTES
    libraries = TORCH_BYTES if device else 0
    return ENGINE_BYTES + SERVER_BYTES + TOKEN_BYTES * card.vocab_size + libraries


def _max_num_seqs(
    config: EngineSettings, card: ModelCard, footprint: Footprint, free: int, habits: Habits
) -> int:
    """How many sequences run at once: by default, as many as have room for their states."""
    # Vectors of networks that keep nothing cost nothing beside their tokens.
    default = MAX_NUM_SEQS if card.pooling and not card.kv_elements else habits.num_seqs
    if footprint.state_bytes:
        room = int(max(0, free) * STATE_SHARE) // footprint.state_bytes
        default = max(1, min(default, room))
    count = _within("max_num_seqs", config.max_num_seqs or default, 1, MAX_NUM_SEQS)
    need = count * footprint.state_bytes
    if need and need > free:
        raise ConfigError(
            f"max_num_seqs is {count}: that many recurrent states need {_mib(need)}, there are "
            f"{_mib(max(0, free))} beside weights and processes; lower --max-num-seqs or choose a "
            f"smaller model",
            param="max_num_seqs",
        )
    return count


def _batching(
    config: EngineSettings, card: ModelCard, max_num_seqs: int, habits: Habits
) -> tuple[int, int]:
    """Tokens of a step, requests that may wait."""
    # More would not be faster, but others would wait longer. However many answers run, a prompt
    # must find room beside them.
    tokens = habits.batched_tokens // (2 if card.parameters > habits.large else 1)
    default_tokens = max(tokens, 2 * max_num_seqs)
    default_queued = DEFAULT_QUEUED
    if card.pooling:
        default_tokens, default_queued = POOLED_BATCHED_TOKENS, POOLED_QUEUED
    batched = _within(
        "max_num_batched_tokens", config.max_num_batched_tokens or default_tokens, 1, 1 << 20
    )
    max_queued = _within("max_queued", config.max_queued or default_queued, 1, 1 << 20)
    return batched, max_queued


def workspace_bytes(
    footprint: Footprint, step_tokens: int, sampled: int, threads: int, model_len: int
) -> int:
    """Activations, logits, scratch and rotary tables of the largest step and longest sequence."""
    positions = FIRST_POSITIONS
    while positions < model_len:
        positions *= 2
    of_thread = footprint.thread_bytes + footprint.text_token_bytes * model_len
    return (
        footprint.token_bytes * step_tokens
        + footprint.sampled_bytes * min(sampled, step_tokens)
        + threads * of_thread
        + footprint.position_bytes * positions
    )


def estimate(
    card: ModelCard, backend: str, dtype: str = "auto", kv_dtype: str = "auto"
) -> Footprint:
    """A footprint from what a card says, for what cannot be outlined: on the reference weights
    become float32; on tensors they become what is computed in, but a GPU keeps codes; others are
    taken to keep their size. Activations as of a plain transformer whose buffers are used again."""
    kept, name = card.weights_bytes, card.quantization
    if backend == "reference":
        kept, name = 4 * card.parameters, "F32"
    elif backend == "torch" or (backend == "cuda" and name in ("F32", "F16", "BF16")):
        size = element_size(backend, dtype)
        kept, name = size * card.parameters, "F32" if size > 2 else "BF16"
    elif backend == "cuda":
        kept = int(CODES_SHARE * kept)
    heads = card.heads + 2 * card.kv_heads
    return Footprint(
        weights=(KeptWeights(card.quantization, name, card.weights_bytes, kept),),
        vector_bytes=0,
        kv_token_bytes=kv_bytes_per_token(card, backend, dtype, kv_dtype),
        state_bytes=4 * card.state_elements,
        token_bytes=4 * (4 * card.hidden_size + 3 * card.ffn_size + 2 * heads * card.head_dim),
        sampled_bytes=4 * (card.vocab_size + 3 * card.hidden_size),
        thread_bytes=4 * card.vocab_size + (1 << 17),
        text_token_bytes=0 if card.kv_elements else 8 * card.head_dim,
        position_bytes=4 * card.rope_dim,
        exact=False,
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """What the machine has, and what all but the cache takes of it."""

    available: int
    fixed: int
    page_size: int
    page_bytes: int
    states: bool

    @property
    def free(self) -> int:
        return max(0, self.available - self.fixed)

    def refusal(self, setting: str, need: int, have: int, needed_len: int) -> ConfigError:
        """Need, have, and the ways out that are open."""
        fits = have // self.page_bytes * self.page_size
        most = f" (to {fits}, the most that fits)" if fits else ""
        states, fewer = (" states,", " or --max-num-seqs") if self.states else ("", "")
        return ConfigError(
            f"{setting}: keys and values need {_mib(need)}, there are {_mib(have)} (for a context "
            f"of at least {needed_len} tokens, beside {_mib(self.fixed)} for weights,{states} "
            f"workspace and processes, of {_mib(self.available)} available); "
            f"lower --max-model-len{most}{fewer}, set --kv-cache-memory to what this machine can "
            f"spare, or choose a smaller model or one of fewer bits (--quantization int4)",
            param=setting,
        )


def _num_pages(
    config: EngineSettings, card: ModelCard, room: _Room, useful: int, habits: Habits
) -> int:
    """Pages of the cache: at least one request of the longest length, whatever else."""
    page_size, page_bytes = room.page_size, room.page_bytes
    needed_len = config.max_model_len or min(SMALLEST_USEFUL_LEN, card.context_length)
    needed = -(-needed_len // page_size)
    longest = -(-(config.max_model_len or card.context_length) // page_size)
    if not page_bytes:
        return max(longest, useful)
    if config.kv_cache_memory:
        num_pages, have = config.kv_cache_memory // page_bytes, config.kv_cache_memory
        if config.kv_cache_memory > room.free:
            raise room.refusal("kv_cache_memory", config.kv_cache_memory, room.free, needed_len)
    else:
        allowed = int(room.free * habits.kv_share) // page_bytes
        wanted = allowed if habits.fills else max(longest, useful)
        if config.max_model_len:  # asked for: may take more than the usual share
            allowed = max(allowed, min(needed, room.free // page_bytes))
        num_pages, have = min(wanted, allowed), room.free
    if num_pages < needed:
        raise room.refusal("max_model_len", needed * page_bytes, have, needed_len)
    return num_pages


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


def _within(setting: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ConfigError(f"{setting} is {value}; it must be in {low}..{high}", param=setting)
    return value
