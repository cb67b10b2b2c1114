"""The requests that wait at a door: one mailbox each, and the bound on how many there may be.

A request is open from `open` until its final Delta or its refusal is put into its mailbox, which
happens exactly once, or until its reader leaves. All on one event loop.

The bound: `max_num_seqs` may run and `max_queued` may wait, so their sum may be open. Counting here
answers at once, whatever the engine is doing, and gives the same answer every time. (When pages are
short, fewer run and more wait, but never more than that sum.)

Must not know: where the engine is.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

from pagemill.errors import Busy, InvalidRequest, PagemillError
from pagemill.types import Delta, EnginePlan, Request


class Stream:
    """One request and what has come for it."""

    __slots__ = ("_mail", "_refusal", "_waiter", "handle", "request", "sent")

    def __init__(self, handle: int, request: Request) -> None:
        self.handle = handle
        self.request = request
        self.sent = False  # the engine has heard of it
        self._mail: list[Delta] = []
        self._refusal: PagemillError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, delta: Delta) -> None:
        """Deliver; wakes the reader once for all that comes before it runs."""
        self._mail.append(delta)
        self._wake()

    def refuse(self, error: PagemillError) -> None:
        """Let the reader raise `error` instead of getting any Delta."""
        self._refusal = error
        self._wake()

    async def take(self) -> list[Delta]:
        """All that has come, at least one. Raises what `refuse` was given."""
        if not self._mail and self._refusal is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._refusal is not None:
            raise self._refusal
        mail, self._mail = self._mail, []
        return mail

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Streams:
    """All open requests of one door."""

    def __init__(self, plan: EnginePlan) -> None:
        self._plan = plan
        self._by_handle: dict[int, Stream] = {}
        self._by_id: dict[str, Stream] = {}
        self._last_handle = 0
        self._drained: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._by_handle)

    def open(self, request: Request) -> Stream:
        """Give a request a mailbox. Raises Busy when the bound is reached."""
        plan = self._plan
        if len(self._by_handle) >= plan.max_num_seqs + plan.max_queued:
            raise Busy(
                f"the queue is full: {plan.max_queued} requests wait beside the "
                f"{plan.max_num_seqs} that may run (max_queued); try again soon"
            )
        if request.id in self._by_id:
            raise InvalidRequest(f"a request with the id {request.id!r} is running", param="id")
        self._last_handle += 1
        stream = Stream(self._last_handle, request)
        self._by_handle[stream.handle] = self._by_id[request.id] = stream
        return stream

    async def read(
        self, request: Request, enter: Callable[[Request], Stream], leave: Callable[[Stream], None]
    ) -> AsyncGenerator[Delta, None]:
        """Deltas until the final one. `enter` opens the request when the first one is asked for;
        `leave` is called if the reader goes before the final one."""
        stream = enter(request)
        try:
            while True:
                for delta in await stream.take():
                    yield delta
                    if delta.finish is not None:
                        return
        finally:
            if self._close(stream):
                leave(stream)

    def find(self, request_id: str) -> Stream | None:
        """The open request of that id."""
        return self._by_id.get(request_id)

    def token(self, handle: int, token: int) -> None:
        """Deliver one token. Handles whose readers left are no error."""
        stream = self._by_handle.get(handle)
        if stream is not None:
            stream.put(Delta(stream.request.id, (token,)))

    def deliver(self, handle: int, made: Callable[[str], Delta]) -> None:
        """Deliver the Delta that `made` makes for the request's id; a final one closes it."""
        stream = self._by_handle.get(handle)
        if stream is not None:
            delta = made(stream.request.id)
            if delta.finish is not None:
                self._close(stream)
            stream.put(delta)

    def refuse(self, handle: int, error: PagemillError) -> None:
        """Close a request that was not accepted."""
        stream = self._by_handle.get(handle)
        if stream is not None:
            self._close(stream)
            stream.refuse(error)

    def end(self, stream: Stream, delta: Delta) -> None:
        """Close an open request with a final Delta of our own making."""
        if self._close(stream):
            stream.put(delta)

    def all(self) -> list[Stream]:
        """Every open request, the oldest first."""
        return list(self._by_handle.values())

    async def drained(self, seconds: float) -> bool:
        """Wait until none is open; False when that takes longer."""
        if not self._by_handle:
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._drained.append(waiter)
        done, _ = await asyncio.wait({waiter}, timeout=seconds)
        return bool(done)

    def _close(self, stream: Stream) -> bool:
        """False if it was closed before."""
        if self._by_handle.pop(stream.handle, None) is None:
            return False
        del self._by_id[stream.request.id]
        while not self._by_handle and self._drained:
            waiter = self._drained.popleft()
            if not waiter.done():
                waiter.set_result(None)
        return True
