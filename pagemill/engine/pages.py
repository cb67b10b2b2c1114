"""PagePool: owns every page of keys and values, and the prefix cache, which is the same thing.

A page is free or held by sequences (`refs` counts them). A full page is known by a chain hash:
SHA-256 over the hash of the page before it and its own token ids, so equal hashes mean equal
histories from the first token on; the chain's root is the request's cache salt. A freed page keeps
its content and its hash until someone takes it, so the free list, in eviction order, *is* the
cache.

A page is published when the step that fills it is planned, not when it has run. That is right
because in a step every layer writes the keys and values of all rows before any row attends: whoever
adopts the page in the same planning pass reads it after it was written. It needs two guarantees
from elsewhere: the scheduler publishes only for rows it will not take back, and the engine forgets
the pages of a step that failed. A page with a token in flight waits until that token is known. In
return 32 new users of one system prompt, or n choices of one
prompt, prefill it once.

Must not know: why a sequence grows or goes, and what a page holds beside token ids.
"""

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import sha256

from pagemill.engine.offload import HostPool
from pagemill.engine.sequence import IntRun, Sequence

_ROOT = b"pagemill:root:"  # different first bytes, so a salt can never imitate a page
_PAGE = b"pagemill:page:"

ON_HOST = -1  # in the place of a page that is found in the host's memory only


class PagePool:
    """Hands out pages, shares full ones by content, takes them back."""

    def __init__(
        self, num_pages: int, page_size: int, caching: bool = True, host: HostPool | None = None
    ) -> None:
        """`host` keeps pages that are taken, where there is one."""
        self.num_pages = num_pages
        self.page_size = page_size
        self.caching = caching
        self.prefix_queries = 0  # prompt tokens looked up
        self.prefix_hits = 0  # prompt tokens found
        self.num_touched = 0  # pages from the first that may have been used; others never were
        self._host = host
        self._refs = [0] * num_pages
        self._free = OrderedDict.fromkeys(range(num_pages))  # first goes first
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def missing(self, seq: Sequence) -> int:
        """Pages to add before `seq` could hold all tokens it knows."""
        return -(-seq.tokens.size // self.page_size) - seq.pages.size

    def find(self, seq: Sequence) -> list[int]:
        """Pages that hold the longest known prefix of `seq`, or ON_HOST; changes nothing.

        Never the page of the last token: that token must be computed to be sampled from.
        """
        found: list[int] = []
        for i in range(self._sharable(seq)):
            link = self._link(seq, i)
            page = self._page_of.get(link)
            if page is None:
                if self._host is None or not self._host.has(link):
                    break
                page = ON_HOST
            found.append(page)
        return found

    def room_beside(self, found: list[int]) -> int:
        """Free pages left for others once `found` are adopted."""
        taken = sum(page == ON_HOST or self._refs[page] == 0 for page in found)
        return len(self._free) - taken

    def adopt(self, seq: Sequence, found: list[int]) -> None:
        """Make the result of `find` the first pages of `seq`."""
        for i, page in enumerate(found):  # at once: nobody may take them for what is brought
            if page != ON_HOST:
                self._free.pop(page, None)
            elif self._host is not None:
                self._host.reserve(self._link(seq, i))
        for i, page in enumerate(found):
            self._hold(seq, page if page != ON_HOST else self._brought(self._link(seq, i)))
        seq.published = len(found)
        seq.computed_len = len(found) * self.page_size
        if seq.cached_tokens is None:  # a resumed sequence finding its own pages is no news
            seq.cached_tokens = seq.computed_len
            self.prefix_queries += len(seq.request.prompt)
            self.prefix_hits += seq.computed_len

    def grow(self, seq: Sequence, end: int) -> bool:
        """Make room for the first `end` tokens. False, and no change, if there is none."""
        need = -(-end // self.page_size) - seq.pages.size
        if need > len(self._free):
            return False
        for _ in range(need):
            self._hold(seq, self._take())
        return True

    def publish(self, seq: Sequence, end: int) -> None:
        """Name the pages that are full, of known tokens, once the first `end` are computed."""
        if not self.caching:
            return
        for i in range(seq.published, min(end, seq.known_len) // self.page_size):
            link, page = self._link(seq, i), int(seq.pages.data[i])
            if link not in self._page_of:  # else an equal page is known: this one stays private
                self._page_of[link], self._hash_of[page] = page, link
            seq.published = i + 1

    def release(self, seq: Sequence) -> None:
        """Take everything back. Resuming later is starting again, cheaply."""
        for page in reversed(seq.pages.tolist()):  # the end of a chain is evicted before its start
            self._refs[page] -= 1
            if self._refs[page] == 0:
                self._free[page] = None
                if page not in self._hash_of:  # nothing to keep: first to go
                    self._free.move_to_end(page, last=False)
        seq.pages = IntRun()
        seq.published = seq.computed_len = 0

    def forget(self, seq: Sequence) -> None:
        """Unname every page that `seq` holds: its step failed, so their content is in doubt."""
        for page in seq.pages.tolist():
            self._unname(page)

    def check(self, holders: Iterable[Sequence]) -> None:
        """Assert every invariant of the pool, given all sequences that hold pages. For tests."""
        places: dict[int, list[tuple[int, tuple[bytes, ...]]]] = {}
        for seq in holders:
            for i, page in enumerate(seq.pages.tolist()):
                places.setdefault(page, []).append((i, tuple(seq.links[: i + 1])))
        assert [len(places.get(page, ())) for page in range(self.num_pages)] == self._refs
        assert set(self._free) == {page for page, refs in enumerate(self._refs) if not refs}
        assert {page: link for link, page in self._page_of.items()} == self._hash_of
        for shared in (users for users in places.values() if len(users) > 1):
            i, links = shared[0]
            assert len(set(shared)) == 1 and len(links) == i + 1  # same place of the same history

    def _sharable(self, seq: Sequence) -> int:
        """How many pages, from the first, may come from the cache."""
        return (seq.tokens.size - 1) // self.page_size if self.caching else 0

    def _link(self, seq: Sequence, i: int) -> bytes:
        """The chain hash of page `i` of `seq`; each is computed once in a sequence's life."""
        while len(seq.links) <= i:
            seq.links.append(self._hash(seq, len(seq.links)))
        return seq.links[i]

    def _hash(self, seq: Sequence, i: int) -> bytes:
        salt = seq.request.cache_salt.encode("utf-8", "surrogatepass")
        before = seq.links[i - 1] if i else sha256(_ROOT + salt).digest()
        ids = seq.tokens.data[i * self.page_size : (i + 1) * self.page_size]
        return sha256(_PAGE + before + ids.tobytes()).digest()  # all lengths fixed: no ambiguity

    def _brought(self, link: bytes) -> int:
        """A page that will hold what the host has under this name."""
        assert self._host is not None
        page = self._take()
        self._host.bring(link, page)
        self._page_of[link], self._hash_of[page] = page, link
        return page

    def _take(self) -> int:
        """The free page that goes first; the host keeps what it held."""
        page: int = next(iter(self._free))
        if self._host is not None and page in self._hash_of:
            self._host.keep(self._hash_of[page], page)
        self._unname(page)
        self.num_touched = max(self.num_touched, page + 1)
        return page

    def _hold(self, seq: Sequence, page: int) -> None:
        self._free.pop(page, None)
        self._refs[page] += 1
        seq.pages.append(page)

    def _unname(self, page: int) -> None:
        link = self._hash_of.pop(page, None)
        if link is not None:
            del self._page_of[link]
