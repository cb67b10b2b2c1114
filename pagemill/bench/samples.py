"""What one request took, and what many took together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from pagemill.bench.load import Aim, Level

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Seconds; `asked` counts from the level's start, all others from `asked`."""

    asked: float  # when it was due to go out: a client that is late does not flatter a server
    late: float
    first: float  # token
    last: float
    end: float
    gaps: tuple[float, ...]  # between pieces of text as they came
    wanted: int
    tokens: int
    counted: str  # who counted them: "usage" or "pieces"
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    finish: str = ""
    error: str = ""

    @property
    def good(self) -> bool:
        return not self.error

    @property
    def per_token(self) -> float | None:
        """Seconds a token, after the first."""
        return (self.last - self.first) / (self.tokens - 1) if self.tokens > 1 else None

    def meets(self, aim: Aim) -> bool:
        """Whether every limit is kept; a time that does not exist is no breach."""
        times = {"ttft": self.first, "tpot": self.per_token or 0.0, "e2e": self.end}
        return self.good and all(times[name] <= limit for name, limit in aim.limits)


@dataclass(frozen=True, slots=True)
class Spread:
    """How values lie, in their unit."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None for no values."""
        if not values:
            return None
        ordered = sorted(values)
        return cls(fmean(ordered), *(percentile(ordered, share) for share in PERCENTILES))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values, linear between the two nearest."""
    place = (len(ordered) - 1) * share / 100
    below, part = int(place), place - int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + part * (ordered[above] - ordered[below])


@dataclass(frozen=True, slots=True)
class Run:
    """One level of load on one server, as measured."""

    level: Level
    samples: tuple[Sample, ...]
    wall: float  # seconds from the first request to the end of the last answer
    client_cpu: float  # seconds of CPU that this program took meanwhile
    stopped: bool = False  # by Ctrl-C: what was under way is not among the samples


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers. Times in seconds; None where nothing says it."""

    level: str
    amount: float  # users, or requests a second
    requests: int
    good: int
    wall: float
    output_tokens: int
    prompt_tokens: int | None
    cached_tokens: int
    counted: str  # "usage", "pieces", or "usage and pieces"
    other_length: int  # answers that are not as long as was asked for
    tokens_per_s: float
    requests_per_s: float
    goodput: float | None  # requests a second that met the aim
    first_token: Spread | None
    gap: Spread | None
    per_token: Spread | None
    end_to_end: Spread | None
    late_p99: float
    client_us_per_token: float
    client_share: float  # of one core
    errors: tuple[tuple[str, int], ...]
    stopped: bool

    @classmethod
    def of(cls, run: Run, aim: Aim) -> Summary:
        """Latencies are those of good answers; their tokens make the throughput."""
        good = [sample for sample in run.samples if sample.good]
        tokens = sum(sample.tokens for sample in good)
        prompts = [sample.prompt_tokens for sample in good]
        known = [count for count in prompts if count is not None]
        errors = Counter(sample.error for sample in run.samples if sample.error)
        wall = run.wall or math.inf
        late = sorted(sample.late for sample in run.samples) or [0.0]
        return cls(
            level=str(run.level),
            amount=run.level.amount,
            requests=len(run.samples),
            good=len(good),
            wall=run.wall,
            output_tokens=tokens,
            prompt_tokens=sum(known) if known and len(known) == len(prompts) else None,
            cached_tokens=sum(sample.cached_tokens for sample in good),
            counted=" and ".join(sorted({sample.counted for sample in good}, reverse=True)),
            other_length=sum(sample.tokens != sample.wanted for sample in good),
            tokens_per_s=tokens / wall,
            requests_per_s=len(good) / wall,
            goodput=sum(s.meets(aim) for s in good) / wall if aim.limits else None,
            first_token=Spread.of([sample.first for sample in good]),
            gap=Spread.of([gap for sample in good for gap in sample.gaps]),
            per_token=Spread.of([s.per_token for s in good if s.per_token is not None]),
            end_to_end=Spread.of([sample.end for sample in good]),
            late_p99=percentile(late, 99),
            client_us_per_token=1e6 * run.client_cpu / tokens if tokens else 0.0,
            client_share=run.client_cpu / wall,
            errors=tuple(errors.most_common()),
            stopped=run.stopped,
        )


def middle(values: Sequence[float | None]) -> float | None:
    """The median of the values that are known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None
