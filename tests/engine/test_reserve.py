"""Reserve: slices in order, never more than it may, never what has been used."""

import numpy as np
import pytest

from pagemill.engine import reserve
from pagemill.engine.engine import Engine
from pagemill.engine.pages import PagePool
from pagemill.engine.reserve import RESERVE_BYTES, SLICE_BYTES, Preparable, Reserve
from pagemill.engine.sequence import Sequence
from pagemill.ops.reference import ReferenceOps
from tests.fakes import RecallModel, request, run
from tests.samples import engine_plan

PAGES_A_SLICE = 4
PAGE_BYTES = SLICE_BYTES // PAGES_A_SLICE
PAGES_AHEAD = RESERVE_BYTES // PAGE_BYTES


class Cache:
    """Notes what memory it was asked to take."""

    def __init__(self, num_pages: int, able: bool = True) -> None:
        self.nbytes = num_pages * PAGE_BYTES
        self.able = able
        self.taken: list[tuple[int, int]] = []

    def prepare(self, first: int, last: int) -> bool:
        self.taken.append((first, last))
        return self.able


def use(pool: PagePool, num_pages: int) -> Sequence:
    seq = Sequence(request(0, range(num_pages * pool.page_size)), 0, 0.0)
    assert pool.grow(seq, num_pages * pool.page_size)
    return seq


def reserved(num_pages: int, able: bool = True) -> tuple[PagePool, Cache, Reserve]:
    pool, cache = PagePool(num_pages, page_size=4), Cache(num_pages, able)
    return pool, cache, Reserve(pool, cache)


def test_slices_follow_each_other_up_to_the_limit() -> None:
    _, cache, ahead = reserved(10 * PAGES_AHEAD)
    while ahead.extend():
        pass
    starts = range(0, PAGES_AHEAD, PAGES_A_SLICE)
    assert cache.taken == [(start, start + PAGES_A_SLICE) for start in starts]
    assert not ahead.extend()
    assert len(cache.taken) == len(starts), "nothing is taken twice"


def test_a_small_cache_is_taken_whole() -> None:
    _, cache, ahead = reserved(PAGES_A_SLICE + 1)
    assert (ahead.extend(), ahead.extend(), ahead.extend()) == (True, True, False)
    assert cache.taken == [(0, PAGES_A_SLICE), (PAGES_A_SLICE, PAGES_A_SLICE + 1)]


def test_it_stays_ahead_of_what_is_used() -> None:
    pool, cache, ahead = reserved(10 * PAGES_AHEAD)
    while ahead.extend():
        pass
    pool.release(use(pool, 2 * PAGES_AHEAD + 1))
    cache.taken.clear()
    while ahead.extend():
        pass
    assert cache.taken[0][0] == 2 * PAGES_AHEAD + 1, "used pages have their memory"
    assert cache.taken[-1][1] == 3 * PAGES_AHEAD + 1
    cache.taken.clear()
    pool.release(use(pool, PAGES_AHEAD))
    assert not ahead.extend() and not cache.taken, "used again, they are no news"


def test_a_system_that_cannot_is_asked_once() -> None:
    _, cache, ahead = reserved(100, able=False)
    assert not ahead.extend() and not ahead.extend()
    assert len(cache.taken) == 1


def test_a_page_larger_than_a_slice_is_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "SLICE_BYTES", PAGE_BYTES - 1)
    _, cache, ahead = reserved(8)
    assert ahead.extend()
    assert cache.taken == [(0, 1)]


def test_an_engine_prepares_a_cache_that_can_be() -> None:
    class Pages(np.ndarray):  # type: ignore[type-arg]
        taken = 0

        def prepare(self, first: int, last: int) -> bool:
            Pages.taken = last
            return True

    plan, model = engine_plan(), RecallModel()
    kv = model.new_kv(plan.num_pages, plan.page_size)
    assert not Engine(model, ReferenceOps(), kv, plan, model.vocab_size).prepare()
    pages = kv.view(Pages)
    assert isinstance(pages, Preparable)
    engine = Engine(model, ReferenceOps(), pages, plan, model.vocab_size)
    while engine.prepare():
        pass
    assert Pages.taken == plan.num_pages
    order = request("a", range(10), 5)
    engine.add(order)
    assert tuple(d.token_ids[0] for d in run(engine)["a"]) == model.answer(order)
    assert not engine.prepare()
