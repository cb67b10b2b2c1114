"""Levels of load against a scripted server: what is timed, counted, refused, cut and stopped."""

import asyncio
import random
import time
from dataclasses import replace

import pytest

from pagemill.bench.load import Aim, Lengths, Level, Load
from pagemill.bench.measure import Measured, measure
from pagemill.bench.run import press
from pagemill.bench.samples import Run, Summary
from tests.bench.fake import Fake, Script, fake

SMALL = Load(
    (Level(2),), prompt=Lengths(20, 20), output=Lengths(5, 5), requests=6, warmup=0, timeout=5
)


class Counting:
    """A watch that counts."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended = 0

    def begin(self, what: str, total: int | None) -> None:
        self.begun.append(what)

    def one(self) -> None:
        self.ended += 1


async def pressed(server: Fake, load: Load = SMALL) -> Run:
    target = await server.target()
    return await press(target, load, load.levels[0], 0, "fresh", Counting())


@pytest.mark.parametrize("split", [0, 1, 7])
@pytest.mark.parametrize("chunked", [True, False])
async def test_every_token_is_seen_however_it_is_sent(chunked: bool, split: int) -> None:
    async with fake(Script(chunked=chunked, split=split)) as server:
        run = await pressed(server)
    assert len(run.samples) == 6
    for sample in run.samples:
        assert (sample.error, sample.tokens, sample.counted) == ("", 5, "usage")
        assert (len(sample.gaps), sample.finish, sample.prompt_tokens) == (4, "length", 20)


async def test_times_are_those_of_the_script() -> None:
    async with fake(Script(first=0.05, gap=0.02)) as server:
        run = await pressed(server)
        assert server.most_active == 2
    for sample in run.samples:
        assert 0.05 <= sample.first < 0.2
        assert all(0.01 < gap < 0.2 for gap in sample.gaps)
        assert sample.end >= sample.last >= 0.05 + 4 * 0.02
        assert sample.per_token is not None and 0.02 <= sample.per_token < 0.2
    assert run.wall >= 3 * (0.05 + 4 * 0.02)  # two users, six requests
    summary = Summary.of(run, Aim())
    assert summary.tokens_per_s == pytest.approx(30 / run.wall)
    assert summary.goodput is None


async def test_goodput_counts_what_meets_the_aim() -> None:
    async with fake(Script(first=0.05)) as server:
        run = await pressed(server)
    strict, easy = Aim.parse("ttft=10ms"), Aim.parse("ttft=10s,tpot=10s,e2e=10s")
    assert Summary.of(run, strict).goodput == 0
    assert Summary.of(run, easy).goodput == pytest.approx(6 / run.wall)


async def test_pieces_are_counted_where_nobody_says() -> None:
    async with fake(Script(usage=False, pieces_of=2)) as server:
        summary = Summary.of(await pressed(server), Aim())
    assert summary.counted == "pieces" and summary.prompt_tokens is None
    assert summary.output_tokens == 6 * 3 and summary.other_length == 6


async def test_short_answers_are_told() -> None:
    async with fake(Script(longest=3)) as server:
        summary = Summary.of(await pressed(server), Aim())
    assert (summary.output_tokens, summary.other_length, summary.counted) == (18, 6, "usage")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        (Script(cut_after=2), "the connection closed in the middle of the answer"),
        (Script(cut_after=2, chunked=False), "the stream ended early"),
        (Script(error_after=2), "the engine fell over"),
        (Script(refuse=lambda number: 429), "HTTP 429: told to refuse"),
    ],
)
async def test_failures_are_no_answers(script: Script, error: str) -> None:
    async with fake() as server:
        target = await server.target()
        server.script = script
        run = await press(target, SMALL, Level(2), 0, "fresh", Counting())
    assert {sample.error for sample in run.samples} == {error}
    summary = Summary.of(run, Aim.parse("ttft=10s"))
    assert (summary.good, summary.goodput, summary.tokens_per_s) == (0, 0, 0)
    assert summary.errors == ((error, 6),)


async def test_answers_that_never_come() -> None:
    async with fake() as server:
        target = await server.target()
        server.script = Script(first=60)
        load = replace(SMALL, timeout=0.05, requests=2)
        run = await press(target, load, Level(2), 0, "fresh", Counting())
    assert [sample.error for sample in run.samples] == ["no whole answer within 0.05 s"] * 2


async def test_a_server_that_goes_away() -> None:
    async with fake() as server:
        target = await server.target()
    run = await press(target, SMALL, Level(2), 0, "fresh", Counting())
    assert {sample.error for sample in run.samples} == {"connection refused"}


async def test_arrivals_do_not_wait_for_answers() -> None:
    load = replace(SMALL, levels=(Level(0, 200.0),), requests=20)
    async with fake(Script(first=0.3)) as server:
        run = await pressed(server, load)
        assert server.most_active == 20
    due = sorted(sample.asked for sample in run.samples)
    rng = random.Random("arrivals/1/200.0")
    expected = [0.0]
    for _ in range(19):
        expected.append(expected[-1] + rng.expovariate(200.0))
    assert due == pytest.approx(expected)
    assert all(sample.first >= 0.3 for sample in run.samples)


async def test_a_duration_ends_a_level() -> None:
    async with fake(Script(first=0.02)) as server:
        by_users = await pressed(server, replace(SMALL, requests=0, duration=0.2))
        rate = replace(SMALL, levels=(Level(0, 50.0),), requests=0, duration=0.2)
        by_rate = await pressed(server, rate)
    for run in (by_users, by_rate):
        assert 1 < len(run.samples) < 100 and all(sample.asked < 0.25 for sample in run.samples)


async def test_prompts_are_of_the_length_and_never_the_same() -> None:
    async with fake(Script(tokens_per_word=3)) as server:
        load = replace(SMALL, prompt=Lengths(50, 120), shared_prefix=40, requests=10)
        run = await pressed(server, load)
        prompts = [body["prompt"].split() for body in server.bodies]
    assert all(47 <= (sample.prompt_tokens or 0) <= 123 for sample in run.samples)
    assert len({len(prompt) for prompt in prompts}) > 3
    shared = {tuple(prompt[:12]) for prompt in prompts}
    assert len(shared) == 1  # 40 tokens, three of them the server's own
    assert len({tuple(prompt) for prompt in prompts}) == 10


async def test_a_stop_keeps_what_was_measured() -> None:
    async with fake(Script(first=0.05)) as server:
        target = await server.target()
        found: list[Measured] = []
        load = replace(SMALL, levels=(Level(1), Level(2)), requests=100)
        work = asyncio.create_task(measure([target], load, 1, Counting(), found))
        await asyncio.sleep(0.3)
        work.cancel()
        await work
    [only] = found
    assert only.run.stopped and 1 <= len(only.run.samples) < 10
    assert all(sample.good for sample in only.run.samples)


async def test_servers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagemill.bench.measure.SETTLE_S", 0.1)
    started = time.perf_counter()
    async with fake() as one, fake() as two:
        targets = [await one.target("one"), await two.target("two")]
        found: list[Measured] = []
        watch = Counting()
        load = replace(SMALL, levels=(Level(1), Level(2)), warmup=1)
        await measure(targets, load, 2, watch, found)
    assert time.perf_counter() - started > 8 * 0.1  # each turn begins after a pause
    turns = [(m.target.name, m.round_, m.run.level.users) for m in found]
    assert turns == [(s, r, n) for r in (0, 1) for n in (1, 2) for s in ("one", "two")]
    assert watch.begun[:2] == ["one: warm-up", "two: warm-up"] and watch.ended == 2 + 8 * 6
    same = [[body["prompt"] for body in server.bodies] for server in (one, two)]
    assert same[0][1:] == same[1][1:]  # all but the warm-up
