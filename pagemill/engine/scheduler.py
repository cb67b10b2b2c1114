"""Scheduler: chooses how far each sequence advances in a step. There are no phases, only distance.

Two resources, two orders:

* Tokens. A step computes at most `budget` tokens. Every row that is one token behind is served
  before any row that is further behind, so a long prompt never stops those who are talking.
* Memory. Pages are given strictly in order of (priority, arrival), in one pass over the running and
  the waiting, merged. Whoever finds no page takes it from the last in that order, by preemption
  (its pages are released, it is queued again and will be recomputed). Everything already planned
  comes earlier in the order than the one that needs a page, so a victim is never part of the plan;
  and if the last in order is the one in need, it goes itself. The first in order can displace all
  others and fits alone by construction of the plan, so there is always progress.

Admission is first come first served within a priority. A waiting sequence comes in when fewer than
`max_seqs` run and a token of the budget and pages for *all* tokens it knows are there, beside what
the running still miss and one page more for each of them: an admission should not be undone by the
next few steps. If room or pages are short, sequences of strictly lower priority make way, the last
first.

Must not know: what tokens mean, how a step is computed, who is waiting for the answer.
"""

from bisect import insort

from pagemill.engine.pages import PagePool
from pagemill.engine.sequence import Sequence

Plan = list[tuple[Sequence, int]]  # who advances in this step, by how many tokens (at least one)


class Scheduler:
    """Holds every unfinished sequence, running (may hold pages) or waiting, both in order."""

    def __init__(self, pool: PagePool, budget: int, max_seqs: int) -> None:
        self.pool = pool
        self.budget = budget
        self.max_seqs = max_seqs
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.preemptions = 0
        self._state_slots = list(range(max_seqs))[::-1]  # free ones: whoever runs has one

    def add(self, seq: Sequence) -> None:
        """Queue a sequence behind all that go before it."""
        insort(self.waiting, seq, key=lambda other: other.order)

    def remove(self, seq: Sequence) -> None:
        """Forget a sequence, finished or not; its pages and its slot are free at once."""
        self.pool.release(seq)
        if seq.state_slot >= 0:
            self._state_slots.append(seq.state_slot)
            seq.state_slot = -1
        (self.running if seq in self.running else self.waiting).remove(seq)

    def preempt(self, seq: Sequence) -> None:
        """Queue a running sequence again; it gives back all that it holds."""
        self.remove(seq)
        self.add(seq)
        seq.preemptions += 1
        self.preemptions += 1

    def schedule(self, now: float) -> Plan:
        """Plan one step. Pages of all planned tokens are there, full ones are published."""
        plan: Plan = []
        for_near = min(self.budget, sum(seq.behind == 1 for seq in self.running))
        for_far = self.budget - for_near
        admitting = True
        at = 0  # running[:at] are decided
        while True:
            if admitting and self._next_is_waiting(at):
                admitting = for_far > 0 and self._admit(at, now)
                if not admitting:
                    continue
                take = min(self.running[at].behind, for_far)
                for_far -= take
            elif at == len(self.running):
                return plan
            elif self.running[at].behind == 1:
                take = min(1, for_near)
                for_near -= take
            else:
                take = min(self.running[at].behind, for_far)
                for_far -= take
            seq = self.running[at]
            if take == 0:
                at += 1  # no budget, or its last token is in flight: keeps its pages if it can
            elif self._make_room(seq, seq.computed_len + take):
                self.pool.publish(seq, seq.computed_len + take)
                plan.append((seq, take))
                at += 1

    def _next_is_waiting(self, at: int) -> bool:
        """Whether the next in order is the first of the waiting, not running[at]."""
        if not self.waiting:
            return False
        return at == len(self.running) or self.waiting[0].order < self.running[at].order

    def _admit(self, at: int, now: float) -> bool:
        """Move the first of the waiting to running[at], displacing lower priorities if it must."""
        seq = self.waiting[0]
        found = self.pool.find(seq)
        while len(self.running) >= self.max_seqs or not self._fits(seq, found):
            if not self.running or self.running[-1].priority <= seq.priority:
                return False
            self.preempt(self.running[-1])
        del self.waiting[0]
        self.running.insert(at, seq)
        self.pool.adopt(seq, found)
        seq.state_slot = self._state_slots.pop()
        if seq.started is None:
            seq.started = now
        return True

    def _fits(self, seq: Sequence, found: list[int]) -> bool:
        promised = sum(map(self.pool.missing, self.running)) + len(self.running)
        need = self.pool.missing(seq) - len(found)
        return need + promised <= self.pool.room_beside(found)

    def _make_room(self, seq: Sequence, end: int) -> bool:
        """Pages for the first `end` tokens of `seq`. False: it was the last and went itself."""
        while not self.pool.grow(seq, end):
            victim = self.running[-1]
            self.preempt(victim)
            if victim is seq:
                return False
        return True
