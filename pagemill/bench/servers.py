"""Finds out what a server is by asking it: its API, its models, what it accepts, how it counts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import httpx

from pagemill.bench.ask import Reply, Target, ask
from pagemill.bench.dialects import DIALECTS, Dialect
from pagemill.bench.prompts import Order, Scale, words
from pagemill.bench.wire import Address, Wire
from pagemill.errors import (
    ConfigError,
    EngineFailure,
    InvalidRequest,
    PagemillError,
    Unavailable,
    UnknownModel,
    Unsupported,
)

LIST_S = 10.0
FEW_WORDS, MORE_WORDS = 10, 40
PROBE_TOKENS = 4
USAGE: Mapping[str, Any] = {"stream_options": {"include_usage": True}}
# What requests carry beside the plain ones, from all to nothing: the fields, and whether answers
# can be made equally long. The first that a server accepts is used.
ACCEPTED: Sequence[tuple[Mapping[str, Any], bool]] = (
    (USAGE, True),
    (USAGE, False),
    ({}, True),
    ({}, False),
)
NO_SUCH_ENDPOINT = (
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
)
NO_SUCH_FIELD = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
OWNERS: Mapping[str, str] = {
    "pagemill": "Pagemill",
    "vllm": "vLLM",
    "llamacpp": "llama.cpp",
    "library": "Ollama",
    "sglang": "SGLang",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A server as it was named: where, which model, through which API, with which key."""

    url: str
    name: str = ""
    model: str = ""  # "": its only one
    api: str = "auto"
    key: str = ""

    @classmethod
    def parse(cls, text: str, *, model: str, api: str) -> Place:
        """URL, name=URL, and either with #model at its end."""
        name, equals, url = text.partition("=")
        if not equals or "://" in name:
            name, url = "", text
        url, _, own = url.partition("#")
        return cls(url, name, own or model, api)


@dataclass(frozen=True, slots=True)
class _Listed:
    models: tuple[str, ...]
    owner: str
    ollama: bool  # it speaks nothing else


async def examine(place: Place) -> Target:
    """Ask a server all that must be known before it is measured."""
    target = await first_look(place)
    names = [place.api] if place.api != "auto" else _candidates(target.dialect)
    target, reply = await _accepted(target, [DIALECTS[name] for name in names])
    return replace(target, scale=await _scale(target, reply))


async def first_look(place: Place) -> Target:
    """What it lists, without a request to a model: that may be loading still."""
    if place.api != "auto" and place.api not in DIALECTS:
        raise InvalidRequest(
            f"--api must be auto, {', '.join(DIALECTS)}, not {place.api!r}", param="api"
        )
    address = Address.parse(place.url)
    headers = {"Authorization": f"Bearer {place.key}"} if place.key else {}
    async with httpx.AsyncClient(
        base_url=address.url, headers=headers, timeout=LIST_S, trust_env=False
    ) as client:
        listed = await _list(client, address)
        model = _chosen(place.model, listed, address)
        software = await _software(client, listed)
    dialect = DIALECTS["ollama-generate" if listed.ollama else "completions"]
    name = place.name or address.url.partition("://")[2]
    return Target(name, software, model, Wire(address, place.key), dialect, {}, False)


def _candidates(dialect: Dialect) -> list[str]:
    return ["completions", "chat"] if dialect is DIALECTS["completions"] else ["ollama-generate"]


async def _list(client: httpx.AsyncClient, address: Address) -> _Listed:
    """What is served, from whichever list there is."""
    answer = await _get(client, "/v1/models", address)
    rows = _rows(answer, "data")
    if rows:
        owner = str(rows[0].get("owned_by") or "")
        return _Listed(tuple(str(row.get("id")) for row in rows), owner, ollama=False)
    rows = _rows(await _get(client, "/api/tags", address), "models")
    if rows:
        return _Listed(tuple(str(row.get("name")) for row in rows), "library", ollama=True)
    if answer.status_code == HTTPStatus.OK:
        raise UnknownModel(f"the server at {address.url} lists no model")
    raise Unsupported(
        f"the server at {address.url} speaks neither OpenAI's nor Ollama's API: "
        f"/v1/models answers {answer.status_code}"
    )


