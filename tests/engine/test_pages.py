"""PagePool: sharing by content, eviction order, and its invariants under random use."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemill.engine.pages import PagePool
from pagemill.engine.sequence import Sequence
from tests.fakes import request


def sequence(prompt: range | tuple[int, ...], salt: str = "", number: int = 0) -> Sequence:
    return Sequence(request(number, prompt, cache_salt=salt), number, 0.0)


def computed(pool: PagePool, seq: Sequence) -> Sequence:
    """`seq` after a step that computed all it knows."""
    pool.adopt(seq, pool.find(seq))
    assert pool.grow(seq, seq.tokens.size)
    pool.publish(seq, seq.tokens.size)
    seq.computed_len = seq.tokens.size
    return seq


def test_full_pages_of_an_equal_prefix_are_found() -> None:
    pool = PagePool(16, page_size=4)
    first = computed(pool, sequence(range(11)))
    assert pool.find(sequence(range(11))) == first.pages.tolist()[:2]
    assert pool.find(sequence((*range(8), 99))) == first.pages.tolist()[:2]
    assert pool.find(sequence((*range(7), 99, 8))) == first.pages.tolist()[:1]


def test_the_last_token_is_never_found() -> None:
    pool = PagePool(16, page_size=4)
    first = computed(pool, sequence(range(8)))
    assert pool.find(sequence(range(8))) == first.pages.tolist()[:1]
    assert pool.find(sequence(range(9))) == first.pages.tolist()[:2]


def test_an_equal_page_after_another_history_is_not_found() -> None:
    pool = PagePool(16, page_size=2)
    computed(pool, sequence((1, 2, 3, 4, 5)))
    assert pool.find(sequence((3, 4, 5))) == []


@pytest.mark.parametrize(
    ("mine", "theirs"), [("", "a"), ("a", "b"), ("pagemill:page:", ""), ("\ud800", "")]
)
def test_salts_separate_caches(mine: str, theirs: str) -> None:
    pool = PagePool(16, page_size=4)
    computed(pool, sequence(range(9), salt=mine))
    assert pool.find(sequence(range(9), salt=theirs)) == []
    assert len(pool.find(sequence(range(9), salt=mine))) == 2


def test_without_caching_nothing_is_found() -> None:
    pool = PagePool(16, page_size=4, caching=False)
    pool.release(computed(pool, sequence(range(9))))
    assert pool.find(sequence(range(9))) == []


def test_a_freed_page_is_found_until_it_is_taken() -> None:
    pool = PagePool(3, page_size=4)
    pool.release(computed(pool, sequence(range(12))))
    assert pool.num_free == 3
    again = sequence((*range(12), 1))
    assert len(pool.find(again)) == 3
    assert pool.room_beside(pool.find(again)) == 0
    computed(pool, sequence(range(50, 54)))
    assert len(pool.find(again)) == 2, "the end of the chain goes first"


def test_pages_without_content_go_before_cached_ones_and_old_chains_before_new() -> None:
    pool = PagePool(6, page_size=4)
    old, new = computed(pool, sequence(range(9))), computed(pool, sequence(range(20, 29)))
    pool.release(old)
    pool.release(new)
    computed(pool, sequence(range(40, 47)))  # two pages that held nothing to share
    assert len(pool.find(sequence(range(9)))) == 2
    computed(pool, sequence(range(60, 64)))
    assert len(pool.find(sequence(range(9)))) == 1
    assert len(pool.find(sequence(range(20, 29)))) == 2


def test_grow_without_room_changes_nothing() -> None:
    pool = PagePool(2, page_size=4)
    seq = sequence(range(9))
    assert not pool.grow(seq, 9)
    assert (seq.pages.size, pool.num_free) == (0, 2)


def test_hits_are_counted_in_tokens_and_once_per_request() -> None:
    pool = PagePool(16, page_size=4)
    computed(pool, sequence(range(10)))
    seq = computed(pool, sequence(range(10)))
    assert (pool.prefix_queries, pool.prefix_hits, seq.cached_tokens) == (20, 8, 8)
    pool.release(seq)
    computed(pool, seq)
    assert (pool.prefix_queries, pool.prefix_hits, seq.cached_tokens) == (20, 8, 8)


def test_forgotten_pages_are_not_found() -> None:
    pool = PagePool(16, page_size=4)
    seq = computed(pool, sequence(range(10)))
    pool.forget(seq)
    pool.release(seq)
    assert pool.find(sequence(range(10))) == []
    pool.check([])


@settings(max_examples=60, deadline=None)
@given(page_size=st.sampled_from([1, 3, 4]), caching=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_invariants_hold_under_random_use(page_size: int, caching: bool, seed: int) -> None:
    chance = random.Random(seed)
    pool = PagePool(12, page_size, caching)
    holders: list[Sequence] = []
    for number in range(40):
        match chance.choice(["new", "new", "longer", "release", "forget"]):
            case "new":
                prompt = tuple(chance.choices((1, 2), k=chance.randint(1, 10)))
                seq = sequence(prompt, number=number)
                found = pool.find(seq)
                if pool.missing(seq) - len(found) <= pool.room_beside(found):
                    holders.append(computed(pool, seq))
            case "longer" if holders:
                seq = chance.choice(holders)
                if pool.grow(seq, seq.tokens.size + 1):
                    seq.tokens.append(chance.choice((1, 2)))
                    pool.publish(seq, seq.tokens.size)
                    seq.computed_len = seq.tokens.size
            case "release" if holders:
                pool.release(holders.pop(chance.randrange(len(holders))))
            case "forget" if holders:
                pool.forget(chance.choice(holders))
        pool.check(holders)
    for seq in holders:
        pool.release(seq)
    pool.check([])
    assert pool.num_free == 12
