"""One call's answers on their way out of the engine: deltas to text, choice by choice.

Owns the tasks that read the engine's door, and ends them: on a stop string, on the first failure,
when the client has gone. Knows no dialect and no HTTP; a dialect takes what is pending from each
`Choice`, whenever it can send.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from time import monotonic
from typing import TYPE_CHECKING, Literal, cast

from pagemill.errors import EngineFailure, PagemillError, Unavailable
from pagemill.server.orders import Order, end_ids
from pagemill.server.ports import ServedModel
from pagemill.text.detokenizer import Detokenizer
from pagemill.types import Delta, Request, TokenLogprobs

if TYPE_CHECKING:  # metrics bring a library that `pagemill run` has no use for
    from pagemill.server.metrics import ModelMetrics
    from pagemill.server.state import LiveCall

log = logging.getLogger("pagemill.server")

_ENTRY_BYTES = 64  # what a pending token id or log-probability entry counts as

Finish = Literal["stop", "length"]


class Choice:
    """One answer: its request, the text so far not taken, and how it ended."""

    __slots__ = (
        *("cached_tokens", "completion_tokens", "finish_reason", "index", "listed", "logprobs"),
        *("parts", "pending_bytes", "request", "stop_reason", "token_ids"),
        *("_detokenizer", "_end_ids", "_include_stop", "_keep_ids"),
    )

    def __init__(self, index: int, request: Request, model: ServedModel, order: Order) -> None:
        self.index = index
        self.request = request
        self.parts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[tuple[int, TokenLogprobs]] = []
        self.pending_bytes = 0
        self.listed = False  # in Generation.news
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.finish_reason: Finish | None = None
        self.stop_reason: str | int | None = None
        self._end_ids = end_ids(model)
        self._include_stop = order.include_stop
        self._keep_ids = order.return_token_ids
        self._detokenizer = Detokenizer(
            model.tokenizer,
            stop=order.stop,
            skip_special=order.skip_special,
            include_stop=order.include_stop,
            continues=order.continues,
        )

    def feed(self, delta: Delta) -> bool:
        """Take one delta in. True: there is something to send. Raises when the engine failed."""
        detokenizer = self._detokenizer
        if detokenizer.stopped is not None:  # aborted: only the final delta still matters
            return delta.finish is not None and self._end(delta) == ""
        ids = delta.token_ids
        self.completion_tokens += len(ids)
        # A stop token is no text, special or not, unless the caller asked for it.
        shown = ids if delta.stop_id is None or self._include_stop else ids[:-1]
        text = detokenizer.push(shown) if shown else ""
        if self._keep_ids:
            self.token_ids.extend(ids)
            self.pending_bytes += _ENTRY_BYTES * len(ids)
        if delta.logprobs:
            self.logprobs.extend(zip(ids, delta.logprobs, strict=True))
            self.pending_bytes += sum(_ENTRY_BYTES * (1 + len(p.top)) for p in delta.logprobs)
        if delta.finish is not None:
            text += self._end(delta)
        if text:
            self.parts.append(text)
            self.pending_bytes += len(text)
        return bool(text) or self.pending_bytes > 0 or self.finish_reason is not None

    def _end(self, delta: Delta) -> str:
        """Take the final delta in; return the text that was held back."""
        detokenizer = self._detokenizer
        rest = detokenizer.finish() if detokenizer.stopped is None else ""
        self.cached_tokens = delta.cached_tokens
        if detokenizer.stopped is not None:
            self.finish_reason, self.stop_reason = "stop", detokenizer.stopped
            return rest
        if delta.finish == "error":
            raise EngineFailure(delta.error or "The engine failed.")
        if delta.finish == "abort":
            raise Unavailable("The server ended this request.")
        self.finish_reason = "length" if delta.finish == "length" else "stop"
        if delta.stop_id is not None and delta.stop_id not in self._end_ids:
            self.stop_reason = delta.stop_id
        return rest

    @property
    def stopped(self) -> bool:
        """A stop string was met: the engine, which knows no text, must be told."""
        return self._detokenizer.stopped is not None

    def take_text(self) -> str:
        """The text since the last take."""
        parts = self.parts
        self.pending_bytes = 0
        if not parts:
            return ""
        text = parts[0] if len(parts) == 1 else "".join(parts)
        parts.clear()
        return text

    def take_ids(self) -> list[int]:
        """The token ids since the last take."""
        ids, self.token_ids = self.token_ids, []
        return ids

    def take_logprobs(self) -> list[tuple[int, TokenLogprobs]]:
        """The log-probabilities since the last take."""
        entries, self.logprobs = self.logprobs, []
        return entries


class Generation:
    """All choices of one call. `start` it, then take from `news` until `done`, then `close` it."""

    def __init__(
        self,
        model: ServedModel,
        order: Order,
        requests: Sequence[Request],
        live: "set[LiveCall]",
        metrics: "ModelMetrics",
        started: float,
    ) -> None:
        """`live` holds it while it runs; `started` is when its call arrived (monotonic)."""
        self.model = model
        self.order = order
        self.choices = [Choice(i, r, model, order) for i, r in enumerate(requests)]
        self.news: list[Choice] = []  # choices with something to send, oldest first
        self.error: PagemillError | None = None
        self._registry = live
        self._metrics = metrics
        self._started = started
        self._tasks: list[asyncio.Task[None]] = []
        self._live = 0
        self._wake: Callable[[], None] = _nobody

    @property
    def done(self) -> bool:
        """All choices ended, or one failed."""
        return self._live == 0 or self.error is not None

    @property
    def pending_bytes(self) -> int:
        """What waits to be sent, roughly."""
        return sum(choice.pending_bytes for choice in self.choices)

    def take_news(self) -> list[Choice]:
        """The choices that changed since the last take."""
        news, self.news = self.news, []
        for choice in news:
            choice.listed = False
        return news

    def start(self, wake: Callable[[], None]) -> None:
        """Run all choices; `wake` is called after every change."""
        self._wake = wake
        self._live = len(self.choices)
        self._registry.add(self)
        self._metrics.arrived(self.order.n, self.choices[0].request.max_tokens)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._pump(choice)) for choice in self.choices]

    def fail(self, error: PagemillError) -> None:
        """End all choices; the first error is the one that is told."""
        if self.error is None:
            self.error = error
        self._cancel()
        self._wake()

    def _cancel(self) -> None:
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()

    async def close(self) -> None:
        """Abort what still runs and wait until the engine knows. Idempotent."""
        self._registry.discard(self)
        self._cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def finish(self) -> None:
        """Run all choices to their end. Raises the error of the first that failed."""
        self.start(_nobody)
        try:
            await asyncio.wait(self._tasks)
        finally:
            await self.close()
        if self.error is not None:
            raise self.error

    async def _pump(self, choice: Choice) -> None:
        watch = self._metrics.watch(self._started, len(choice.request.prompt))
        told = False
        try:
            # Closing the generator aborts the request: it must not wait for the collector.
            stream = cast("AsyncGenerator[Delta, None]", self.model.client.generate(choice.request))
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    watch.delta(monotonic(), delta)
                    if choice.feed(delta):
                        if not choice.listed:
                            choice.listed = True
                            self.news.append(choice)
                        self._wake()
                    if delta.finish is None and choice.stopped and not told:
                        told = True
                        await self.model.client.abort(choice.request.id)
            if choice.finish_reason is None:
                raise EngineFailure("The engine ended the request without a final event.")
            watch.finished(choice.finish_reason)
        except asyncio.CancelledError:
            watch.finished("abort")
            raise
        except PagemillError as error:
            watch.refused(error)
            self.fail(error)
        except Exception:  # the boundary of one request: its neighbours go on
            log.exception("request %s failed", choice.request.id)
            watch.finished("error")
            self.fail(EngineFailure("The server failed on this request."))
        finally:
            self._live -= 1
            self._wake()


def _nobody() -> None:
    """Wakes no one: the answer is collected at the end."""
