"""Regular expressions from model files: which of them take bounded time on any text.

Owns a reading of their structure. The library's engine (Oniguruma) backtracks: it tries ways to
match until one does, and gives up only after ten million. Here the ways are counted beforehand,
for the worst text there may be.
"""

import re
from dataclasses import dataclass
from typing import NoReturn

MAX_LENGTH = 4096
MAX_WAYS = 64  # of matching at one place, apart from the lengths of runs
_MAX_NESTING = 32
_MAX_REPEAT = 4096  # characters that a part of fixed length may have
_LONG = 8  # a repetition of more than that is a run

_BRACES = re.compile(r"\{(?:(\d{1,5})(,?)(\d{0,5})|,(\d{1,5}))\}")
_GROUP = re.compile(r"\?(?::|>|[imx-]*:|<?[=!]|<[A-Za-z_]\w*>)|(?!\?)")
_ESCAPE = re.compile(
    r"[pP]\{\^?\w+\}|x\{[0-9A-Fa-f]{1,6}\}|x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|[^pPxu0-9kg\w]|[aefnrtvsSdDwWhHNbBAzZG0]"
)
_ASSERTIONS = frozenset("bBAzZG")


class TooCostly(ValueError):
    """Why an expression is not used."""


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of a part: its `length` if that is fixed, whether it can fail to match, `runs` that are given
    back character by character if what follows fails, the `ways` of matching it otherwise.
    `open_run`: it ends in a run; `retried`: a run in it is followed by something that can fail.
    """

    length: int | None = 0
    fails: bool = False
    runs: int = 0
    retried: int = 0
    ways: int = 1


def check(expression: str, *, linear: bool = False) -> None:
    """TooCostly unless trying to match at one place costs at most the length of the text, times
    MAX_WAYS. `linear`: unless all places of a text together cost no more than that.
    """
    if len(expression) > MAX_LENGTH:
        raise TooCostly(f"has {len(expression)} characters, the limit is {MAX_LENGTH}")
    cost = _Reader(expression).read()
    if cost.retried > (0 if linear else 1):
        raise TooCostly("repeats a part, and what follows can make it try every shorter length")


class _Reader:
    def __init__(self, expression: str) -> None:
        self._text = expression
        self._place = 0
        self._nesting = 0

    def read(self) -> _Cost:
        cost = self._alternatives()
        if self._place < len(self._text):
            self._refuse("has a ) too many")
        return cost

    def _alternatives(self) -> _Cost:
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            self._refuse(f"is nested deeper than {_MAX_NESTING} levels")
        costs = [self._sequence()]
        while self._take("|"):
            costs.append(self._sequence())
        self._nesting -= 1
        if len(costs) == 1:
            return costs[0]
        lengths = {cost.length for cost in costs}
        return _Cost(
            length=lengths.pop() if len(lengths) == 1 else None,
            fails=all(cost.fails for cost in costs),
            runs=max(cost.runs for cost in costs),
            retried=max(cost.retried for cost in costs),
            ways=sum(cost.ways for cost in costs),
        )

    def _sequence(self) -> _Cost:
        parts = []
        while self._place < len(self._text) and self._text[self._place] not in "|)":
            parts.append(self._repeated(self._atom()))
        total = _Cost()
        for part in parts:
            total = self._then(total, part)
        return total

    def _then(self, first: _Cost, second: _Cost) -> _Cost:
        ways = first.ways * second.ways
        if ways > MAX_WAYS:
            self._refuse(f"has more than {MAX_WAYS} ways to match at one place")
        fixed = first.length is not None and second.length is not None
        return _Cost(
            length=(first.length or 0) + (second.length or 0) if fixed else None,
            fails=first.fails or second.fails,
            runs=first.runs + second.runs,
            retried=max(first.retried, (first.runs if second.fails else 0)) + second.retried,
            ways=ways,
        )

    def _atom(self) -> _Cost:
        char = self._text[self._place]
        self._place += 1
        if char == "(":
            return self._group()
        if char == "[":
            self._char_class()
        elif char == "\\":
            match = _ESCAPE.match(self._text, self._place)
            if not match:
                self._refuse("refers to another part of itself, or escapes what is unknown")
            self._place = match.end()
            if match[0] in _ASSERTIONS:
                return _Cost(fails=True)
        elif char in "^$":
            return _Cost(fails=True)
        elif char in "*+?":
            self._refuse("repeats nothing")
        return _Cost(length=1, fails=True)

    def _group(self) -> _Cost:
        match = _GROUP.match(self._text, self._place)
        if not match:
            self._refuse("has a group of an unknown kind")
        kind = match[0]
        self._place = match.end()
        cost = self._alternatives()
        if not self._take(")"):
            self._refuse("has a group without end")
        if kind.endswith(("=", "!")):  # it is left for good once it has matched or failed
            return _Cost(fails=True, retried=max(cost.retried, cost.runs), ways=cost.ways)
        if kind == "?>":
            return _Cost(cost.length, cost.fails, 0, cost.retried, cost.ways)
        return cost

    def _char_class(self) -> None:
        """Skip to its end. Classes stand in classes."""
        depth = 1
        self._take("^")
        self._take("]")
        while depth:
            if self._place >= len(self._text):
                self._refuse("has a [ without end")
            char = self._text[self._place]
            self._place += 2 if char == "\\" else 1
            depth += (char == "[") - (char == "]")
            if depth > _MAX_NESTING:
                self._refuse(f"is nested deeper than {_MAX_NESTING} levels")

    def _repeated(self, cost: _Cost) -> _Cost:
        while (bounds := self._bounds()) is not None:
            low, high = bounds
            self._take("?")
            possessive = self._take("+")
            cost = self._times(cost, low, high)
            if possessive:
                cost = _Cost(cost.length, cost.fails, 0, cost.retried, 1)
        return cost

    def _times(self, cost: _Cost, low: int, high: int | None) -> _Cost:
        fails = cost.fails and low > 0
        if low == high and cost.length is not None and not cost.runs and cost.ways == 1:
            length = cost.length * low
            if length > _MAX_REPEAT:
                self._refuse(f"repeats {length} characters, the limit is {_MAX_REPEAT}")
            return _Cost(length, fails, retried=cost.retried)
        if high is None or high > _LONG:
            if cost.runs or cost.ways > 1 or not cost.length:
                self._refuse("repeats a part that can match one text in several ways")
            return _Cost(None, fails, runs=1, retried=cost.retried)
        if cost.runs and high > 1:
            self._refuse("repeats a part that repeats")
        ways = cost.ways**high * (high - low + 1)
        return _Cost(None, fails, cost.runs, cost.retried, ways)

    def _bounds(self) -> tuple[int, int | None] | None:
        if self._take("*"):
            return 0, None
        if self._take("+"):
            return 1, None
        if self._take("?"):
            return 0, 1
        match = _BRACES.match(self._text, self._place)
        if not match:
            return None
        self._place = match.end()
        low, comma, high, only_high = match.groups()
        if only_high:
            return 0, int(only_high)
        return int(low), int(high) if high else None if comma else int(low)

    def _take(self, char: str) -> bool:
        if self._text.startswith(char, self._place):
            self._place += 1
            return True
        return False

    def _refuse(self, why: str) -> NoReturn:
        raise TooCostly(f"{why}, at its character {self._place}")
