"""OpenAI's endpoints (and vLLM's tokenizer ones): order, prompt ids, generation, answer."""

import asyncio
import secrets
import time
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from pagemill.errors import UnknownModel
from pagemill.server import openai
from pagemill.server.access import STARTED
from pagemill.server.auth import IDENTITY
from pagemill.server.bodies import json_response, read_fields
from pagemill.server.generation import Generation
from pagemill.server.openai_answers import (
    CHAT,
    TEXT,
    Call,
    ChunkStream,
    Dialect,
    fingerprint,
    to_answer,
    to_model,
)
from pagemill.server.orders import Order, check_token_ids, to_requests
from pagemill.server.ports import ServedModel
from pagemill.server.prompts import chat_ids, completion_ids, text_ids
from pagemill.server.sse import EventStream, StreamLimits, unless_disconnected
from pagemill.server.state import ServerState


class OpenAIRoutes:
    """The endpoints, bound to one server."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._limits = StreamLimits(write_timeout_s=state.http.write_timeout_s)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        chat = openai.from_chat(await read_fields(request))
        model = await self._state.model(chat.order.model)
        ids = await chat_ids(model, chat.conversation)
        return await self._answer(request, CHAT, chat.order, model, [ids])

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions"""
        text = openai.from_completion(await read_fields(request))
        model = await self._state.model(text.order.model)
        ids = await completion_ids(
            model, text.prompts, add_special=text.add_special, parse_special=text.parse_special
        )
        echoes = tuple(
            prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt)
            for prompt in (text.prompts if text.echo else ())
        )
        return await self._answer(request, TEXT, text.order, model, ids, echoes)

    async def _answer(
        self,
        request: Request,
        dialect: Dialect,
        order: Order,
        model: ServedModel,
        prompts: Sequence[Sequence[int]],
        echoes: tuple[str, ...] = (),
    ) -> Response:
        call = Call(
            dialect=dialect,
            id=dialect.id_prefix + secrets.token_hex(12),
            created=int(time.time()),
            model=order.model or model.name,
            fingerprint=fingerprint(model),
            echoes=echoes,
        )
        requests = to_requests(
            order,
            prompts,
            model,
            call_id=call.id,
            identity=request.scope[IDENTITY],
            param="messages" if dialect.chat else "prompt",
        )
        metrics = self._state.metrics.model(model.name, model.plan)
        started = request.scope[STARTED]
        generation = Generation(model, order, requests, self._state.live, metrics, started)
        if order.stream:
            return EventStream(generation, ChunkStream(call, generation), self._limits)
        await unless_disconnected(request.receive, generation.finish())
        return Response(to_answer(call, generation), media_type="application/json")

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        data = [to_model(entry) for entry in self._state.runtime.names()]
        return json_response({"object": "list", "data": data})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/{id}"""
        wanted = request.path_params["model_id"]
        entries = self._state.runtime.names()
        for entry in entries:
            if entry.name == wanted:
                return json_response(to_model(entry))
        names = ", ".join(entry.name for entry in entries) or "none"
        raise UnknownModel(f"There is no such model; there are: {names}.", param="model")

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize"""
        order = openai.from_tokenize(await read_fields(request))
        model = await self._state.model(order.model)
        if order.conversation is not None:
            ids = await chat_ids(model, order.conversation)
        else:
            ids = await text_ids(
                model,
                order.prompt or "",
                add_special=order.add_special,
                parse_special=order.parse_special,
            )
        strings: list[str] | None = None
        if order.token_strs:
            read = model.tokenizer.token_bytes
            strings = [read(token).decode("utf-8", "replace") for token in ids]
        return json_response(
            {
                "count": len(ids),
                "max_model_len": model.plan.max_model_len,
                "tokens": ids,
                "token_strs": strings,
            }
        )

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize"""
        order = openai.from_detokenize(await read_fields(request))
        model = await self._state.model(order.model)
        check_token_ids(order.tokens, model, "tokens")
        text = await asyncio.to_thread(model.tokenizer.decode, order.tokens, skip_special=False)
        return json_response({"prompt": text})
