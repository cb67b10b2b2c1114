"""Texts to vectors, whatever the dialect: which models can, what fits, one call's requests.

Owns the tasks that read the engine's door for a call's texts, and ends them on the first failure or
when the client has gone. Knows no dialect and no HTTP; what the vectors mean is for the dialects.
"""

import asyncio
import base64
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, cast

import msgspec
import numpy as np

from pagemill.errors import (
    ContextTooLong,
    EngineFailure,
    InvalidRequest,
    PagemillError,
    Unavailable,
)
from pagemill.server.inputs import Input, PooledOrder
from pagemill.server.orders import check_token_ids
from pagemill.server.ports import ServedModel
from pagemill.server.prompts import Item, off_loop
from pagemill.text.pairs import pair_prompt
from pagemill.types import Delta, Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pagemill.server.metrics import ModelMetrics
    from pagemill.server.state import ServerState

log = logging.getLogger("pagemill.server")

STEPS_AHEAD = 2  # of a call's texts are with the engine: it stays busy, and other calls get in


@dataclass(frozen=True, slots=True)
class Text:
    """What one vector is made of; `path` is the field that it came in."""

    ids: tuple[int, ...]
    path: str
    types: tuple[int, ...] = ()  # which text of a pair each id is of; empty: there is one text


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts to be compared, and the fields that they came in."""

    first: str
    second: str
    first_path: str
    second_path: str

    def texts(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Both, each with its field."""
        return (self.first, self.first_path), (self.second, self.second_path)


def check_pools(model: ServedModel) -> None:
    """Refuse a model that writes text."""
    if not model.card.pooling:
        raise InvalidRequest(
            f"{model.name} writes text and gives no vectors; name an embedding model, a reranker "
            f"or a classifier.",
            param="model",
        )


def check_embeds(model: ServedModel) -> None:
    """Refuse a model that gives no embeddings."""
    check_pools(model)
    if model.card.pooling == "rank":
        raise InvalidRequest(
            f"{model.name} gives scores and no embeddings; ask it at /rerank, /score or /classify.",
            param="model",
        )


def named(path: str, inputs: Sequence[Input]) -> list[tuple[str, Input]]:
    """Inputs with the places where they stand in the body."""
    if len(inputs) == 1:
        return [(path, inputs[0])]
    return [(f"{path}[{index}]", given) for index, given in enumerate(inputs)]


async def single_texts(
    model: ServedModel, inputs: Sequence[tuple[str, Input]], order: PooledOrder
) -> list[Text]:
    """Each input with what the model's own tokenizer puts around it; ids are taken as they are."""
    limit = _limit(model, order)

    def one(path: str, given: Input) -> Text:
        _check_given(given, path)
        if isinstance(given, str):
            ids = _framed(model, given, limit, order.add_special)
        else:
            check_token_ids(given, model, path)
            ids = given[:limit]
        _check_len(len(ids), model, path)
        return Text(ids, path)

    chars = sum(len(given) for _, given in inputs)
    return await off_loop(lambda: [one(*each) for each in inputs], chars)


async def pair_texts(model: ServedModel, pairs: Sequence[Pair], order: PooledOrder) -> list[Text]:
    """Two texts each, joined as the model's own tokenizer or template does; of those that are too
    long, the second is cut if the order says so."""
    limit = _limit(model, order)
    tokenizer, template = model.tokenizer, model.pair_template
    encoded: dict[str, list[int]] = {}  # one query has many documents

    def ids_of(text: str) -> list[int]:
        if text not in encoded:
            encoded[text] = tokenizer.encode(text)
        return encoded[text]

    def joined(pair: Pair, most: int | None) -> list[int]:
        """With at most so many tokens of the second text."""
        if not template:
            return tokenizer.frame_pair(ids_of(pair.first), ids_of(pair.second)[:most])
        second = pair.second
        if most is not None and len(ids_of(second)) > most:
            second = tokenizer.decode(ids_of(second)[:most])
        return pair_prompt(tokenizer, template, pair.first, second)

    def one(pair: Pair) -> Text:
        _check_given(pair.first, pair.first_path)
        _check_given(pair.second, pair.second_path)
        most = order.second_limit
        ids = joined(pair, most)
        if limit is not None and len(ids) > limit:
            here = len(ids_of(pair.second)[:most])
            ids = joined(pair, max(0, here - (len(ids) - limit)))
        _check_len(len(ids), model, pair.second_path)
        types = () if template else tuple(tokenizer.token_type_ids(ids))
        return Text(tuple(ids), pair.second_path, types)

    chars = sum(len(pair.first) + len(pair.second) for pair in pairs)
    return await off_loop(lambda: [one(pair) for pair in pairs], chars)


def _limit(model: ServedModel, order: PooledOrder) -> int | None:
    """Where texts are cut; None: they are not."""
    if order.truncate is None:
        return None
    longest = model.plan.max_model_len
    return longest if order.truncate < 0 else min(order.truncate, longest)


