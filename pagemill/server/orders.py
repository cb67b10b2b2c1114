"""What a caller asks for, whatever the dialect, and its translation to engine requests.

An `Order` is valid by itself; `to_requests` checks it against one model (vocabulary, context) and
makes the engine's requests. All dialects pass through here, so all have the same limits.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pagemill.errors import ContextTooLong, InvalidRequest
from pagemill.server.fields import Fields, as_integer, as_number, show
from pagemill.server.ports import ServedModel
from pagemill.text.messages import Message
from pagemill.types import KNOB_RANGES, WHOLE_KNOBS, Request, SamplingParams

MAX_N = 16
MAX_CHOICES = 128  # n times prompts
MAX_STOP = 16
MAX_STOP_LEN = 1024
MAX_STOP_IDS = 128
MAX_LOGIT_BIAS = 1024
MAX_TOKENS = 2**31 - 1
MAX_NAME = 256
MAX_SALT = 256
GREEDY_BELOW = 1e-5  # dividing logits by less would overflow
SMALLEST_TOP_P = 1e-6  # top_p 0 keeps the likeliest token only


@dataclass(frozen=True, slots=True)
class Order:
    """One call's wishes, valid without knowing the model. `sampling.seed` is not set yet.

    `left_open` names the knobs (fields of `sampling`, and max_tokens) that the call says nothing
    about: what stands there gives way to the model's own default.
    """

    model: str = ""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    left_open: frozenset[str] = frozenset()
    seed: int | None = None
    n: int = 1
    max_tokens: int | None = None  # None: the room left in the context
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    skip_special: bool = True
    cache_salt: str = ""
    priority: int = 0
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    return_token_ids: bool = False
    tokens_as_ids: bool = False
    continues: bool = False  # the answer goes on with a text of the caller's


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages and how the model's template is to lay them out; text only."""

    messages: tuple[Message, ...]
    add_generation_prompt: bool = True
    continue_final: bool = False
    # Handed on unread: the template checks their names.
    template_values: Mapping[str, Any] = field(default_factory=dict)


def read_order(
    body: Fields,
    *,
    logprobs: int | None,
    default_max_tokens: int | None,
    continues: bool = False,
) -> Order:
    """The fields that chat and text completions share, under OpenAI's and vLLM's names.

    One field is ours: `sampling_defaults` has knobs for what neither the call nor the model sets.
    """
    given = _knobs(body)
    newer_name = body.integer("max_completion_tokens", None, 1, MAX_TOKENS)
    if newer_name is not None:
        given["max_tokens"] = newer_name
    weak = body.object("sampling_defaults")
    knobs = {"max_tokens": default_max_tokens, **(_knobs(weak) if weak else {}), **given}
    max_tokens = knobs.pop("max_tokens")
    min_tokens = body.integer("min_tokens", 0, 0, MAX_TOKENS)
    if "max_tokens" in given and min_tokens > max_tokens:
        raise body.wrong("min_tokens", f"must be at most max_tokens ({max_tokens})")
    stream = body.boolean("stream", False)
    options = body.object("stream_options")
    if options is not None and not stream:
        raise InvalidRequest("stream_options needs stream: true.", param="stream_options")
    return Order(
        model=body.string("model", "", MAX_NAME),
        sampling=SamplingParams(**knobs, logit_bias=_logit_bias(body), logprobs=logprobs),
        left_open=frozenset(KNOB_RANGES.keys() - given.keys()),
        seed=body.integer("seed", None, -(2**63), 2**64 - 1),
        n=body.integer("n", 1, 1, MAX_N),
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop=body.strings("stop", MAX_STOP, MAX_STOP_LEN),
        stop_token_ids=body.token_ids("stop_token_ids", MAX_STOP_IDS) or (),
        ignore_eos=body.boolean("ignore_eos", False),
        include_stop=body.boolean("include_stop_str_in_output", False),
        skip_special=body.boolean("skip_special_tokens", True),
        cache_salt=body.string("cache_salt", "", MAX_SALT),
        priority=body.integer("priority", 0, -(2**31), 2**31 - 1),
        stream=stream,
        include_usage=options is not None and options.boolean("include_usage", False),
        continuous_usage=options is not None and options.boolean("continuous_usage_stats", False),
        return_token_ids=body.boolean("return_token_ids", False),
        tokens_as_ids=body.boolean("return_tokens_as_token_ids", False),
        continues=continues,
    )


def _knobs(body: Fields) -> dict[str, Any]:
    """The knobs that `body` sets."""
    read = {
        name: body.integer(name, None, int(low), int(high))
        if name in WHOLE_KNOBS
        else body.number(name, None, low, high)
        for name, (low, high) in KNOB_RANGES.items()
    }
    return {name: value for name, value in read.items() if value is not None}


def settle(order: Order, model: ServedModel) -> tuple[SamplingParams, int | None]:
    """The knobs and max_tokens that count: the call's own, else the model's, else ours."""
    theirs = {name: getattr(model.defaults, name) for name in order.left_open}
    theirs = {name: value for name, value in theirs.items() if value is not None}
    max_tokens = theirs.pop("max_tokens", order.max_tokens)
    sampling = replace(order.sampling, **theirs)
    temperature, top_k = sampling.temperature, sampling.top_k
    sampling = replace(
        sampling,
        temperature=temperature if temperature >= GREEDY_BELOW else 0.0,
        top_k=top_k if 0 < top_k < model.tokenizer.vocab_size else 0,
        top_p=max(SMALLEST_TOP_P, sampling.top_p),
    )
    return sampling, max_tokens


