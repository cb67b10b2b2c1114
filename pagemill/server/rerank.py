"""Jina's and Cohere's dialect of reranking (/rerank, /v1/rerank, /v2/rerank), and vLLM's of scores
of pairs (/score, /v1/score)."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pagemill.errors import InvalidRequest
from pagemill.server.access import STARTED
from pagemill.server.bodies import json_response, read_fields
from pagemill.server.fields import Fields, show
from pagemill.server.inputs import MAX_INPUTS, MAX_TEXT, PooledOrder, read_pooled_order
from pagemill.server.pooled import Pair
from pagemill.server.scores import compare
from pagemill.server.sse import unless_disconnected
from pagemill.server.state import ServerState

# Pairs of fields that mean the same: the first texts and the second ones.
_NAMES = (("queries", "documents"), ("text_1", "text_2"), ("data_1", "data_2"))


@dataclass(frozen=True, slots=True)
class RerankOrder:
    """A checked body of /rerank."""

    order: PooledOrder
    query: str
    documents: tuple[str, ...]
    top_n: int
    return_documents: bool = True

    def pairs(self) -> list[Pair]:
        return [
            Pair(self.query, text, "query", f"documents[{index}]")
            for index, text in enumerate(self.documents)
        ]


def from_rerank(body: Fields) -> RerankOrder:
    """Read a body of /rerank."""
    if body.get("instruction"):
        raise InvalidRequest("instruction is not supported; leave it out.", param="instruction")
    order = read_pooled_order(body)
    if "query" not in body.raw:
        raise InvalidRequest("query is missing.", param="query")
    documents = body.items("documents", MAX_INPUTS)
    if not documents:
        raise body.wrong("documents", "must be a list of at least one text")
    return RerankOrder(
        order=order,
        query=_text(body.get("query"), "query"),
        documents=tuple(_text(item, f"documents[{i}]") for i, item in enumerate(documents)),
        top_n=body.integer("top_n", len(documents), 1, 2**31 - 1),
        return_documents=body.boolean("return_documents", True),
    )


def _text(value: Any, path: str) -> str:
    """A string, or an object with a "text"."""
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InvalidRequest(
            f'{path} must be a string or an object with a "text", not {show(value)}.', param=path
        )
    if not 0 < len(text) <= MAX_TEXT:
        raise InvalidRequest(f"{path} must have 1 to {MAX_TEXT} characters.", param=path)
    return text


def to_rerank(order: RerankOrder, scores: Sequence[float]) -> list[dict[str, Any]]:
    """The results, best first; equal ones in the order of the documents."""
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: order.top_n]
    results: list[dict[str, Any]] = []
    for index in best:
        result: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
        if order.return_documents:
            result["document"] = {"text": order.documents[index]}
        results.append(result)
    return results


def from_score(body: Fields) -> tuple[PooledOrder, list[Pair]]:
    """Read a body of /score: one text with many, or as many with as many."""
    order = read_pooled_order(body)
    names = next((pair for pair in _NAMES if any(name in body.raw for name in pair)), _NAMES[0])
    first, second = (_texts(body, name) for name in names)
    if len(first) == 1:
        first *= len(second)
    if len(first) != len(second):
        raise InvalidRequest(
            f"{names[0]} has {len(first)} texts and {names[1]} {len(second)}: there must be as "
            f"many, or one in {names[0]}.",
            param=names[0],
        )
    ends = zip(first, second, strict=True)
    return order, [Pair(a[1], b[1], a[0], b[0]) for a, b in ends]


def _texts(body: Fields, name: str) -> list[tuple[str, str]]:
    """Texts with the places where they stand."""
    raw = body.get(name)
    if not isinstance(raw, list):
        return [(name, _text(raw, name))]
    body.check_count(name, len(raw), MAX_INPUTS)
    if not raw:
        raise body.wrong(name, "must be a text or a list of at least one")
    return [(f"{name}[{i}]", _text(item, f"{name}[{i}]")) for i, item in enumerate(raw)]


def to_score(scores: Sequence[float]) -> list[dict[str, Any]]:
    """The data of an answer, in the order of the pairs."""
    return [
        {"index": index, "object": "score", "score": score} for index, score in enumerate(scores)
    ]


class RerankRoutes:
    """The endpoints, bound to one server."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def rerank(self, request: Request) -> Response:
        """POST /rerank, /v1/rerank, /v2/rerank"""
        order = from_rerank(await read_fields(request))
        model = await self._state.model(order.order.model)
        call_id = f"rerank-{secrets.token_hex(12)}"
        started = request.scope[STARTED]
        work = compare(self._state, model, order.pairs(), order.order, call_id, started)
        scores, usage = await unless_disconnected(request.receive, work)
        body = {
            "id": call_id,
            "model": order.order.model or model.name,
            "usage": usage,
            "results": to_rerank(order, scores),
        }
        return json_response(body)

    async def score(self, request: Request) -> Response:
        """POST /score, /v1/score"""
        order, pairs = from_score(await read_fields(request))
        model = await self._state.model(order.model)
        call_id = f"score-{secrets.token_hex(12)}"
        work = compare(self._state, model, pairs, order, call_id, request.scope[STARTED])
        scores, usage = await unless_disconnected(request.receive, work)
        body = {
            "id": call_id,
            "object": "list",
            "created": int(time.time()),
            "model": order.model or model.name,
            "data": to_score(scores),
            "usage": usage,
        }
        return json_response(body)
