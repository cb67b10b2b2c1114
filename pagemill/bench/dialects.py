"""The APIs that are measured: what a request looks like, and what a line of its stream means.

Must not know: sockets, and when lines arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec


@dataclass(slots=True)
class Answer:
    """What a stream has said so far."""

    arrivals: list[float] = field(default_factory=list)  # of pieces of text, on the caller's clock
    prompt_tokens: int | None = None  # as the server counts
    output_tokens: int | None = None
    cached_tokens: int = 0
    finish: str = ""
    complete: bool = False
    error: str = ""


class Dialect(Protocol):
    """One endpoint of one API."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def body(self, model: str, prompt: str, max_tokens: int) -> dict[str, Any]:
        """A streamed request, without what servers may not know."""
        ...

    def equal(self, max_tokens: int) -> dict[str, Any]:
        """Fields that make answers as long as asked for, where the server knows them."""
        ...

    def with_knobs(self, body: dict[str, Any], knobs: Mapping[str, Any]) -> dict[str, Any]:
        """The body with sampling parameters where this API has them."""
        ...

    def read(self, line: bytes, now: float, answer: Answer) -> None:
        """Take one line of the stream in. Raises msgspec.DecodeError for one that is not JSON."""
        ...


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class _Message(msgspec.Struct):
    content: str = ""
    thinking: str = ""


class _Record(msgspec.Struct):
    response: str = ""
    thinking: str = ""
    message: _Message | None = None
    done: bool = False
    done_reason: str = ""
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: Any = None


_event = msgspec.json.Decoder(_Event)
_record = msgspec.json.Decoder(_Record)


@dataclass(frozen=True, slots=True)
class OpenAI:
    """Completions and chat completions: server-sent events."""

    chat: bool

    @property
    def name(self) -> str:
        return "OpenAI chat completions" if self.chat else "OpenAI completions"

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def body(self, model: str, prompt: str, max_tokens: int) -> dict[str, Any]:
        """`max_tokens` is the name that every server knows."""
        asked: dict[str, Any] = {"prompt": prompt}
        if self.chat:
            asked = {"messages": [{"role": "user", "content": prompt}]}
        return {"model": model, **asked, "max_tokens": max_tokens, "stream": True}

    def equal(self, max_tokens: int) -> dict[str, Any]:
        """vLLM's names, which llama.cpp, SGLang and we have too."""
        return {"ignore_eos": True, "min_tokens": max_tokens}

    def with_knobs(self, body: dict[str, Any], knobs: Mapping[str, Any]) -> dict[str, Any]:
        """At the top, as everything here."""
        return {**body, **knobs}

    def read(self, line: bytes, now: float, answer: Answer) -> None:
        """Comments and empty lines say nothing; a role without text is no token."""
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            answer.complete = True
            return
        event = _event.decode(data)
        if event.error is not None:
            answer.error = said(event.error)
        if event.usage is not None:
            usage = event.usage
            answer.prompt_tokens = usage.prompt_tokens
            answer.output_tokens = usage.completion_tokens
            details = usage.prompt_tokens_details
            answer.cached_tokens = (details.cached_tokens or 0) if details else 0
        for choice in event.choices or ():
            delta = choice.delta
            if choice.text or (
                delta and (delta.content or delta.reasoning_content or delta.reasoning)
            ):
                answer.arrivals.append(now)
            if choice.finish_reason:
                answer.finish = choice.finish_reason


@dataclass(frozen=True, slots=True)
class Ollama:
    """Generate and chat: a JSON record a line."""

    chat: bool

    @property
    def name(self) -> str:
        return "Ollama chat" if self.chat else "Ollama generate"

    @property
    def path(self) -> str:
        return "/api/chat" if self.chat else "/api/generate"

    def body(self, model: str, prompt: str, max_tokens: int) -> dict[str, Any]:
        """The limit is one of the options."""
        asked: dict[str, Any] = {"prompt": prompt}
        if self.chat:
            asked = {"messages": [{"role": "user", "content": prompt}]}
        options = {"num_predict": max_tokens}
        return {"model": model, **asked, "stream": True, "options": options}

    def equal(self, max_tokens: int) -> dict[str, Any]:
        """It has none."""
        return {}

    def with_knobs(self, body: dict[str, Any], knobs: Mapping[str, Any]) -> dict[str, Any]:
        """All of them are options."""
        return {**body, "options": {**body["options"], **knobs}}

    def read(self, line: bytes, now: float, answer: Answer) -> None:
        """The last record has the counts."""
        record = _record.decode(line)
        if record.error is not None:
            answer.error = said(record.error)
        message = record.message
        if (
            record.response
            or record.thinking
            or (message and (message.content or message.thinking))
        ):
            answer.arrivals.append(now)
        if record.done:
            answer.complete, answer.finish = True, record.done_reason
            answer.prompt_tokens = record.prompt_eval_count
            answer.output_tokens = record.eval_count


DIALECTS: Mapping[str, Dialect] = {
    "completions": OpenAI(chat=False),
    "chat": OpenAI(chat=True),
    "ollama-generate": Ollama(chat=False),
    "ollama-chat": Ollama(chat=True),
}


def said(error: Any) -> str:
    """The words of an error in any of the shapes servers give it."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("error") or error
    return said(error) if isinstance(error, dict) and "message" in error else str(error)


def refusal(body: bytes) -> str:
    """The words of a refused request."""
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return " ".join(body[:200].decode("utf-8", "replace").split())
    if isinstance(parsed, dict):
        return said(parsed.get("error") or parsed.get("detail") or parsed.get("message") or parsed)
    return str(parsed)
