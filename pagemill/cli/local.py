"""A model run by this program itself: the runtime, its engine process, and no HTTP in between.

The runtime lives on an event loop in a thread of its own, so that the terminal may block on the
keyboard. Requests are read and checked by the server's own readers, and tokens become text in the
server's own `Choice`: what `run` accepts and says, the server does.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pagemill.cli.talk import Ending, Event, Knobs, Turn
from pagemill.errors import EngineFailure

if TYPE_CHECKING:
    from pagemill.server.generation import Choice
    from pagemill.server.ports import ServedModel
    from pagemill.types import Delta

T = TypeVar("T")

SLOW_S = 0.7  # a load that takes longer is worth a word
CLOSE_S = 5.0


class Loader(Protocol):
    """What this module needs of `pagemill.runtime.Runtime`."""

    async def model(self, name: str) -> ServedModel: ...
    async def close(self, drain_s: float = 0) -> None: ...


class EngineTalker:
    """Talks to a model that this program loads."""

    def __init__(self, runtime: Callable[[], Loader], name: str, slow: Callable[[], None]) -> None:
        """Load `name`. `slow` is called once if that takes long enough to wonder."""
        self.load_s = 0.0
        self._count = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="talker", daemon=True)
        self._thread.start()
        self._runtime: Loader | None = None
        started = time.perf_counter()
        try:
            self._model = self._wait(self._load(runtime, name), slow)
        except BaseException:  # Ctrl-C while loading must not leave an engine behind
            self.close()
            raise
        self.load_s = time.perf_counter() - started

    async def _load(self, runtime: Callable[[], Loader], name: str) -> ServedModel:
        from pagemill.server.orders import check_writes

        self._runtime = runtime()
        model = await self._runtime.model(name)
        check_writes(model)
        return model

    def _wait(self, work: Coroutine[Any, Any, T], slow: Callable[[], None]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        if not done.wait(SLOW_S):
            slow()
        return future.result()

    @property
    def name(self) -> str:
        return self._model.name

    def info(self) -> list[tuple[str, str]]:
        """Label and value lines of /show info."""
        from pagemill.cli.text import count

        card, plan = self._model.card, self._model.plan
        return [
            ("model", self.name),
            ("architecture", card.architecture),
            ("parameters", count(card.parameters)),
            ("quantization", card.quantization),
            ("context", f"{plan.max_model_len} tokens (the model allows {card.context_length})"),
            ("backend", f"{plan.backend}, {plan.threads} threads, in this program"),
        ]

    def template(self) -> str:
        """The chat template's source."""
        return getattr(self._model.template, "source", "")

    def answer(self, turns: list[Turn], knobs: Knobs) -> Iterator[Event]:
        """Stream an answer; closing the iterator aborts the request."""
        self._count += 1
        choice = self._choice(turns, knobs)
        events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()
        future = asyncio.run_coroutine_threadsafe(self._pump(choice, events.put), self._loop)
        try:
            while True:
                event = events.get()
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Ending):
                    return
        finally:
            future.cancel()

    def _choice(self, turns: list[Turn], knobs: Knobs) -> Choice:
        from pagemill.server.fields import Fields
        from pagemill.server.generation import Choice
        from pagemill.server.orders import read_order, to_requests
        from pagemill.text.chat import chat_prompt
        from pagemill.text.messages import Message

        model = self._model
        messages = [Message(turn.role, turn.content) for turn in turns]
        ids = chat_prompt(model.tokenizer, model.template, messages)
        order = read_order(Fields(knobs.body()), logprobs=None, default_max_tokens=None)
        [request] = to_requests(
            order, [ids], model, call_id=f"run-{self._count}", identity="", param="the conversation"
        )
        return Choice(0, request, model, order)

    async def _pump(self, choice: Choice, put: Callable[[Event | BaseException], None]) -> None:
        try:
            async with aclosing(self._events(choice)) as events:
                async for event in events:
                    put(event)
        except Exception as error:  # carried to the thread that waits for it
            put(error)

    async def _events(self, choice: Choice) -> AsyncGenerator[Event, None]:
        started, first = time.perf_counter(), 0.0
        stream = cast("AsyncGenerator[Delta, None]", self._model.client.generate(choice.request))
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                if delta.token_ids and not first:
                    first = time.perf_counter()
                choice.feed(delta)
                if text := choice.take_text():
                    yield text
                if choice.stopped or choice.finish_reason is not None:
                    break  # a stop string: the engine knows no text, and is left
        finish = "stop" if choice.stopped else choice.finish_reason
        if finish is None:
            raise EngineFailure("the engine ended the answer without a final word")
        ended = time.perf_counter()
        first = first or ended
        yield Ending(
            finish,
            len(choice.request.prompt),
            choice.completion_tokens,
            first - started,
            ended - first,
            choice.cached_tokens,
        )

    def close(self) -> None:
        """Stop the engine and the loop. Idempotent."""
        if self._loop.is_closed():
            return
        if self._runtime is not None:
            future = asyncio.run_coroutine_threadsafe(self._runtime.close(), self._loop)
            done = threading.Event()
            future.add_done_callback(lambda _: done.set())
            done.wait(CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()
