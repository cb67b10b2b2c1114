"""Pages of numpy caches copied aside and back: the definition of `engine.offload.PageMover`, for
the reference backend, where it is of use to tests alone."""

import numpy as np
from numpy.typing import NDArray


class ArrayPages:
    """Pages of an array whose axis `axis` counts slots, and as many places as `nbytes` hold."""

    def __init__(self, kv: NDArray[np.generic], axis: int, page_size: int, nbytes: int) -> None:
        self._kv = np.moveaxis(kv, axis, 0)  # a view
        self._page_size = page_size
        page = self._kv[:page_size]
        self.num_places = nbytes // page.nbytes
        self._places = np.empty((self.num_places, *page.shape), kv.dtype)

    def copy_out(self, pages: list[int], places: list[int]) -> None:
        for page, place in zip(pages, places, strict=True):
            self._places[place] = self._page(page)

    def copy_in(self, pages: list[int], places: list[int]) -> None:
        for page, place in zip(pages, places, strict=True):
            self._page(page)[:] = self._places[place]

    def _page(self, page: int) -> NDArray[np.generic]:
        return self._kv[page * self._page_size : (page + 1) * self._page_size]
