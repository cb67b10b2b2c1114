"""What is sent: how many users or requests a second, how long prompts and answers are, and what
counts as good enough. Pure, and the same for every server that is compared.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pagemill.errors import InvalidRequest

MOST_TOKENS = 1 << 20
MOST_USERS = 10_000
FEWEST_REQUESTS = 8  # of a level: a percentile of fewer says nothing
RATE_S = 30.0  # how long requests arrive at a given rate, where nobody says
_NINETY_PERCENT = 2 * 1.6449  # standard deviations that hold so much of a normal distribution
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
SLO_NAMES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class Lengths:
    """A number of tokens, or a range they are drawn from.

    `skewed`: lognormal, many short and few long, with nine tenths of the draws within the range;
    the others are drawn again. Else every length of the range is as likely.
    """

    low: int
    high: int
    skewed: bool = False

    @classmethod
    def parse(cls, text: str, name: str) -> Lengths:
        """100, 50-200 or lognormal:50-200."""
        match = re.fullmatch(r"(lognormal:)?(\d+)(?:-(\d+))?", text.strip())
        low, high = (int(match[2]), int(match[3] or match[2])) if match else (0, 0)
        if match is None or not 1 <= low <= high <= MOST_TOKENS:
            raise InvalidRequest(
                f"{name} must be a number, a range as 50-200 or lognormal:50-200, "
                f"from 1 to {MOST_TOKENS}, not {text!r}"
            )
        return cls(low, high, skewed=bool(match[1]))

    def draw(self, rng: random.Random) -> int:
        """One length."""
        if self.low == self.high:
            return self.low
        if not self.skewed:
            return rng.randint(self.low, self.high)
        low, high = math.log(self.low), math.log(self.high)
        while True:
            drawn = round(rng.lognormvariate((low + high) / 2, (high - low) / _NINETY_PERCENT))
            if self.low <= drawn <= self.high:
                return drawn

    def __str__(self) -> str:
        if self.low == self.high:
            return str(self.low)
        return f"{'lognormal ' if self.skewed else ''}{self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Level:
    """How hard a server is pressed: so many users, each asking again when answered, or so many
    requests a second, whether answered or not (`users` is 0 then)."""

    users: int
    rate: float = 0.0

    @property
    def amount(self) -> float:
        return self.users or self.rate

    def __str__(self) -> str:
        if not self.users:
            return f"{self.rate:g} requests/s"
        return f"{self.users} user{'s' if self.users > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Aim:
    """Limits in seconds that a good answer keeps, by name: ttft, tpot, e2e."""

    limits: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Aim:
        """ttft=500ms,tpot=50ms"""
        limits = []
        for part in filter(None, text.replace(" ", "").split(",")):
            name, _, time = part.partition("=")
            match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s|m)", time)
            if name not in SLO_NAMES or match is None:
                raise InvalidRequest(
                    f"--slo takes {', '.join(SLO_NAMES)} with a time, as ttft=500ms, not {part!r}"
                )
            limits.append((name, float(match[1]) * _UNITS[match[2]]))
        return cls(tuple(limits))

    def __str__(self) -> str:
        return ", ".join(f"{name} at most {1e3 * limit:g} ms" for name, limit in self.limits)


@dataclass(frozen=True, slots=True)
class Load:
    """A whole measurement of one server."""

    levels: tuple[Level, ...]
    prompt: Lengths = Lengths(100, 100)
    output: Lengths = Lengths(200, 200)
    shared_prefix: int = 0
    requests: int = 0  # of a level, one a user at least; 0: also at least FEWEST_REQUESTS
    duration: float = 0.0  # seconds in which requests go out; 0: until all have
    warmup: int = 1
    seed: int = 1
    timeout: float = 600.0
    aim: Aim = Aim()
    knobs: Mapping[str, Any] = field(default_factory=dict)  # temperature and other body fields

    def __post_init__(self) -> None:
        if not self.levels:
            raise InvalidRequest("--concurrency or --rate must name at least one level")
        if self.shared_prefix >= self.prompt.low:
            raise InvalidRequest(
                f"--shared-prefix must be less than the shortest prompt ({self.prompt.low}), "
                f"not {self.shared_prefix}"
            )

    def limits(self, level: Level) -> tuple[int, float]:
        """How many requests, and for how many seconds; infinity for no limit of that kind."""
        if self.requests:
            return max(self.requests, level.users), self.duration or math.inf
        if self.duration or not level.users:
            return MOST_TOKENS, self.duration or RATE_S
        return max(level.users, FEWEST_REQUESTS), math.inf


def levels(users: str, rates: str) -> tuple[Level, ...]:
    """The levels of `--concurrency 1,8` or `--rate 0.5,2`; the latter wins."""
    if rates:
        return tuple(Level(0, _number(part, "--rate", 1e5)) for part in rates.split(","))
    found = [_number(part, "--concurrency", MOST_USERS) for part in users.split(",")]
    if any(number != int(number) for number in found):
        raise InvalidRequest(f"--concurrency must be whole numbers of users, not {users!r}")
    return tuple(Level(int(number)) for number in found)


def _number(text: str, name: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= most:
        raise InvalidRequest(f"{name} must be numbers over 0 and up to {most:g}, not {text!r}")
    return number
