"""OpenAI's dialect, outbound: a generation's choices to bodies and stream chunks. Pure functions.

A streamed token costs one JSON-encoded string between two byte strings made once per choice; the
slower general path is taken only when log-probabilities, ids or running usage were asked for.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pagemill import __version__
from pagemill.errors import PagemillError
from pagemill.server.errors import error_body
from pagemill.server.generation import Choice, Generation
from pagemill.server.ports import ListedModel, ServedModel
from pagemill.types import TokenLogprobs

LOWEST_LOGPROB = -9999.0  # JSON has no minus infinity
DONE = b"data: [DONE]\n\n"

encode = msgspec.json.encode

Entries = Sequence[tuple[int, TokenLogprobs]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where chat and text completions differ on the wire."""

    id_prefix: str
    object: str
    chunk_object: str
    open_text: bytes  # before the JSON string of a chunk's text
    close_text: bytes
    end_text: bytes  # what the finishing chunk has in their place
    chat: bool


CHAT = Dialect(
    id_prefix="chatcmpl-",
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    open_text=b'"delta":{"content":',
    close_text=b"}",
    end_text=b'"delta":{}',
    chat=True,
)
TEXT = Dialect(
    id_prefix="cmpl-",
    object="text_completion",
    chunk_object="text_completion",
    open_text=b'"text":',
    close_text=b"",
    end_text=b'"text":""',
    chat=False,
)


@dataclass(frozen=True, slots=True)
class Call:
    """What all chunks of one answer repeat, and what the prompts were."""

    dialect: Dialect
    id: str
    created: int
    model: str  # as the caller named it
    fingerprint: str
    echoes: tuple[str, ...] = ()  # one a prompt, when echo was asked for


def fingerprint(model: ServedModel) -> str:
    """Changes when program, model file, quantization, backend or what the cache keeps change."""
    card, plan = model.card, model.plan
    weights = f"{card.name} {card.quantization} {card.weights_bytes}"
    seen = f"{__version__} {weights} {plan.backend} {plan.kv_cache_dtype}"
    return "fp_" + hashlib.sha256(seen.encode()).hexdigest()[:10]


def usage(generation: Generation, *, final: bool = True) -> dict[str, Any]:
    """Token counts; a prompt counts once however many answers it has."""
    firsts = generation.choices[:: generation.order.n]
    prompt = sum(len(choice.request.prompt) for choice in firsts)
    completion = sum(choice.completion_tokens for choice in generation.choices)
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if final:  # the engine says it with its last event
        cached = sum(choice.cached_tokens for choice in firsts)
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return counts


def to_answer(call: Call, generation: Generation) -> bytes:
    """The whole body of a call that does not stream."""
    choices = [_whole(call, generation, choice) for choice in generation.choices]
    body = {
        "id": call.id,
        "object": call.dialect.object,
        "created": call.created,
        "model": call.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": call.fingerprint,
        "usage": usage(generation),
    }
    if call.dialect.chat and generation.order.return_token_ids:
        body["prompt_token_ids"] = generation.choices[0].request.prompt
    return encode(body)


def _whole(call: Call, generation: Generation, choice: Choice) -> dict[str, Any]:
    order = generation.order
    text = choice.take_text()
    entries = choice.take_logprobs()
    body: dict[str, Any] = {"index": choice.index}
    if call.dialect.chat:
        body["message"] = {
            "role": "assistant",
            "content": text,
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "tool_calls": None,
        }
    else:
        body["text"] = _echo(call, generation, choice) + text
    body["logprobs"] = None
    if order.sampling.logprobs is not None:
        body["logprobs"] = Tokens(generation).logprobs(call.dialect, entries, 0)[0]
    body["finish_reason"] = choice.finish_reason
    body["stop_reason"] = choice.stop_reason
    if order.return_token_ids:
        body["token_ids"] = choice.take_ids()
        if not call.dialect.chat:
            body["prompt_token_ids"] = choice.request.prompt
    return body


