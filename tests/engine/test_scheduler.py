"""Scheduler: who advances, who waits, who makes way."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pagemill.engine.pages import PagePool
from pagemill.engine.scheduler import Plan, Scheduler
from pagemill.engine.sequence import Sequence
from tests.fakes import request


class Bench:
    """A scheduler without an engine: each step, whoever reaches its last token gets another one."""

    def __init__(
        self, *, num_pages: int = 64, page_size: int = 4, budget: int = 16, max_seqs: int = 8
    ) -> None:
        self.pool = PagePool(num_pages, page_size)
        self.scheduler = Scheduler(self.pool, budget, max_seqs)
        self.num_added = 0

    def add(self, prompt_len: int, priority: int = 0) -> Sequence:
        """Queue a prompt like no other."""
        number = self.num_added
        self.num_added += 1
        prompt = tuple(1000 * number + i for i in range(prompt_len))
        seq = Sequence(request(number, prompt, 100, priority=priority), number, 0.0)
        self.scheduler.add(seq)
        return seq

    def step(self) -> Plan:
        plan = self.scheduler.schedule(0.0)
        assert sum(take for _, take in plan) <= self.scheduler.budget
        assert len(self.scheduler.running) <= self.scheduler.max_seqs
        for queue in (self.scheduler.running, self.scheduler.waiting):
            assert queue == sorted(queue, key=lambda seq: seq.order)
        planned = [seq for seq, _ in plan]
        assert len(set(planned)) == len(planned) and set(planned) <= set(self.scheduler.running)
        for seq, take in plan:
            assert 0 < take <= seq.behind
            assert seq.pages.size * self.pool.page_size >= seq.computed_len + take
            seq.computed_len += take
            if not seq.behind:
                seq.expect(0)
                seq.know(7)
        self.pool.check(self.scheduler.running)
        return plan


def test_a_prompt_is_cut_to_the_budget() -> None:
    bench = Bench(budget=16)
    seq = bench.add(40)
    assert [bench.step() for _ in range(4)] == [[(seq, n)] for n in (16, 16, 8, 1)]


def test_a_long_prompt_does_not_stop_those_who_answer() -> None:
    bench = Bench(budget=16)
    long = bench.add(48)
    late = bench.add(4)
    early = bench.add(3, priority=-1)
    plans = [dict(bench.step()) for _ in range(4)]
    assert [plan.get(early) for plan in plans] == [3, 1, 1, 1]
    assert [plan.get(long) for plan in plans] == [13, 15, 15, 5]
    assert [plan.get(late) for plan in plans] == [None, None, None, 4]
    assert dict(bench.step()) == {early: 1, long: 1, late: 1}


def test_answers_come_first_even_before_an_earlier_prompt() -> None:
    bench = Bench(budget=8)
    prompt = bench.add(40)
    bench.step()
    answering = [bench.add(1) for _ in range(3)]
    for seq in answering:  # as if they had been admitted and computed beside it
        bench.scheduler.waiting.remove(seq)
        bench.scheduler.running.append(seq)
    assert dict(bench.step()) == {prompt: 5} | dict.fromkeys(answering, 1)


def test_first_come_first_served_within_a_priority() -> None:
    bench = Bench(budget=100, max_seqs=2)
    seqs = [bench.add(3) for _ in range(4)]
    assert [seq for seq, _ in bench.step()] == seqs[:2]
    bench.scheduler.remove(seqs[0])
    assert [seq for seq, _ in bench.step()] == seqs[1:3]


def test_a_big_prompt_is_not_overtaken_by_a_small_one_of_its_priority() -> None:
    bench = Bench(num_pages=8)
    first, big, small = bench.add(12), bench.add(24), bench.add(1)
    assert [seq for seq, _ in bench.step()] == [first]
    assert bench.scheduler.waiting == [big, small]


def test_the_last_makes_way_when_pages_run_out_and_comes_back() -> None:
    bench = Bench(num_pages=6)
    first, second = bench.add(7), bench.add(7)
    while not second.preemptions:
        bench.step()
    assert bench.scheduler.running == [first] and bench.scheduler.waiting == [second]
    known = second.tokens.size
    bench.scheduler.remove(first)
    bench.step()
    assert bench.scheduler.running == [second] and second.tokens.size == known + 1
    assert bench.scheduler.preemptions == second.preemptions == 1


def test_an_earlier_prompt_takes_pages_from_a_later_answer() -> None:
    """Tokens go to answers first, pages do not: both orders meet in one step."""
    bench = Bench(num_pages=8, page_size=4, budget=8)
    late = bench.add(4, priority=1)
    bench.step()
    early = bench.add(26)
    plans = [dict(bench.step()) for _ in range(5)]
    assert late.preemptions == 1
    assert plans[0] == {early: 7}, "all it knows must fit beside the later one, so that one goes"
    assert early.preemptions == 0


def test_a_higher_priority_takes_a_slot() -> None:
    bench = Bench(budget=100, max_seqs=2)
    low = [bench.add(3, priority=5), bench.add(3, priority=5)]
    bench.step()
    high = bench.add(3, priority=1)
    assert [seq for seq, _ in bench.step()] == [high, low[0]]
    assert bench.scheduler.waiting == [low[1]]


def test_an_equal_priority_takes_nothing() -> None:
    bench = Bench(budget=100, max_seqs=2)
    running = [bench.add(3), bench.add(3)]
    bench.step()
    bench.add(3)
    assert [seq for seq, _ in bench.step()] == running


def test_a_higher_priority_takes_pages_from_the_last_first() -> None:
    bench = Bench(num_pages=10, budget=100)
    middle, low = bench.add(8, priority=1), bench.add(8, priority=2)
    bench.step()
    high = bench.add(12, priority=0)
    assert [seq for seq, _ in bench.step()] == [high, middle]
    assert bench.scheduler.waiting == [low]


def test_those_who_arrive_together_share_a_page_in_the_step_that_fills_it() -> None:
    bench = Bench(budget=200, max_seqs=64, num_pages=200)
    prompt = tuple(range(90))
    together = [Sequence(request(i, prompt, 9), i, 0.0) for i in range(32)]
    for seq in together:
        bench.scheduler.add(seq)
    plan = dict(bench.step())
    assert plan == {together[0]: 90} | dict.fromkeys(together[1:], 2)
    shared = together[0].pages.tolist()[:22]
    assert all(seq.pages.tolist()[:22] == shared for seq in together)


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_schedules_keep_every_invariant_and_come_to_an_end(seed: int) -> None:
    chance = random.Random(seed)
    page_size, most = chance.choice([1, 3, 4, 16]), 24
    bench = Bench(
        num_pages=-(-most // page_size) + chance.choice([0, 1, 5, 60]),
        page_size=page_size,
        budget=chance.choice([1, 2, 5, 100]),
        max_seqs=chance.choice([1, 2, 8]),
    )
    scheduler = bench.scheduler
    to_add = 12
    for _ in range(1500):
        while to_add and chance.random() < 0.4:
            bench.add(chance.randint(1, most - 4), priority=chance.choice([0, 0, 1]))
            to_add -= 1
        if scheduler.running and chance.random() < 0.02:
            scheduler.remove(chance.choice(scheduler.running))
        before = {seq: seq.order for seq in scheduler.running}
        plan = bench.step()
        gone = set(before) - set(scheduler.running)
        assert all(seq not in dict(plan) for seq in gone)
        for seq in [s for s in scheduler.running if s.tokens.size >= most]:
            scheduler.remove(seq)
        if not (to_add or scheduler.running or scheduler.waiting):
            break
    assert not (to_add or scheduler.running or scheduler.waiting), "somebody starved"
    assert bench.pool.num_free == bench.pool.num_pages
