"""The vocabulary that every room shares. Standard library only.

What is asked is a `Request`, what is run is a sequence, what is answered is a `Delta`. Whoever
builds a `Request` (a dialect of the server, the command line, a test) has compared every field with
the model's limits; the engine looks once more at ids and lengths only, which kernels trust.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. Defaults mean "off", except temperature.

    temperature 0 is greedy. top_k 0, top_p 1, min_p 0, penalties 0 (repetition: 1) change nothing.
    `seed` is always set: noise is a function of (seed, position) alone, 0 <= seed < 2**64.
    `logprobs` is None (none), or n >= 0: the chosen token's and the n most likely tokens'.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


# What may be asked of each knob, lowest and highest; top_k -1 and 0 are off.
KNOB_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "temperature": (0.0, 2.0),
        "top_k": (-1, 2**31 - 1),
        "top_p": (0.0, 1.0),
        "min_p": (0.0, 1.0),
        "repetition_penalty": (0.01, 10.0),
        "presence_penalty": (-2.0, 2.0),
        "frequency_penalty": (-2.0, 2.0),
        "max_tokens": (1, 2**31 - 1),
    }
)
WHOLE_KNOBS = ("top_k", "max_tokens")  # the others are fractions


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a model wants used where a request leaves a field out; None: it does not say.

    Numbers are within `KNOB_RANGES`. `stop_ids` end answers beside the tokenizer's end-of-text ids.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    stop_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A valid order: ids in, at most `max_tokens` ids out; or, `pooled`, one vector of the prompt,
    for which max_tokens is 0.

    `stop_ids` end the answer when sampled (the model's end-of-text ids are among them unless the
    caller ignores them); before `min_tokens` they cannot be sampled. `priority`: lower runs first.
    `cache_salt` separates prefix caches: pages are shared only between equal salts. `token_types`
    says of each prompt token which text of a pair it belongs to; empty: all to the first.
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    min_tokens: int = 0
    stop_ids: tuple[int, ...] = ()
    cache_salt: str = ""
    priority: int = 0
    pooled: bool = False
    token_types: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities at one position, of the distribution before any sampling knob."""

    chosen: float
    top_ids: tuple[int, ...] = ()
    top: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What leaves the engine for one request after one step.

    Every accepted request gets exactly one Delta with `finish` set, and it is the last one. A
    sampled stop id is the last of `token_ids`, and `stop_id` repeats it. `logprobs` has one entry
    per token id when asked for. `cached_tokens` (prompt tokens found in the prefix cache) and the
    times are set on the final Delta; `error` says why when `finish` is "error". Times are seconds:
    in the queue, from leaving the queue to the first token, from there to the end. `vector` is what
    a pooled request gets, with its final Delta: float32, little-endian.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: FinishReason | None = None
    stop_id: int | None = None
    error: str | None = None
    cached_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    preemptions: int = 0
    vector: bytes = b""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters and gauges of one engine, a snapshot. Counters only ever grow."""

    running: int = 0
    waiting: int = 0
    pages_total: int = 0
    pages_used: int = 0  # held by sequences; cached but free pages are not counted
    page_size: int = 16
    slots_allocated: int = 0  # tokens that the pages held by sequences could take
    slots_filled: int = 0  # tokens that they hold
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0  # prompt tokens looked up
    prefix_hits: int = 0  # prompt tokens found
    preemptions: int = 0
    steps: int = 0
    step_tokens: int = 0  # tokens computed in all steps
    step_seconds: float = 0.0
    finished_stop: int = 0
    finished_length: int = 0
    finished_abort: int = 0
    finished_error: int = 0
    memory_bytes: int = 0  # resident, of the engine's process


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself once its model is loaded."""

    model_path: str
    backend: str  # "cpu (avx512)", "reference"
    threads: int
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    page_size: int
    num_pages: int
    weights_bytes: int
    kv_bytes: int
    load_s: float
    pid: int


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model file says of its network, checked by the reader. Sizes count elements."""

    name: str
    architecture: str  # "llama", as GGUF files call it
    quantization: str  # of most weights: "Q4_1"
    parameters: int
    weights_bytes: int
    context_length: int
    vocab_size: int
    layers: int
    hidden_size: int
    ffn_size: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_dim: int
    rope_theta: float
    norm_eps: float
    tied_embeddings: bool
    license: str = ""
    experts: int = 0  # of each mixture; 0: none
    experts_used: int = 0  # a token
    kv_elements: int = 0  # that one token adds to the cache: keys and values of all layers
    state_elements: int = 0  # of recurrent state that one sequence keeps, in all layers; 0: none
    pooling: str = ""  # "mean", "cls", "last": vectors; "rank": scores; "": it writes text
    labels: tuple[str, ...] = ()  # what the scores of "rank" are of, where the file says it
    through: str = ""  # the library that computes it where no network of ours does


@dataclass(frozen=True, slots=True)
class Gpu:
    """A graphics processor, as its driver describes it."""

    name: str
    memory_bytes: int
    available_bytes: int
    capability: tuple[int, int] = (0, 0)  # of NVIDIA's: (9, 0)


@dataclass(frozen=True, slots=True)
class Machine:
    """What the planning function may know of the machine."""

    cores: int
    memory_bytes: int
    available_bytes: int
    gpus: tuple[Gpu, ...] = ()  # those that may be used


@dataclass(frozen=True, slots=True)
class KeptWeights:
    """Matrices of one format of the file, as a backend keeps them."""

    format: str
    kept_as: str  # another format, or "3-bit codes": the same values in more bytes
    stored_bytes: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a network takes on a backend, in bytes; `engine.plan` multiplies. `exact` is False where
    it is guessed from the card."""

    weights: tuple[KeptWeights, ...]
    vector_bytes: int  # norms and biases
    kv_token_bytes: int  # of the cache, for each token of a sequence
    state_bytes: int  # recurrent states, for each sequence
    token_bytes: int  # activations, for each token of the largest step
    sampled_bytes: int  # logits and what leads to them, for each sampled row of a step
    thread_bytes: int  # scratch of each thread
    text_token_bytes: int  # and for each token of the longest text that attends as a whole
    position_bytes: int  # rotary tables, for each position
    exact: bool = True
    process_bytes: int = 0  # of libraries that only this network's engine loads

    @property
    def weights_bytes(self) -> int:
        return self.vector_bytes + sum(kept.kept_bytes for kept in self.weights)


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Every "auto" resolved: what one engine process is started with."""

    model_path: str
    backend: str  # "cpu", "cuda", "torch", "reference" or "transformers"
    threads: int
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_queued: int
    page_size: int
    num_pages: int
    kv_bytes: int
    prefix_caching: bool
    dtype: str = "auto"  # of full-precision weights
    quantization: str = "none"
    state_bytes: int = 0  # recurrent states of `max_num_seqs` sequences
    weights_bytes: int = 0  # as the backend keeps them
    workspace_bytes: int = 0  # activations and scratch of the largest step
    process_bytes: int = 0  # of engine and server beside all that
    tensor_parallel: int = 1  # ranks (processes) that share each layer
    pipeline_parallel: int = 1  # runs of layers, each of as many ranks
    device: str = ""  # of the torch backends: "cuda", "cuda:1", "mps", "cpu"
    async_scheduling: bool = True  # plan a step while the one before it runs, where a backend can
    enforce_eager: bool = False  # capture no steps
    # Of a card whose memory is measured when the engine has loaded: the share that may be used
    # (0: nothing is measured, pages are as planned), and what was asked for (0: what fits).
    gpu_memory_utilization: float = 0.0
    asked_model_len: int = 0
    asked_kv_bytes: int = 0
    least_model_len: int = 1
    gpu_layers: int = -1  # those from this number on keep their weights on the host; -1: none does
    kv_offload_bytes: int = 0  # of the host, for pages that fall out of the prefix cache
    kv_cache_dtype: str = "auto"  # of keys and values; "auto": as the backend keeps them unasked

    @property
    def ranks(self) -> int:
        """Processes that compute."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def total_bytes(self) -> int:
        """Memory of engine and server once every page and buffer has been used."""
        kept = self.weights_bytes + self.kv_bytes + self.state_bytes
        return kept + self.workspace_bytes + self.process_bytes


class EngineClient(Protocol):
    """The only door to an engine."""

    def generate(self, request: Request) -> AsyncIterator[Delta]:
        """Run one request. Raises Busy or Unavailable before the first Delta, never after: a
        failure of an accepted request is its final Delta. Closing the iterator aborts the request.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """End a request now; its final Delta has finish "abort". Unknown or finished ids: no-op."""
        ...

    async def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """End all requests, stop the engine, give its memory back. Idempotent."""
        ...
