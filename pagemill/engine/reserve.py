"""Reserve: the next pages have their memory before anyone waits for it.

A cache is addresses until it is used, so that a process is as large as what it holds. The price is
that whoever writes a page first waits for the system to find and clear memory for it, which in a
virtual machine may be a sixth of a short prompt's time. While an engine has nothing to do it takes
that memory ahead, a slice at a time. A pool gives pages out in ascending
order at first, so the next ones are known; once all have been used, there is nothing left to take.

Must not know: what waits for the engine's attention between two slices.
"""

from typing import Protocol, runtime_checkable

from pagemill.engine.pages import PagePool

RESERVE_BYTES = 128 << 20  # at most this much beyond what has been used
SLICE_BYTES = 2 << 20  # in one call: some milliseconds where the system is slow


@runtime_checkable
class Preparable(Protocol):
    """A cache whose memory comes with its use."""

    @property
    def nbytes(self) -> int: ...

    def prepare(self, first: int, last: int) -> bool:
        """Take the memory of pages `first` to `last - 1` now. False: this system cannot."""
        ...


class Reserve:
    """Keeps memory ready for pages of `pool` that nobody had yet, in `kv`, which holds them."""

    def __init__(self, pool: PagePool, kv: Preparable) -> None:
        self._pool, self._kv = pool, kv
        page_bytes = max(1, kv.nbytes // pool.num_pages)
        self._ahead = RESERVE_BYTES // page_bytes
        self._slice = max(1, SLICE_BYTES // page_bytes)
        self._ready = 0  # pages from the first that have their memory

    def extend(self) -> bool:
        """Take the next slice. False, at once, where there is nothing to take."""
        first = max(self._ready, self._pool.num_touched)
        last = min(first + self._slice, self._pool.num_touched + self._ahead, self._pool.num_pages)
        if first >= last:
            return False
        taken = self._kv.prepare(first, last)
        self._ready = last if taken else self._pool.num_pages
        return taken