def _logit_bias(body: Fields) -> tuple[tuple[int, float], ...]:
    raw = body.get("logit_bias")
    if raw is None:
        return ()
    if not isinstance(raw, dict):
        raise body.wrong("logit_bias", "must be an object of token id to bias")
    body.check_count("logit_bias", len(raw), MAX_LOGIT_BIAS)
    pairs: dict[int, float] = {}
    for key, value in raw.items():
        token = as_integer(int(key)) if key.isascii() and key.isdigit() and len(key) < 11 else None
        bias = as_number(value)
        if token is None or token >= 2**31:
            raise InvalidRequest(
                f"logit_bias must have token ids as keys, not {show(key)}.", param="logit_bias"
            )
        if bias is None or not -100 <= bias <= 100:
            raise InvalidRequest(
                f"logit_bias of {token} must be a number from -100 to 100, not {show(value)}.",
                param="logit_bias",
            )
        pairs[token] = bias
    return tuple(sorted(pairs.items()))


def salt_of(identity: str, cache_salt: str) -> str:
    """Prefix-cache salt: pages are shared within one API key and one caller's salt only."""
    if not identity and not cache_salt:
        return ""
    return hashlib.sha256(f"{identity}\n{cache_salt}".encode()).hexdigest()[:32]


def check_writes(model: ServedModel) -> None:
    """Refuse a model that gives vectors."""
    if model.card.pooling:
        gives, where = "embeddings", "/v1/embeddings"
        if model.card.pooling == "rank":
            gives, where = "scores", "/rerank, /score or /classify"
        raise InvalidRequest(
            f"{model.name} gives {gives} and writes no text; ask it at {where}.", param="model"
        )


def check_token_ids(ids: Sequence[int], model: ServedModel, param: str) -> None:
    """Refuse ids outside the model's vocabulary."""
    size = model.tokenizer.vocab_size
    highest = max(ids, default=0)
    if highest >= size:
        raise InvalidRequest(
            f"{param} holds token id {highest}; this model's ids run from 0 to {size - 1}.",
            param=param,
        )


def end_ids(model: ServedModel) -> frozenset[int]:
    """The ids that end an answer unless the call ignores them."""
    return model.tokenizer.eos_ids.union(model.defaults.stop_ids)


def check_prompt(
    ids: Sequence[int], model: ServedModel, order: Order, wanted: int | None, param: str
) -> int:
    """Refuse a prompt that does not fit; return how many tokens may be generated.

    `wanted` is the call's max_tokens or a default; a default gives way to the room there is.
    """
    limit = model.plan.max_model_len
    if not ids:
        raise InvalidRequest(f"{param} is empty: there is nothing to continue.", param=param)
    room = limit - len(ids)
    if room < 1:
        raise ContextTooLong(
            f"{param} has {len(ids)} tokens; this model's context of {limit} tokens "
            f"leaves room for at most {limit - 1}.",
            param=param,
        )
    if wanted is None or (wanted > room and "max_tokens" in order.left_open):
        wanted = room
    if wanted > room:
        raise ContextTooLong(
            f"max_tokens is {wanted}, but {param} has {len(ids)} tokens and this model's "
            f"context is {limit} tokens: at most {room} are left.",
            param="max_tokens",
        )
    if order.min_tokens > wanted:
        raise InvalidRequest(
            f"min_tokens is {order.min_tokens}, but at most {wanted} tokens can come.",
            param="min_tokens",
        )
    return wanted


def to_requests(
    order: Order,
    prompts: Sequence[Sequence[int]],
    model: ServedModel,
    *,
    call_id: str,
    identity: str,
    param: str,
) -> list[Request]:
    """One engine request per choice, prompt by prompt; choice i of a prompt has seed + i."""
    check_writes(model)
    if order.n * len(prompts) > MAX_CHOICES:
        raise InvalidRequest(
            f"n ({order.n}) times {len(prompts)} prompts is more than {MAX_CHOICES} answers.",
            param="n",
        )
    check_token_ids(order.stop_token_ids, model, "stop_token_ids")
    check_token_ids([token for token, _ in order.sampling.logit_bias], model, "logit_bias")
    seed = secrets.randbits(63) if order.seed is None else order.seed
    sampling, wanted = settle(order, model)
    eos = () if order.ignore_eos else tuple(sorted(end_ids(model)))
    stop_ids = tuple(dict.fromkeys(eos + order.stop_token_ids))
    salt = salt_of(identity, order.cache_salt)
    requests: list[Request] = []
    for ids in prompts:
        max_tokens = check_prompt(ids, model, order, wanted, param)
        prompt = tuple(ids)
        for i in range(order.n):
            requests.append(
                Request(
                    id=f"{call_id}-{len(requests)}",
                    prompt=prompt,
                    max_tokens=max_tokens,
                    sampling=replace(sampling, seed=(seed + i) % 2**64),
                    min_tokens=order.min_tokens,
                    stop_ids=stop_ids,
                    cache_salt=salt,
                    priority=order.priority,
                )
            )
    return requests
