"""The door to an engine in this process, on a thread of its own: for offline runs and tests.

Must not know: processes, HTTP, text.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial

from pagemill.engine.process import Steppable
from pagemill.engine.streams import Stream, Streams
from pagemill.errors import PagemillError, Unavailable
from pagemill.types import Delta, EnginePlan, EngineStats, Request

_STATS_S = 1.0

_log = logging.getLogger(__name__)


class LocalClient:
    """`EngineClient` for an engine in this process. Use it on one event loop.

    Only the client's thread calls the engine. If a step raises, all its requests end with an error
    and the client refuses new ones.
    """

    def __init__(self, engine: Steppable, plan: EnginePlan) -> None:
        self.plan = plan
        self._engine = engine
        self._streams = Streams(plan)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._orders: list[Callable[[], None]] = []  # guarded by _news, as is _closing
        self._news = threading.Condition()
        self._closing = False
        self._reason = ""  # why nothing is accepted any more

    def generate(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Run one request. See `types.EngineClient`."""
        return self._streams.read(request, self._enter, self._leave)

    async def abort(self, request_id: str) -> None:
        """End a request now; no error if there is none of that id."""
        stream = self._streams.find(request_id)
        if stream is not None:
            self._leave(stream)

    async def stats(self) -> EngineStats:
        """Counters, between two steps. Unavailable when a step takes longer than a second."""
        if self._reason:
            raise Unavailable(self._reason)
        if self._thread is None:
            return self._engine.stats()
        counted = asyncio.get_running_loop().create_future()
        self._order(lambda: self._call(_resolve, counted, self._engine.stats()))
        await asyncio.wait({counted}, timeout=_STATS_S)
        if not counted.done():
            raise Unavailable("the engine does not answer")
        stats: EngineStats = counted.result()
        return stats

    async def close(self) -> None:
        """End all requests and the thread. Idempotent."""
        self._reason = self._reason or "the engine has been stopped"
        for stream in self._streams.all():
            self._streams.end(stream, Delta(stream.request.id, finish="abort"))
        with self._news:
            self._closing = True
            self._news.notify()
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _enter(self, request: Request) -> Stream:
        if self._reason:
            raise Unavailable(self._reason)
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()
        stream = self._streams.open(request)
        self._order(partial(self._add, replace(request, id=str(stream.handle))))
        return stream

    def _leave(self, stream: Stream) -> None:
        self._order(partial(self._engine.abort, str(stream.handle)))

    def _order(self, order: Callable[[], None]) -> None:
        with self._news:
            self._orders.append(order)
            self._news.notify()

    # On the engine's thread.

    def _run(self) -> None:
        try:
            while (orders := self._wait()) is not None:
                for order in orders:
                    order()
                if self._engine.has_work():
                    self._call(self._deliver, self._engine.step())
        except Exception:  # a boundary: the event loop must learn that nothing will come
            _log.exception("the engine's thread stopped")
            self._call(self._fail)

    def _wait(self) -> list[Callable[[], None]] | None:
        """Orders since the last call, at once if there is other work. None: stop."""
        with self._news:
            while not (self._orders or self._closing or self._engine.has_work()):
                self._news.wait()
            orders, self._orders = self._orders, []
            return None if self._closing else orders

    def _add(self, request: Request) -> None:
        try:
            self._engine.add(request)
        except PagemillError as error:
            self._call(self._streams.refuse, int(request.id), error)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Run on the event loop, unless that has closed."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    # On the event loop again.

    def _deliver(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            self._streams.deliver(int(delta.request_id), partial(_renamed, delta))

    def _fail(self) -> None:
        self._reason = "the engine failed; the log says why"
        for stream in self._streams.all():
            self._streams.end(stream, Delta(stream.request.id, finish="error", error=self._reason))


def _renamed(delta: Delta, request_id: str) -> Delta:
    return replace(delta, request_id=request_id)


def _resolve(waiter: "asyncio.Future[EngineStats]", stats: EngineStats) -> None:
    if not waiter.done():
        waiter.set_result(stats)