async def _get(client: httpx.AsyncClient, path: str, address: Address) -> httpx.Response:
    try:
        answer = await client.get(path)
    except httpx.ConnectError as error:
        raise Unavailable(f"nothing answers at {address.url}: {error}") from None
    except httpx.HTTPError as error:
        words_ = str(error) or type(error).__name__
        raise Unavailable(f"no answer from the server at {address.url}: {words_}") from None
    if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise _no_key(address)
    return answer


def _no_key(address: Address) -> ConfigError:
    return ConfigError(f"the server at {address.url} wants an API key: --api-key", param="api_key")


def _rows(answer: httpx.Response, name: str) -> list[dict[str, Any]]:
    if answer.status_code != HTTPStatus.OK:
        return []
    try:
        body = answer.json()
    except ValueError:
        return []
    rows = body.get(name) if isinstance(body, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _chosen(wanted: str, listed: _Listed, address: Address) -> str:
    names = ", ".join(listed.models)
    if wanted and wanted not in listed.models and f"{wanted}:latest" not in listed.models:
        raise UnknownModel(f"the server at {address.url} has no model {wanted!r}; it has: {names}")
    if not wanted and len(listed.models) > 1:
        raise InvalidRequest(
            f"the server at {address.url} has several models, name one with --model or "
            f"URL#MODEL: {names}"
        )
    return wanted or listed.models[0]


async def _software(client: httpx.AsyncClient, listed: _Listed) -> str:
    """Name and version, as far as it says."""
    name = OWNERS.get(listed.owner, listed.owner)
    for path, field in (
        ("/version", "version"),
        ("/api/version", "version"),
        ("/props", "build_info"),
    ):
        try:
            body = (await client.get(path)).json()
        except (httpx.HTTPError, ValueError):
            continue
        if isinstance(body, dict) and isinstance(body.get(field), str):
            return f"{name} {body[field]}".strip()
    return name


async def _accepted(target: Target, dialects: Sequence[Dialect]) -> tuple[Target, Reply]:
    """The first endpoint and the most fields that the server takes, and its answer to them."""
    reply: Reply | None = None
    for dialect in dialects:
        for fields, equal in ACCEPTED:
            if dialect.name.startswith("Ollama") and (fields or equal):
                continue
            tried = replace(target, dialect=dialect, fields=fields, equal_lengths=equal)
            reply = await _probe(tried, FEW_WORDS)
            if not reply.answer.error:
                return tried, reply
            if reply.status not in NO_SUCH_FIELD:
                break
        if reply is not None and reply.status not in (*NO_SUCH_ENDPOINT, *NO_SUCH_FIELD):
            break
    assert reply is not None, "there is always something to try"
    raise _refused(reply, target.wire.address)


async def _probe(target: Target, count: int) -> Reply:
    prompt = " ".join(words(random.SystemRandom(), count))
    return await ask(target, target.body(Order(prompt, PROBE_TOKENS), {}), 600.0)


def _refused(reply: Reply, address: Address) -> PagemillError:
    text = f"the server at {address.url} does not answer a first request: {reply.answer.error}"
    if reply.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return _no_key(address)
    if reply.status == HTTPStatus.NOT_FOUND:
        return UnknownModel(text)
    if reply.status in NO_SUCH_FIELD:
        return InvalidRequest(text)
    return Unavailable(text) if not reply.status else EngineFailure(text)


async def _scale(target: Target, first: Reply) -> Scale:
    """How the server counts words; one token each where it does not say."""
    few = first.answer.prompt_tokens
    if few is None:
        return Scale()
    more = (await _probe(target, MORE_WORDS)).answer.prompt_tokens
    if more is None:
        return Scale(0.0, few / FEW_WORDS)
    return Scale.of((FEW_WORDS, few), (MORE_WORDS, more))