def _echo(call: Call, generation: Generation, choice: Choice) -> str:
    return call.echoes[choice.index // generation.order.n] if call.echoes else ""


class Tokens:
    """Token ids as the names, bytes and log-probability objects that answers show."""

    __slots__ = ("_as_ids", "_tokenizer")

    def __init__(self, generation: Generation) -> None:
        self._tokenizer = generation.model.tokenizer
        self._as_ids = generation.order.tokens_as_ids

    def name(self, token: int) -> str:
        """A token as text; half a character shows as U+FFFD."""
        if self._as_ids:
            return f"token_id:{token}"
        return self._tokenizer.token_bytes(token).decode("utf-8", "replace")

    def logprobs(
        self, dialect: Dialect, entries: Entries, offset: int
    ) -> tuple[dict[str, Any], int]:
        """The `logprobs` object and the text offset after it."""
        if dialect.chat:
            return {"content": [self._chat_entry(*entry) for entry in entries]}, offset
        names = [self.name(token) for token, _ in entries]
        offsets: list[int] = []
        for name in names:
            offsets.append(offset)
            offset += len(name)
        tops = [
            {
                name: _json_logprob(entry.chosen),
                **{self.name(t): _json_logprob(p) for t, p in _top(entry)},
            }
            for name, (_, entry) in zip(names, entries, strict=True)
        ]
        body = {
            "tokens": names,
            "token_logprobs": [_json_logprob(entry.chosen) for _, entry in entries],
            "top_logprobs": tops,
            "text_offset": offsets,
        }
        return body, offset

    def _chat_entry(self, token: int, entry: TokenLogprobs) -> dict[str, Any]:
        top = [self._one(t, p) for t, p in _top(entry)]
        return {**self._one(token, entry.chosen), "top_logprobs": top}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        data = list(self._tokenizer.token_bytes(token))
        return {"token": self.name(token), "logprob": _json_logprob(logprob), "bytes": data}


def _top(entry: TokenLogprobs) -> list[tuple[int, float]]:
    return list(zip(entry.top_ids, entry.top, strict=True))


def _json_logprob(value: float) -> float:
    return value if math.isfinite(value) else LOWEST_LOGPROB


class ChunkStream:
    """A generation as server-sent events: `take` what is new, and at the end `tail` or `error`."""

    def __init__(self, call: Call, generation: Generation) -> None:
        order = generation.order
        self._call = call
        self._generation = generation
        self._tokens = Tokens(generation)
        self._detailed = (
            order.sampling.logprobs is not None or order.return_token_ids or order.continuous_usage
        )
        self._offsets = [0] * len(generation.choices)
        self._opened = False
        names = (("id", call.id), ("object", call.dialect.chunk_object), ("model", call.model))
        same = b",".join(b'"%s":%s' % (key.encode(), encode(value)) for key, value in names)
        self._same = b'data: {%s,"created":%d,"system_fingerprint":%s,"choices":[' % (
            same,
            call.created,
            encode(call.fingerprint),
        )
        self._usage = b',"usage":null' if order.include_usage else b""
        head = self._same + b'{"index":%d,'
        self._heads = [head % choice.index for choice in generation.choices]
        text_head = head + call.dialect.open_text
        self._text_heads = [text_head % choice.index for choice in generation.choices]
        self._plain_end = (
            call.dialect.close_text
            + b',"logprobs":null,"finish_reason":null}]'
            + self._usage
            + b"}\n\n"
        )

    def take(self) -> bytes:
        """Events for all that is new; empty when nothing is."""
        news = self._generation.take_news()
        if not news:
            return b""
        if self._opened and len(news) == 1 and not self._detailed:
            choice = news[0]
            if choice.finish_reason is None:
                text = choice.take_text()
                return self._text_heads[choice.index] + encode(text) + self._plain_end
        events = [] if self._opened else self._opening()
        self._opened = True
        for choice in news:
            events.append(self._text_event(choice))
            if choice.finish_reason is not None:
                events.append(self._finish_event(choice))
        return b"".join(events)

    def _opening(self) -> list[bytes]:
        if self._call.dialect.chat:
            delta = b'"delta":{"role":"assistant","content":""}'
            delta += b',"logprobs":null,"finish_reason":null'
            if self._generation.order.return_token_ids:
                ids = encode(self._generation.choices[0].request.prompt)
                end = b'}],"prompt_token_ids":' + ids + self._usage + b"}\n\n"
            else:
                end = b"}]" + self._usage + b"}\n\n"
            return [head + delta + end for head in self._heads]
        if not self._call.echoes:
            return []
        return [
            self._text_heads[choice.index]
            + encode(_echo(self._call, self._generation, choice))
            + self._plain_end
            for choice in self._generation.choices
        ]

    def _text_event(self, choice: Choice) -> bytes:
        text = choice.take_text()
        if not self._detailed:
            if not text:
                return b""
            return self._text_heads[choice.index] + encode(text) + self._plain_end
        entries, ids = choice.take_logprobs(), choice.take_ids()
        if not (text or entries or ids):
            return b""
        logprobs: dict[str, Any] | None = None
        if self._generation.order.sampling.logprobs is not None:
            logprobs, self._offsets[choice.index] = self._tokens.logprobs(
                self._call.dialect, entries, self._offsets[choice.index]
            )
        more = b',"token_ids":' + encode(ids) if self._generation.order.return_token_ids else b""
        end = b'%s,"logprobs":%s,"finish_reason":null%s}]%s}\n\n' % (
            self._call.dialect.close_text,
            encode(logprobs),
            more,
            self._running_usage(),
        )
        return self._text_heads[choice.index] + encode(text) + end

    def _finish_event(self, choice: Choice) -> bytes:
        return b'%s%s,"logprobs":null,"finish_reason":%s,"stop_reason":%s}]%s}\n\n' % (
            self._heads[choice.index],
            self._call.dialect.end_text,
            encode(choice.finish_reason),
            encode(choice.stop_reason),
            self._running_usage(),
        )

    def _running_usage(self) -> bytes:
        if self._generation.order.continuous_usage:
            return b',"usage":' + encode(usage(self._generation, final=False))
        return self._usage

    def tail(self) -> bytes:
        """The end of a stream that went well."""
        if not self._generation.order.include_usage:
            return DONE
        return self._same + b'],"usage":' + encode(usage(self._generation)) + b"}\n\n" + DONE

    def error(self, error: PagemillError) -> bytes:
        """The end of a stream that failed."""
        return b"data: " + error_body(error) + b"\n\n" + DONE


def to_model(entry: ListedModel) -> dict[str, Any]:
    """One entry of /v1/models."""
    return {
        "id": entry.name,
        "object": "model",
        "created": entry.created,
        "owned_by": "pagemill",
        "root": entry.name,
        "parent": None,
        "max_model_len": entry.max_model_len,
        "capabilities": _capabilities(entry.pooling),
    }


def _capabilities(pooling: str | None) -> list[str] | None:
    """What a model does, as Ollama calls it; None: it is not loaded."""
    if pooling is None:
        return None
    return ["rerank"] if pooling == "rank" else ["embedding"] if pooling else ["completion"]