def _framed(model: ServedModel, text: str, limit: int | None, add_special: bool) -> tuple[int, ...]:
    tokenizer = model.tokenizer
    ids = tokenizer.encode(text)
    if not add_special:
        return tuple(ids[:limit])
    if limit is not None:
        ids = ids[: max(0, limit - len(tokenizer.frame([])))]
    return tuple(tokenizer.frame(ids))


def _check_given(given: Input, path: str) -> None:
    if not given:
        raise InvalidRequest(f"{path} is empty.", param=path)


def _check_len(size: int, model: ServedModel, path: str) -> None:
    limit = model.plan.max_model_len
    if size > limit:
        raise ContextTooLong(
            f"{path} has {size} tokens; {model.name} takes at most {limit}. Shorten it, or let "
            f"truncate_prompt_tokens cut it (-1: at the limit).",
            param=path,
        )
    if not size:
        raise InvalidRequest(f"{path} has no tokens.", param=path)


def encoded(vector: bytes, as_base64: bool) -> str | msgspec.Raw:
    """A vector for a JSON body: its numbers, or their bytes. Numbers are encoded one vector at a
    time, so that on a thread they let streams pass between them."""
    if as_base64:
        return base64.b64encode(vector).decode("ascii")
    return msgspec.Raw(msgspec.json.encode(np.frombuffer(vector, "<f4").tolist()))


class PooledCall:
    """All texts of one call. `finish` it once."""

    def __init__(
        self,
        model: ServedModel,
        texts: Sequence[Text],
        state: "ServerState",
        call_id: str,
        started: float,
        priority: int = 0,
    ) -> None:
        """`started` is when the call arrived (monotonic)."""
        self.error: PagemillError | None = None
        self._model, self._texts = model, texts
        self._live = state.live
        self._metrics: ModelMetrics = state.metrics.model(model.name, model.plan)
        self._call_id, self._started, self._priority = call_id, started, priority
        self._vectors: list[bytes] = [b""] * len(texts)
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0  # tokens
        self._wake: Callable[[], None] = _nobody

    async def data(self, make: Callable[[list[bytes]], list[Item]]) -> list[Item]:
        """What `make` makes of the vectors for the answer."""
        vectors = await self.finish()
        return await off_loop(lambda: make(vectors), sum(map(len, vectors)))

    def usage(self) -> dict[str, int]:
        """Token counts, under the names that all dialects here have for them."""
        num_tokens = sum(len(text.ids) for text in self._texts)
        return {"prompt_tokens": num_tokens, "total_tokens": num_tokens}

    async def finish(self) -> list[bytes]:
        """The vectors, in the order of the texts. Raises the error of the first that failed."""
        self._live.add(self)
        ahead = STEPS_AHEAD * self._model.plan.max_num_batched_tokens
        loop = asyncio.get_running_loop()
        try:
            for index, text in enumerate(self._texts):
                while self._in_flight >= ahead and self.error is None:
                    await self._change(loop)
                if self.error is not None:
                    break
                self._in_flight += len(text.ids)
                task = loop.create_task(self._one(index, text))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            while self._tasks and self.error is None:
                await self._change(loop)
        finally:
            self._live.discard(self)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.error is not None:
            raise self.error
        return self._vectors

    def fail(self, error: PagemillError) -> None:
        """End the call; the first error is the one that is told."""
        if self.error is None:
            self.error = error
        self._wake()

    async def _change(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until a text is done, or the call has failed."""
        changed: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not changed.done():
                changed.set_result(None)

        self._wake = wake
        await changed

    async def _one(self, index: int, text: Text) -> None:
        request = Request(
            id=f"{self._call_id}-{index}",
            prompt=text.ids,
            max_tokens=0,
            priority=self._priority,
            pooled=True,
            token_types=text.types,
        )
        watch = self._metrics.watch(self._started, len(text.ids))
        try:
            stream = cast("AsyncGenerator[Delta, None]", self._model.client.generate(request))
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    watch.delta(monotonic(), delta)
                    self._vectors[index] = _vector(delta, text)
            watch.finished("stop")
        except asyncio.CancelledError:
            watch.finished("abort")
            raise
        except PagemillError as error:
            watch.refused(error)
            self.fail(error)
        except Exception:  # the boundary of one text: the server goes on
            log.exception("request %s failed", request.id)
            watch.finished("error")
            self.fail(EngineFailure("The server failed on this request."))
        finally:
            self._in_flight -= len(text.ids)
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            self._wake()


def _vector(delta: Delta, text: Text) -> bytes:
    if delta.finish == "abort":
        raise Unavailable("The server ended this request.")
    if delta.finish == "error" or not delta.vector:
        raise EngineFailure(f"{text.path}: {delta.error or 'The engine failed.'}")
    return delta.vector


def _nobody() -> None:
    """Nobody waits yet."""
