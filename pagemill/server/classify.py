"""vLLM's dialect of classes and of bare vectors: /classify and /pooling."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pagemill.errors import InvalidRequest
from pagemill.server.access import STARTED
from pagemill.server.bodies import json_response, read_fields
from pagemill.server.fields import Fields, show
from pagemill.server.inputs import (
    MAX_INPUTS,
    Input,
    PooledOrder,
    read_base64,
    read_inputs,
    read_pooled_order,
)
from pagemill.server.pooled import PooledCall, check_pools, encoded, named, single_texts
from pagemill.server.ports import ServedModel
from pagemill.server.scores import label, probabilities
from pagemill.server.sse import unless_disconnected
from pagemill.server.state import ServerState

# What may be asked of /pooling.
_OF_SCORES = ("classify", "score")
_OF_EMBEDDINGS = ("embed",)


@dataclass(frozen=True, slots=True)
class InputOrder:
    """A checked body of /classify or /pooling."""

    order: PooledOrder
    inputs: tuple[Input, ...]
    task: str | None = None
    base64: bool = False


def from_inputs(body: Fields) -> InputOrder:
    """Read a body of /classify or /pooling."""
    return InputOrder(
        order=read_pooled_order(body),
        inputs=read_inputs(body, "input", MAX_INPUTS),
        task=body.string("task", None, 64),
        base64=read_base64(body),
    )


def check_classes(order: InputOrder, model: ServedModel) -> None:
    """Refuse a model that has no classes."""
    check_pools(model)
    if not _ranks(model):
        raise InvalidRequest(
            f"{model.name} gives embeddings and has no classes; ask it at /v1/embeddings.",
            param="model",
        )


def to_classes(order: InputOrder, model: ServedModel, vectors: Sequence[bytes]) -> list[Any]:
    """The data of /classify."""
    data = []
    for index, vector in enumerate(vectors):
        probs = probabilities(vector, order.order.raw)
        data.append(
            {
                "index": index,
                "label": label(model, probs.index(max(probs))),
                "probs": probs,
                "num_classes": len(probs),
            }
        )
    return data


def check_task(order: InputOrder, model: ServedModel) -> None:
    """Refuse what the model does not give."""
    check_pools(model)
    gives, tasks = ("scores", _OF_SCORES) if _ranks(model) else ("embeddings", _OF_EMBEDDINGS)
    if order.task is not None and order.task not in tasks:
        raise InvalidRequest(
            f"task is {show(order.task)}, but {model.name} gives {gives}; leave it out.",
            param="task",
        )


def to_vectors(order: InputOrder, model: ServedModel, vectors: Sequence[bytes]) -> list[Any]:
    """The data of /pooling: embeddings, or the classes' probabilities."""
    data: list[Any] = []
    for index, vector in enumerate(vectors):
        if _ranks(model):
            numbers: Any = probabilities(vector, order.order.raw)
        else:
            numbers = encoded(vector, order.base64)
        data.append({"index": index, "object": "pooling", "data": numbers})
    return data


def _ranks(model: ServedModel) -> bool:
    return model.card.pooling == "rank"


class ClassifyRoutes:
    """The endpoints, bound to one server."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def classify(self, request: Request) -> Response:
        """POST /classify"""
        return await self._answer(request, "classify", check_classes, to_classes)

    async def pooling(self, request: Request) -> Response:
        """POST /pooling"""
        return await self._answer(request, "pool", check_task, to_vectors)

    async def _answer(
        self,
        request: Request,
        kind: str,
        check: Callable[[InputOrder, ServedModel], None],
        to_data: Callable[[InputOrder, ServedModel, Sequence[bytes]], list[Any]],
    ) -> Response:
        order = from_inputs(await read_fields(request))
        model = await self._state.model(order.order.model)
        check(order, model)
        texts = await single_texts(model, named("input", order.inputs), order.order)
        call_id = f"{kind}-{secrets.token_hex(12)}"
        started = request.scope[STARTED]
        call = PooledCall(model, texts, self._state, call_id, started, order.order.priority)
        work = call.data(lambda vectors: to_data(order, model, vectors))
        body = {
            "id": call_id,
            "object": "list",
            "created": int(time.time()),
            "model": order.order.model or model.name,
            "data": await unless_disconnected(request.receive, work),
            "usage": call.usage(),
        }
        return json_response(body)
