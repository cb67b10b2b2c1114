"""What one rendering of a chat template may use up: steps, depth, characters and processor time.

Owns the counters and the sizes of values. It must not know how templates run. Limits end templates
that are wrong or hostile; the largest honest ones stay a hundred times below.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context

from pagemill.errors import InvalidRequest


class BudgetExceeded(InvalidRequest):
    """Rendering was cut off. The message names the limit."""

    code = "template_limit"


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """Limits of one rendering. Lengths of texts that go in are added to the two of characters."""

    steps: int = 1_000_000  # loop turns, calls and filters
    depth: int = 40  # of calls within calls
    nesting: int = 64  # of lists within lists
    value_chars: int = 1 << 20  # of any one value, as if written out in full
    total_chars: int = 1 << 26  # of all values made
    seconds: float = (
        2.0  # of this thread's processor time: other work on the machine is not counted
    )
    int_bits: int = 256
    range_items: int = 100_000


class Budget:
    """The counters of one rendering, for one thread."""

    __slots__ = ("_chars_left", "_deadline", "_depth", "_steps_left", "limits", "value_chars")

    _STEPS_A_LOOK = 64  # looking at the clock costs more than a step

    def __init__(self, limits: TemplateLimits, input_chars: int) -> None:
        self.limits = limits
        self.value_chars = limits.value_chars + 4 * input_chars
        self._depth = 0
        self._chars_left = limits.total_chars + 64 * input_chars
        self._steps_left = limits.steps
        self._deadline = time.thread_time() + limits.seconds

    def step(self) -> None:
        """Count one loop turn, call or filter."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise _exceeded("steps", self.limits.steps)
        if self._steps_left % self._STEPS_A_LOOK == 0:
            self._look_at_clock()

    def charge(self, chars: int) -> None:
        """Count the characters of one value, made or about to be made."""
        if chars > self.value_chars:
            raise _exceeded("characters in one value", self.value_chars)
        self._chars_left -= chars
        if self._chars_left < 0:
            raise _exceeded("characters in all values", self.limits.total_chars)
        if chars > 1 << 14:
            self._look_at_clock()

    def weigh(self, value: object) -> None:
        """Charge a value as if written out: a list that holds another twice counts it twice. So no
        value exists whose printing or comparing would take much longer than its making.
        """
        if isinstance(value, str):
            self.charge(len(value))
        elif isinstance(value, int):
            self.count_bits(value.bit_length())
        elif isinstance(value, list | tuple | Mapping):
            self.charge(self._weight(value, 1))

    def enter(self) -> None:
        """Count a call; `leave` ends it."""
        self._depth += 1
        if self._depth > self.limits.depth:
            raise _exceeded("calls within calls", self.limits.depth)

    def leave(self) -> None:
        self._depth -= 1

    def count_bits(self, bits: int) -> None:
        """Refuse a number that would get too long."""
        if bits > self.limits.int_bits:
            raise _exceeded("bits in a number", self.limits.int_bits)

    def count_range(self, items: range) -> None:
        """Refuse a range that is too long."""
        # A slice, for len() fails on ranges past the size of a pointer.
        if items[self.limits.range_items : self.limits.range_items + 1]:
            raise _exceeded("numbers in a range", self.limits.range_items)

    def _weight(self, items: Iterable[object], level: int) -> int:
        if level > self.limits.nesting:
            raise _exceeded("lists within lists", self.limits.nesting)
        total = 2
        members = items
        if isinstance(items, Mapping):
            total += 2 * len(items)
            members = [*items.keys(), *items.values()]
        for member in members:
            if isinstance(member, str):
                total += len(member) + 2
            elif isinstance(member, list | tuple | Mapping):
                total += self._weight(member, level + 1)
            elif member is None or isinstance(member, int | float | jinja2.Undefined):
                total += 8
            else:
                # Above all namespaces: these change after they were weighed.
                kind = type(member).__name__
                raise SecurityError(f"a {kind} cannot be part of a list or mapping")
            # Stops at the limit: a value that holds another a million times is not walked through.
            if total > self.value_chars:
                raise _exceeded("characters in one value", self.value_chars)
        return total

    def _look_at_clock(self) -> None:
        if time.thread_time() > self._deadline:
            raise _exceeded("seconds", self.limits.seconds)


class BudgetContext(Context):
    """Jinja's variables of one rendering, with its budget."""

    budget: Budget

    def derived(self, locals: dict[str, Any] | None = None) -> "BudgetContext":
        context = super().derived(locals)
        assert isinstance(context, BudgetContext)
        context.budget = self.budget
        return context


def _exceeded(what: str, limit: float) -> BudgetExceeded:
    return BudgetExceeded(
        f"the chat template was stopped: more than {limit} {what}", param="messages"
    )
