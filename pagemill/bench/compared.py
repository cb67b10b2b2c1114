"""Several servers under the same load: medians of the rounds, ratios, and where one overtakes
another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from pagemill.bench.load import Load
from pagemill.bench.measure import Measured
from pagemill.bench.samples import Spread, Summary, middle


@dataclass(frozen=True, slots=True)
class Standing:
    """One server at one level: medians over the rounds. Seconds."""

    server: str
    level: str
    amount: float
    rounds: int
    requests: int  # of all rounds
    good: int
    tokens_per_s: float | None
    requests_per_s: float | None
    goodput: float | None
    first_token_p50: float | None
    first_token_p99: float | None
    gap_p50: float | None
    gap_p99: float | None
    end_to_end_p50: float | None


@dataclass(frozen=True, slots=True)
class Crossing:
    """`server` is better than `other` from about `amount` users on."""

    measure: str
    server: str
    other: str
    amount: float
    between: tuple[float, float]  # levels that were measured


def standings(found: Sequence[Measured], load: Load) -> list[Standing]:
    """By level, servers in the order they were named."""
    servers = list(dict.fromkeys(measured.target.name for measured in found))
    return [
        _standing(server, level.amount, str(level), mine)
        for level in load.levels
        for server in servers
        if (
            mine := [
                Summary.of(measured.run, load.aim)
                for measured in found
                if measured.target.name == server and measured.run.level == level
            ]
        )
    ]


def _standing(server: str, amount: float, level: str, runs: Sequence[Summary]) -> Standing:
    def of(read: Callable[[Summary], Spread | None], name: str) -> float | None:
        spreads = [read(run) for run in runs]
        return middle([None if spread is None else getattr(spread, name) for spread in spreads])

    return Standing(
        server=server,
        level=level,
        amount=amount,
        rounds=len(runs),
        requests=sum(run.requests for run in runs),
        good=sum(run.good for run in runs),
        tokens_per_s=middle([run.tokens_per_s for run in runs]),
        requests_per_s=middle([run.requests_per_s for run in runs]),
        goodput=middle([run.goodput for run in runs]),
        first_token_p50=of(lambda run: run.first_token, "p50"),
        first_token_p99=of(lambda run: run.first_token, "p99"),
        gap_p50=of(lambda run: run.gap, "p50"),
        gap_p99=of(lambda run: run.gap, "p99"),
        end_to_end_p50=of(lambda run: run.end_to_end, "p50"),
    )


MEASURES: Sequence[tuple[str, Callable[[Standing], float | None], bool]] = (
    ("throughput", lambda standing: standing.tokens_per_s, True),
    ("first token (p50)", lambda standing: standing.first_token_p50, False),
)  # and whether more is better


def crossings(all_: Sequence[Standing]) -> list[Crossing]:
    """Where the lines of two servers cross between levels; straight between what was measured."""
    found = []
    servers = list(dict.fromkeys(standing.server for standing in all_))
    for name, read, more in MEASURES:
        lines = {
            server: {
                s.amount: value
                for s in all_
                if s.server == server and (value := read(s)) is not None
            }
            for server in servers
        }
        for one, other in combinations(servers, 2):
            amounts = sorted(lines[one].keys() & lines[other].keys())
            ahead = [
                (lines[one][x] - lines[other][x]) * (1 if more else -1) for x in amounts
            ]  # over 0: `one` is better
            for i in range(len(amounts) - 1):
                if ahead[i] * ahead[i + 1] >= 0:
                    continue
                low, high = amounts[i], amounts[i + 1]
                at = low + (high - low) * ahead[i] / (ahead[i] - ahead[i + 1])
                better, worse = (one, other) if ahead[i + 1] > 0 else (other, one)
                found.append(Crossing(name, better, worse, at, (low, high)))
    return found
