"""The other ranks, as rank 0 knows them: processes that are started, told steps, and watched.

They are one engine: when one of them cannot go on, none can, and rank 0 gives its own process up
with the reason. That ends the others too, in whatever they were doing, and whoever supervises
rank 0 starts all of them again. Must not know: what a rank computes.
"""

import logging
import select
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pagemill import errors
from pagemill.engine.process import RECEIVE_SIZE, GiveUp
from pagemill.engine.spawn import EngineProcess
from pagemill.engine.wire import FrameError, FrameReader
from pagemill.errors import EngineFailure, PagemillError
from pagemill.parallel import frames
from pagemill.types import EnginePlan

LOST: Final = "RankLost"  # who says this suffers from what befell another

_REMIND_S: Final = 30.0
_GRACE_S: Final = 0.3  # the first to be heard is not always the first that failed
_PATIENCE_S: Final = 5.0  # until the watch knows why others have left

_log = logging.getLogger(__name__)


class _Rank:
    """One of them."""

    def __init__(self, number: int, process: EngineProcess) -> None:
        self.number, self.process = number, process
        self.reader = FrameReader(frames.WORD_LIMIT)
        self.ready = self.left = False
        self.trouble: frames.Failed | None = None

    def hear(self) -> None:
        """Take over what it says; it has said something, or is gone."""
        try:
            data = self.process.door.recv(RECEIVE_SIZE)
        except OSError:
            data = b""
        if not data:
            self.left = True
            self.trouble = self.trouble or self._how_it_ended()
        try:
            words = [frames.decode_word(body) for body in self.reader.feed(data)]
        except FrameError as error:
            words = [frames.Failed(type(error).__name__, error.message)]
        for word in words:
            match word:
                case frames.Ready():
                    self.ready = True
                case frames.Left():
                    self.left = True
                case frames.Failed():
                    self.trouble = word

    def _how_it_ended(self) -> frames.Failed:
        until = time.monotonic() + 1.0
        while not self.process.ended() and time.monotonic() < until:
            time.sleep(0.01)
        return frames.Failed("", self.process.how_it_ended())


class Crew:
    """Ranks 1 and up of one network."""

    def __init__(self, processes: Sequence[EngineProcess], give_up: GiveUp) -> None:
        self._ranks = [_Rank(number, process) for number, process in enumerate(processes, start=1)]
        self._give_up = give_up
        self._folder = ""
        self._news = threading.Condition()
        self._ended = False  # under `_news`; somebody has given up
        self._watch = threading.Thread(target=self._listen, name="watch ranks", daemon=True)

    def join(self, plan: EnginePlan) -> str:
        """Tell them what to load, and watch them from now on. The file through which all meet."""
        self._folder = tempfile.mkdtemp(prefix="pagemill-")  # for this user only
        meeting = str(Path(self._folder) / "meeting")
        for rank in self._ranks:
            rank.process.door.sendall(frames.encode(frames.Join(plan, rank.number, meeting)))
        self._watch.start()
        return meeting

    def have_met(self) -> None:
        """The file is no longer needed, or nobody will need it. Idempotent."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def wait_ready(self) -> None:
        """Until all have loaded. Whoever supervises this process says when it takes too long."""
        with self._news:
            while missing := [rank.number for rank in self._ranks if not rank.ready]:
                if self._ended:
                    raise EngineFailure("the other ranks are gone")
                if not self._news.wait(_REMIND_S):
                    _log.warning("waiting for rank %s", ", ".join(map(str, missing)))

    def tell(self, step: bytes) -> None:
        """OSError when one of them is gone."""
        whole = frames.frame(step)
        for rank in self._ranks:
            rank.process.door.sendall(whole)

    def fail(self, error: Exception) -> None:
        """Give up, for what happened to rank 0 in a step: the others are somewhere in it."""
        if isinstance(error, OSError) or type(error).__name__ == LOST:
            self._watch.join(_PATIENCE_S)  # it knows better why they have left, and gives up
        _log.error("rank 0 left a step", exc_info=error)
        words = error.message if isinstance(error, PagemillError) else type(error).__name__
        self._end(EngineFailure(f"rank 0 of {len(self._ranks) + 1} failed: {words}"))

    def dismiss(self) -> None:
        """End the network in all of them; the processes stay and may join another."""
        self.tell(frames.END)
        self._watch.join()

    def _listen(self) -> None:
        """On a thread of its own, as rank 0 may be waiting for somebody who is gone."""
        poll = select.poll()
        by_door = {rank.process.door.fileno(): rank for rank in self._ranks}
        for door in by_door:
            poll.register(door, select.POLLIN)
        until: float | None = None
        while by_door and (until is None or time.monotonic() < until):
            for door, _ in poll.poll(None if until is None else 1000 * _GRACE_S):
                rank = by_door[door]
                with self._news:
                    rank.hear()
                    self._news.notify_all()
                if rank.left:
                    poll.unregister(door)
                    del by_door[door]
                if rank.trouble and until is None:
                    until = time.monotonic() + _GRACE_S
        if until is not None:
            self._end(self._reason())

    def _reason(self) -> PagemillError:
        """What befell the first: who died silently, who failed, and then who says it was others."""
        troubles = [(rank, rank.trouble) for rank in self._ranks if rank.trouble is not None]
        rank, trouble = min(troubles, key=lambda both: (both[1].kind == LOST, both[1].kind != ""))
        words = f"rank {rank.number} of {len(self._ranks) + 1}"
        if not trouble.kind:
            return EngineFailure(f"{words} died: {trouble.message}")
        kind: Any = getattr(errors, trouble.kind, None)
        is_ours = isinstance(kind, type) and issubclass(kind, PagemillError)
        if is_ours and kind is not EngineFailure and not rank.ready:  # of the model, to all of us
            error: PagemillError = kind(trouble.message, param=trouble.param)
            return error
        return EngineFailure(f"{words} failed: {trouble.message}")

    def _end(self, error: PagemillError) -> None:
        self.have_met()
        with self._news:  # nobody who waits for news may say first that others are gone
            if not self._ended:
                self._ended = True
                self._give_up(error)
            self._news.notify_all()
