"""The engine's side of the door: one process, one loop.

`main` is called in the engine process with its end of a socket pair. The first order loads a model;
then the loop takes orders without waiting while there is work, steps, and reports each step in one
frame. When idle it makes ready what it can, then waits on the socket. The heartbeat is this same
loop: who is asked and does not answer is not stepping either.

Owns the loop and the end of the process: nothing of it may outlive whoever holds the other end of
the socket. Must not know: how an engine is built (it is handed a function), restarts, asyncio.
"""

import ctypes
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from pagemill.engine import wire
from pagemill.errors import EngineFailure, PagemillError
from pagemill.types import Delta, EngineInfo, EnginePlan, EngineStats, Request

STATS_S = 0.1  # at most this often, counters go out with a step
RECEIVE_SIZE = 256 << 10

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38

_log = logging.getLogger(__name__)


class Steppable(Protocol):
    """What the doors need of an engine."""

    def add(self, request: Request) -> None: ...
    def abort(self, request_id: str) -> None: ...
    def step(self) -> list[Delta]: ...
    def has_work(self) -> bool: ...
    def prepare(self) -> bool: ...
    def stats(self) -> EngineStats: ...


# Ends the engine process at once, from any thread; the other side is told why.
GiveUp = Callable[[PagemillError], None]
Build = Callable[[EnginePlan, GiveUp], tuple[Steppable, EngineInfo]]


def main(handle: int, build: Build) -> None:
    """Run an engine process on the socket with this file descriptor, then exit."""
    logging.basicConfig(format="engine: %(message)s", level=logging.INFO)
    # A signal to the whole group or container is for the server, which then lets answers finish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    door = socket.socket(fileno=handle)
    die_with_parent(door)
    try:
        status = _serve(_Door(door), build)
    except OSError:  # the other side is gone
        status = 0
    except wire.FrameError as error:
        _log.error("stopping: %s", error.message)
        status = 1
    # At once: native threads and a mapped model need no goodbye.
    sys.stderr.flush()
    os._exit(status)


def die_with_parent(door: socket.socket) -> None:
    """End this process when the other end of `door` closes, whatever the loop is doing then.

    The kernel closes it however the parent dies. Linux also kills us, should we be stopped.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    def watch() -> None:
        poll = select.poll()
        poll.register(door, 0)  # hang-ups are always reported
        poll.poll()
        os._exit(0)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()


class _Door:
    """The socket. Reports leave it whole, whichever thread sends them."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._sending = threading.Lock()
        self.receive = door.recv

    def send(self, frames: bytes) -> None:
        with self._sending:
            self._door.sendall(frames)

    def give_up(self, error: PagemillError) -> None:
        """`GiveUp`: what the loop is doing may never end, so nothing waits for it."""
        with self._sending:
            _log.error("the engine gives up: %s", error.message)
            with suppress(OSError):  # nobody is left to be told
                self._door.sendall(wire.encode(_failed(error)))
            sys.stderr.flush()
            os._exit(1)


def _serve(door: _Door, build: Build) -> int:
    """Load, then loop. The exit status; OSError or FrameError when the door fails."""
    orders = _Orders(door)
    first = orders.wait()
    if not first:
        return 0
    start, *early = first
    if not isinstance(start, wire.Start):
        raise wire.FrameError("the first order must be Start")
    started = time.monotonic()
    try:
        engine, info = build(start.plan, door.give_up)
    except Exception as error:  # a boundary: whatever it is, the other side must learn of it
        door.send(wire.encode(_failed(error)))
        return 1
    info = replace(info, load_s=time.monotonic() - started, pid=os.getpid())
    door.send(wire.encode(wire.Ready(info)))
    _Loop(door, orders, engine).run(early)
    return 0


def _failed(error: Exception) -> wire.Failed:
    if isinstance(error, PagemillError):
        return wire.Failed(type(error).__name__, error.message, error.param)
    _log.error("the model could not be loaded", exc_info=error)
    if isinstance(error, MemoryError):
        return wire.Failed(EngineFailure.__name__, "there is not enough memory for this model")
    # Other messages may name files and internals; the log has them.
    return wire.Failed(EngineFailure.__name__, f"loading failed: {type(error).__name__}")


class _Orders:
    """Reads orders. No orders, from `wait`, means that the door has closed."""

    def __init__(self, door: _Door) -> None:
        self._receive = door.receive
        self._reader = wire.FrameReader()

    def wait(self) -> list[wire.Order]:
        """The next orders, at least one."""
        while data := self._receive(RECEIVE_SIZE):
            if frames := self._reader.feed(data):
                return [wire.decode_order(frame) for frame in frames]
        return []

    def now(self) -> list[wire.Order]:
        """What has arrived so far."""
        orders: list[wire.Order] = []
        while True:
            try:
                data = self._receive(RECEIVE_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return orders
            if not data:
                raise ConnectionResetError("the door has closed")
            orders += [wire.decode_order(frame) for frame in self._reader.feed(data)]


class _Loop:
    """Orders in, steps, reports out, until the door closes."""

    def __init__(self, door: _Door, orders: _Orders, engine: Steppable) -> None:
        self._door = door
        self._orders = orders
        self._engine = engine
        self._stats_due = 0.0

    def run(self, orders: list[wire.Order]) -> None:
        engine = self._engine
        while True:
            for order in orders:
                self._obey(order)
            if engine.has_work():
                deltas = engine.step()
                self._door.send(wire.encode_step(deltas, self._stats()))
            if engine.has_work():
                orders = self._orders.now()
            elif not (orders := self._rest()):
                return

    def _rest(self) -> list[wire.Order]:
        """The next orders. While none come, the engine makes ready for them."""
        while self._engine.prepare():
            if orders := self._orders.now():
                return orders
        return self._orders.wait()

    def _stats(self) -> EngineStats | None:
        """Counters, if it is time, or the last chance for now."""
        now = time.monotonic()
        if now < self._stats_due and self._engine.has_work():
            return None
        self._stats_due = now + STATS_S
        return self._engine.stats()

    def _obey(self, order: wire.Order) -> None:
        match order:
            case wire.Add(request):
                try:
                    self._engine.add(request)
                except PagemillError as error:
                    refused = wire.Refused(
                        int(request.id), type(error).__name__, error.message, error.param
                    )
                    self._door.send(wire.encode(refused))
            case wire.Abort(handle):
                self._engine.abort(str(handle))
            case wire.Ask():
                self._door.send(wire.encode(wire.Counted(self._engine.stats())))
            case wire.Start():
                raise wire.FrameError("Start is the first order only")
