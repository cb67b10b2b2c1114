"""HostPool: pages that fall out of the prefix cache, kept in the host's memory.

A page of a device that is named and about to be taken is copied out first; who looks for its name
later gets it copied into a page of theirs instead of computing it again. That is how a displaced
sequence comes back, too: its full pages are named, so they are found on the device, or here.

Moves are noted while a step is planned and made before it is launched, in the order in which they
were decided: a page may be copied out, filled again and its place given away in one plan. Must not
know: sequences, and how a move is made.
"""

from collections import OrderedDict
from itertools import groupby
from typing import Protocol

Move = tuple[bool, int, int]  # out of the device?, page, place on the host


class PageMover(Protocol):
    """Copies pages between a device and `num_places` places on the host, in the order of calls and
    between the steps before and after them."""

    @property
    def num_places(self) -> int: ...

    def copy_out(self, pages: list[int], places: list[int]) -> None: ...

    def copy_in(self, pages: list[int], places: list[int]) -> None: ...


class HostPool:
    """Places on the host by the name of the page that they hold; the oldest use goes first."""

    def __init__(self, mover: PageMover) -> None:
        self._mover = mover
        self._free = list(range(mover.num_places))
        self._place_of: OrderedDict[bytes, int] = OrderedDict()
        self._reserved: dict[bytes, int] = {}
        self._moves: list[Move] = []
        self.pages_out = 0
        self.pages_in = 0

    def has(self, link: bytes) -> bool:
        return link in self._place_of

    def keep(self, link: bytes, page: int) -> None:
        """Copy out a page that will be overwritten, unless it is here, or there is no place."""
        if link in self._place_of:
            self._place_of.move_to_end(link)
            return
        if not self._free and not self._place_of:
            return
        place = self._free.pop() if self._free else self._place_of.popitem(last=False)[1]
        self._place_of[link] = place
        self._moves.append((True, page, place))
        self.pages_out += 1

    def reserve(self, link: bytes) -> None:
        """Let nothing else have the place of what will be brought."""
        self._reserved[link] = self._place_of.pop(link)

    def bring(self, link: bytes, page: int) -> None:
        """Fill a page with what is reserved under this name; it stays here as well."""
        place = self._place_of[link] = self._reserved.pop(link)
        self._moves.append((False, page, place))
        self.pages_in += 1

    def move(self) -> None:
        """Make all moves that are due. When one fails nothing is known of what is here."""
        moves, self._moves = self._moves, []
        try:
            for out, run in groupby(moves, key=lambda move: move[0]):
                pages, places = (list(numbers) for numbers in list(zip(*run, strict=True))[1:])
                (self._mover.copy_out if out else self._mover.copy_in)(pages, places)
        except Exception:
            self.forget()
            raise

    def forget(self) -> None:
        """Drop everything."""
        self._free = list(range(self._mover.num_places))
        self._place_of.clear()
        self._reserved.clear()
        self._moves.clear()
