"""What is asked for, as it is written; and what numbers come of samples."""

import random

import pytest

from pagemill.bench.load import Aim, Lengths, Level, Load, levels
from pagemill.bench.samples import Run, Sample, Spread, Summary, percentile
from pagemill.errors import InvalidRequest


def test_percentiles_lie_between_the_nearest() -> None:
    values = [float(v) for v in range(1, 101)]
    assert percentile(values, 50) == 50.5
    assert percentile(values, 99) == pytest.approx(99.01)
    assert percentile([7.0], 99) == 7.0
    assert Spread.of(values[::-1]) == Spread(
        50.5, 50.5, *(percentile(values, p) for p in (90, 95, 99))
    )
    assert Spread.of([]) is None


@pytest.mark.parametrize(
    ("text", "low", "high", "skewed"),
    [("100", 100, 100, False), ("50-200", 50, 200, False), ("lognormal:20-400", 20, 400, True)],
)
def test_lengths(text: str, low: int, high: int, skewed: bool) -> None:
    lengths = Lengths.parse(text, "--prompt-tokens")
    assert lengths == Lengths(low, high, skewed)
    rng = random.Random(1)
    drawn = sorted(lengths.draw(rng) for _ in range(2000))
    assert low <= drawn[0] and drawn[-1] <= high
    if high > low:
        middle = drawn[1000]
        expected = (low * high) ** 0.5 if skewed else (low + high) / 2
        assert middle == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("text", ["", "0", "200-50", "a", "normal:1-2", "1-2-3", "99999999"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="--output-tokens must be"):
        Lengths.parse(text, "--output-tokens")


def test_levels() -> None:
    assert levels("1,8", "") == (Level(1), Level(8))
    assert levels("1,8", "0.5,2") == (Level(0, 0.5), Level(0, 2))
    assert [str(level) for level in (*levels("1,8", ""), Level(0, 0.5))] == [
        *("1 user", "8 users", "0.5 requests/s")
    ]
    for users, rates in [("0", ""), ("1.5", ""), ("a", ""), ("20000", ""), ("1", "-1"), ("", "")]:
        with pytest.raises(InvalidRequest, match=r"--concurrency|--rate"):
            levels(users, rates)


def test_how_many_requests_a_level_has() -> None:
    load = Load(levels("50", ""))
    assert load.limits(Level(1)) == (8, float("inf"))
    assert load.limits(Level(50)) == (50, float("inf"))
    assert load.limits(Level(0, 2.0))[1] == 30
    assert Load(load.levels, requests=5).limits(Level(8)) == (8, float("inf"))
    assert Load(load.levels, duration=3).limits(Level(8))[1] == 3


def test_a_prefix_must_leave_room() -> None:
    with pytest.raises(InvalidRequest, match=r"--shared-prefix must be less .* \(100\), not 100"):
        Load(levels("1", ""), shared_prefix=100)


def test_aims() -> None:
    aim = Aim.parse("ttft=500ms, tpot=50ms,e2e=2s")
    assert aim.limits == (("ttft", 0.5), ("tpot", 0.05), ("e2e", 2.0))
    assert Aim.parse("") == Aim()
    for text in ("ttft", "ttft=5", "first=5ms", "ttft=-5ms", "ttft=ms"):
        with pytest.raises(InvalidRequest, match="--slo takes ttft, tpot, e2e"):
            Aim.parse(text)


def one(first: float, end: float, tokens: int, error: str = "") -> Sample:
    return Sample(0, 0, first, end, end, (), tokens, tokens, "usage", error=error)


def test_a_summary_is_of_good_answers() -> None:
    samples = (one(0.1, 1.1, 11), one(0.3, 1.3, 11), one(0.2, 0.2, 1), one(0, 9, 0, "broken"))
    run = Run(Level(4), samples, wall=2.0, client_cpu=0.23)
    summary = Summary.of(run, Aim.parse("ttft=250ms,tpot=100ms"))
    assert (summary.requests, summary.good, summary.output_tokens) == (4, 3, 23)
    assert summary.tokens_per_s == 11.5 and summary.requests_per_s == 1.5
    assert summary.goodput == 1.0  # the one with a single token has no time per token to fail
    assert summary.first_token is not None and summary.first_token.mean == pytest.approx(0.2)
    assert summary.per_token is not None and summary.per_token.p99 == pytest.approx(0.1)
    assert summary.gap is None
    assert summary.client_us_per_token == pytest.approx(10_000)
    assert summary.errors == (("broken", 1),)


def test_a_summary_of_nothing() -> None:
    summary = Summary.of(Run(Level(1), (), wall=0.0, client_cpu=0.0), Aim.parse("ttft=1s"))
    assert (summary.tokens_per_s, summary.goodput, summary.first_token) == (0, 0, None)
