"""A byte-level model behind the engine's protocol: what the server needs of the other rooms."""

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from pagemill.config import HttpConfig
from pagemill.errors import Busy, UnknownModel
from pagemill.text.chat import ChatTemplate
from pagemill.types import (
    Delta,
    EnginePlan,
    EngineStats,
    GenerationDefaults,
    ModelCard,
    Request,
    TokenLogprobs,
)
from tests.samples import TINY_CARD, engine_plan

EOS, BOS = 256, 257
VOCAB = 300


class ByteTokenizer:
    """Ids 0 to 255 are bytes, 256 and 257 special, 258 to 299 the letter x."""

    vocab_size = VOCAB
    bos_id = BOS
    eos_ids = frozenset({EOS})
    add_bos = leading_blank = False
    special_ids = control_ids = frozenset({EOS, BOS})
    special_tokens = MappingProxyType({"<eos>": EOS, "<bos>": BOS})
    special_edges = (frozenset({"<", "<e", "<eo", "<eos"}), frozenset({">"}))

    def encode(
        self, text: str, *, special: bool = False, between: Callable[[str], str] = str
    ) -> list[int]:
        if not special:
            return list(text.encode())
        ids: list[int] = []
        for piece, token_id in self.split_special(text):
            ids += between(piece).encode() if token_id is None else [token_id]
        return ids

    def frame(self, ids: Sequence[int]) -> list[int]:
        return [BOS, *ids] if self.add_bos else list(ids)

    def split_special(self, text: str) -> Iterator[tuple[str, int | None]]:
        for piece in re.split("(<eos>|<bos>)", text):
            if piece:
                yield piece, self.special_tokens.get(piece)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        shown = [i for i in ids if not (skip_special and self.is_special(i))]
        return b"".join(map(self.token_bytes, shown)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        if token_id < 256:
            return bytes([token_id])
        return b"<special>" if self.is_special(token_id) else b"x"

    def is_special(self, token_id: int) -> bool:
        return token_id in self.special_ids


class FramingTokenizer(ByteTokenizer):
    """Puts tokens around texts, and between two."""

    def frame(self, ids: Sequence[int]) -> list[int]:
        return [BOS, *ids, EOS]

    def frame_pair(self, first: Sequence[int], second: Sequence[int]) -> list[int]:
        return [BOS, *first, EOS, *second, EOS]

    def token_type_ids(self, ids: Sequence[int]) -> list[int]:
        return [int(EOS in ids[:n]) for n in range(len(ids))]


@dataclass
class FakeEngine:
    """Answers every request with `text`, a byte a token; what it was asked is in `requests`."""

    text: bytes = b"Paris is the capital of France."
    chunk: int = 1  # tokens a delta
    delay: float = 0.0  # before each delta
    max_live: int = 64
    cached: int = 0
    ends: bool = True  # with end-of-text; else goes round and round
    error_after: int = -1  # tokens, then the engine fails
    requests: list[Request] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    live: set[str] = field(default_factory=set)
    gate: asyncio.Event | None = None  # deltas wait for it
    broken: Exception | None = None

    async def generate(self, request: Request) -> AsyncIterator[Delta]:
        if self.broken is not None:
            raise self.broken
        if len(self.live) >= self.max_live:
            raise Busy("The queue is full.", retry_after=2)
        self.requests.append(request)
        self.live.add(request.id)
        ended = False
        try:
            for delta in self._script(request):
                if self.gate is not None:
                    await self.gate.wait()
                await asyncio.sleep(self.delay)
                if request.id in self.aborted:
                    ended = True
                    yield Delta(request.id, finish="abort", cached_tokens=self.cached)
                    return
                ended = delta.finish is not None
                yield delta
        finally:
            self.live.discard(request.id)
            if not ended:
                self.aborted.append(request.id)

    def _script(self, request: Request) -> list[Delta]:
        ids = list(self.text)
        if self.ends and EOS in request.stop_ids and request.min_tokens <= len(ids):
            ids.append(EOS)
        else:
            ids *= 1 + request.max_tokens // max(1, len(ids))
        stop = next((i for i, t in enumerate(ids) if t in request.stop_ids), len(ids))
        ids = ids[: min(request.max_tokens, stop + 1)]
        deltas = []
        for at in range(0, len(ids), self.chunk):
            part = tuple(ids[at : at + self.chunk])
            if 0 <= self.error_after <= at:
                return [*deltas, Delta(request.id, finish="error", error="The step failed.")]
            deltas.append(Delta(request.id, part, self._logprobs(request, part)))
        last = ids[-1]
        deltas[-1] = replace(
            deltas[-1],
            finish="stop" if last in request.stop_ids else "length",
            stop_id=last if last in request.stop_ids else None,
            cached_tokens=self.cached,
            queue_s=0.01,
            prefill_s=0.02,
            decode_s=0.03,
        )
        return deltas

    def _logprobs(self, request: Request, part: tuple[int, ...]) -> tuple[TokenLogprobs, ...]:
        n = request.sampling.logprobs
        if n is None:
            return ()
        return tuple(
            TokenLogprobs(
                -0.5, tuple((t + i) % 256 for i in range(n)), (-0.5, *(-9.0,) * (n - 1))[:n]
            )
            for t in part
        )

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    async def stats(self) -> EngineStats:
        if self.broken is not None:
            raise self.broken
        return EngineStats(
            running=len(self.live),
            pages_total=100,
            pages_used=25,
            slots_allocated=400,
            slots_filled=300,
            prefix_queries=10,
            prefix_hits=5,
            steps=7,
            step_tokens=70,
        )

    async def close(self) -> None:
        self.live.clear()


@dataclass
class VectorEngine(FakeEngine):
    """Gives a vector for every text: how often each of eight letters is in it, of length 1; or,
    with `num_scores`, scores: a pair's is the share of the first text's letters in the second."""

    num_scores: int = 0
    fails_on: bytes = b""  # texts with these letters end with an error

    def _script(self, request: Request) -> list[Delta]:
        ids = request.prompt
        if self.fails_on and self.fails_on in bytes(i for i in ids if i < 256):
            return [Delta(request.id, finish="error", error="The step failed.")]
        values = self._scores(request) if self.num_scores else self._letters(ids)
        return [Delta(request.id, finish="stop", vector=struct.pack(f"<{len(values)}f", *values))]

    def _letters(self, ids: Sequence[int]) -> list[float]:
        counts = [1.0 + sum(i % 8 == n for i in ids) for n in range(8)]
        length = sum(count * count for count in counts) ** 0.5
        return [count / length for count in counts]

    def _scores(self, request: Request) -> list[float]:
        types = request.token_types or (0,) * len(request.prompt)
        texts = [
            {i for i, kind in zip(request.prompt, types, strict=True) if kind == n and i < 256}
            for n in (0, 1)
        ]
        shared = 4.0 * len(texts[0] & texts[1]) / max(1, len(texts[0])) - 2
        return [shared + n for n in range(self.num_scores)]


CARD = replace(TINY_CARD, vocab_size=VOCAB, weights_bytes=4)
PLAN = replace(
    engine_plan(
        num_pages=100, page_size=16, budget=256, max_num_seqs=64, max_queued=64, max_model_len=256
    ),
    backend="cpu",
    kv_bytes=1,
)


TEMPLATE = ChatTemplate(
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ mood }}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
    bos_token="<bos>",
    eos_token="<eos>",
)


