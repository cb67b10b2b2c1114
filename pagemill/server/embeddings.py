"""OpenAI's dialect of embeddings: /v1/embeddings, with vLLM's ways to deal with long texts.

Fields that are read are checked, those that would change what the vectors mean and cannot be
honoured are refused, all others are ignored.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from pagemill.errors import InvalidRequest
from pagemill.server.access import STARTED
from pagemill.server.bodies import json_response, read_fields
from pagemill.server.fields import Fields
from pagemill.server.inputs import (
    MAX_INPUTS,
    Input,
    PooledOrder,
    read_base64,
    read_inputs,
    read_pooled_order,
)
from pagemill.server.pooled import PooledCall, check_embeds, encoded, named, single_texts
from pagemill.server.ports import ServedModel
from pagemill.server.sse import unless_disconnected
from pagemill.server.state import ServerState

MAX_DIMENSIONS = 2**24


@dataclass(frozen=True, slots=True)
class EmbeddingOrder:
    """A checked body of /v1/embeddings."""

    order: PooledOrder
    inputs: tuple[Input, ...]
    dimensions: int | None = None
    base64: bool = False


def from_embeddings(body: Fields) -> EmbeddingOrder:
    """Read a body of /v1/embeddings."""
    order = read_pooled_order(body)
    if order.raw or not body.boolean("normalize", True):
        raise InvalidRequest(
            "embeddings have length 1 here; leave normalize and use_activation out.",
            param="normalize",
        )
    return EmbeddingOrder(
        order=order,
        inputs=read_inputs(body, "input", MAX_INPUTS),
        dimensions=body.integer("dimensions", None, 1, MAX_DIMENSIONS),
        base64=read_base64(body),
    )


def check_dimensions(dimensions: int | None, model: ServedModel) -> None:
    """Vectors may be cut, not made longer."""
    if dimensions is not None and dimensions > model.card.hidden_size:
        raise InvalidRequest(
            f"dimensions is {dimensions}; vectors of {model.name} have {model.card.hidden_size}.",
            param="dimensions",
        )


def to_embeddings(order: EmbeddingOrder, vectors: Sequence[bytes]) -> list[dict[str, Any]]:
    """The data of an answer."""
    data = []
    for index, vector in enumerate(vectors):
        if order.dimensions is not None:
            vector = _cut(np.frombuffer(vector, "<f4"), order.dimensions).tobytes()
        shown = encoded(vector, order.base64)
        data.append({"object": "embedding", "index": index, "embedding": shown})
    return data


def _cut(vector: NDArray[np.float32], dimensions: int) -> NDArray[np.float32]:
    """The first dimensions, of length 1 again: models trained for it put most there."""
    part = vector[:dimensions]
    length = np.sqrt(np.sum(part * part, dtype=np.float64))
    return part if length == 0 else (part / length).astype("<f4")


class EmbeddingRoutes:
    """The endpoint, bound to one server."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings"""
        order = from_embeddings(await read_fields(request))
        model = await self._state.model(order.order.model)
        check_embeds(model)
        check_dimensions(order.dimensions, model)
        texts = await single_texts(model, named("input", order.inputs), order.order)
        call_id = f"embd-{secrets.token_hex(12)}"
        started = request.scope[STARTED]
        call = PooledCall(model, texts, self._state, call_id, started, order.order.priority)
        work = call.data(lambda vectors: to_embeddings(order, vectors))
        body = {
            "object": "list",
            "data": await unless_disconnected(request.receive, work),
            "model": order.order.model or model.name,
            "usage": call.usage(),
        }
        return json_response(body)
