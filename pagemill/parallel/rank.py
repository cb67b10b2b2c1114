"""The program of ranks 1 and up: it loads a share and runs the steps that rank 0 tells.

Must not know: requests, sampling, what becomes of a step.
"""

import logging
import os
import signal
import socket
import sys

from pagemill import worker
from pagemill.engine import process
from pagemill.engine.wire import FrameReader
from pagemill.errors import PagemillError, Unsupported
from pagemill.parallel import frames, network
from pagemill.parallel.steps import unpack
from pagemill.weights.load import Checkpoint

_log = logging.getLogger(__name__)


def main(handle: int) -> None:
    """Serve one network on the socket with this file descriptor; does not return."""
    begin()
    door = socket.socket(fileno=handle)
    process.die_with_parent(door)
    status = serve(Orders(door), door)
    # At once: others may be waiting for us in the middle of a sum.
    sys.stderr.flush()
    os._exit(status)


def begin() -> None:
    """What holds for the whole process."""
    logging.basicConfig(format="rank: %(message)s", level=logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):  # rank 0 says when it is over
        signal.signal(number, signal.SIG_IGN)


class Orders:
    """Frames from rank 0, one by one."""

    def __init__(self, door: socket.socket) -> None:
        self._door, self._reader = door, FrameReader(frames.STEP_LIMIT)
        self._waiting: list[bytes] = []

    def next(self) -> bytes | None:
        """None: rank 0 is gone."""
        while not self._waiting:
            data = self._door.recv(process.RECEIVE_SIZE)
            if not data:
                return None
            self._waiting = self._reader.feed(data)
        return self._waiting.pop(0)


def serve(orders: Orders, door: socket.socket) -> int:
    """One network, from `Join` to the last step. The exit status."""
    first = orders.next()
    if first is None:
        return 0
    try:
        _serve(frames.decode_join(first), orders, door)
    except Exception as error:  # a boundary: rank 0 must learn of it, whatever it is
        _log.error("a rank leaves", exc_info=error)
        is_ours = isinstance(error, PagemillError)
        words = error.message if isinstance(error, PagemillError) else type(error).__name__
        param = error.param if isinstance(error, PagemillError) else None
        kind = type(error).__name__ if is_ours else "EngineFailure"
        door.sendall(frames.encode(frames.Failed(kind, words, param)))
        return 1
    return 0


def _serve(join: frames.Join, orders: Orders, door: socket.socket) -> None:
    plan = join.plan
    checkpoint = worker.open_checkpoint(plan)
    if not isinstance(checkpoint, Checkpoint):
        raise Unsupported("networks that another library computes cannot be shared among ranks")
    ops = worker.new_ops(network.plan_of(plan, join.rank))
    group = network.meet(network.seat_of(plan, join.rank), join.meeting, ops)
    model, kv = network.build(plan, checkpoint, ops, group)
    door.sendall(frames.encode(frames.Ready()))
    while step := orders.next():
        model(unpack(step), kv)
    group.close()
    door.sendall(frames.encode(frames.Left()))