@dataclass
class FakeModel:
    client: FakeEngine = field(default_factory=FakeEngine)
    name: str = "tiny"
    created: int = 1_700_000_000
    card: ModelCard = CARD
    plan: EnginePlan = PLAN
    tokenizer: ByteTokenizer = field(default_factory=ByteTokenizer)
    template: ChatTemplate = TEMPLATE
    pair_template: str = ""
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)


def embedder(engine: VectorEngine | None = None) -> FakeModel:
    """A model that gives embeddings of eight numbers."""
    card = replace(CARD, pooling="mean", hidden_size=8, kv_elements=0)
    return FakeModel(engine or VectorEngine(), card=card, tokenizer=FramingTokenizer())


def ranker(*labels: str) -> FakeModel:
    """A reranker, or a classifier with these labels."""
    card = replace(CARD, pooling="rank", labels=labels, kv_elements=0)
    engine = VectorEngine(num_scores=max(1, len(labels)))
    return FakeModel(engine, card=card, tokenizer=FramingTokenizer())


@dataclass(frozen=True)
class Entry:
    name: str
    created: int
    max_model_len: int | None
    loaded: bool
    pooling: str | None


class FakeRuntime:
    """Serves the given models, all loaded."""

    def __init__(self, *models: FakeModel) -> None:
        self.models = {model.name: model for model in models}
        self.closed = False

    async def model(self, name: str) -> FakeModel:
        if name not in self.models:
            choices = ", ".join(self.models) or "none"
            raise UnknownModel(f"No such model; there are: {choices}.", param="model")
        return self.models[name]

    def names(self) -> list[Entry]:
        return [
            Entry(m.name, m.created, m.plan.max_model_len, True, m.card.pooling)
            for m in self.models.values()
        ]

    def loaded(self) -> list[FakeModel]:
        return list(self.models.values())

    async def unload(self, name: str) -> None:
        del self.models[name]

    async def close(self, drain_s: float = 0) -> None:
        self.closed = True


def http_config(**changes: object) -> HttpConfig:
    return replace(HttpConfig(), **changes)  # type: ignore[arg-type]
