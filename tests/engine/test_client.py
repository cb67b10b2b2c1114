"""Both doors: exactly one final Delta for every accepted request, whatever happens."""

import asyncio
from contextlib import aclosing

import pytest

from pagemill.engine.local import LocalClient
from pagemill.errors import Busy, InvalidRequest, Unavailable
from tests.engine import fake_engine
from tests.engine.doors import (
    Open,
    answer,
    no_requests,
    requests_run,
    started,
    tokens,
)
from tests.engine.fake_engine import PLAN, FakeEngine, order, plan_of


async def test_an_answer(open_client: Open) -> None:
    deltas = await answer(open_client(), order("a", 5, first=50))
    assert tokens(deltas) == [50, 51, 52, 53, 54]
    assert deltas[-1].finish == "length"
    assert deltas[-1].decode_s == 0.5


async def test_a_thousand_quick_requests(open_client: Open) -> None:
    client = open_client(plan_of(max_queued=1000))
    names = [f"r{i}" for i in range(1000)]
    answers = await asyncio.gather(
        *(answer(client, order(name, 1 + i % 4, first=i)) for i, name in enumerate(names))
    )
    for i, deltas in enumerate(answers):
        assert tokens(deltas) == list(range(i, i + 1 + i % 4))
    await no_requests(client)


async def test_abort_twice_and_unknown_ids(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.005"))
    stream, _ = await started(client, order("a", 100_000))
    for name in ("a", "a", "nobody"):
        await client.abort(name)
    rest = [delta async for delta in stream]
    assert [delta.finish for delta in rest if delta.finish] == ["abort"]
    await client.abort("a")
    await no_requests(client)


async def test_abort_after_the_end_sends_nothing(open_client: Open) -> None:
    client = open_client()
    await answer(client, order("a"))
    await client.abort("a")
    assert (await client.stats()).finished_abort == 0


async def test_closing_the_iterator_aborts_once(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.005"))
    stream, _ = await started(client, order("a", 100_000))
    await stream.aclose()
    await no_requests(client)
    assert (await client.stats()).finished_abort == 1
    # The id is free again, and gets nothing of the old request.
    assert tokens(await answer(client, order("a", 2, first=7))) == [7, 8]


async def test_cancelling_the_reader_aborts(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.005"))
    await answer(client, order("first"))  # the engine is there
    tasks = [asyncio.create_task(answer(client, order(f"{i}", 100_000))) for i in range(20)]
    await requests_run(client, len(tasks))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await no_requests(client)


async def test_refused_before_the_first_delta(open_client: Open) -> None:
    client = open_client()
    with pytest.raises(InvalidRequest, match="refused") as caught:
        await anext(client.generate(order("a", mischief=fake_engine.REFUSE)))
    assert caught.value.param == "prompt"
    await answer(client, order("a"))


async def test_an_id_that_runs_is_refused(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.005"))
    stream, _ = await started(client, order("a", 1000))
    with pytest.raises(InvalidRequest, match="'a' is running"):
        await anext(client.generate(order("a")))
    await stream.aclose()


async def test_the_queue_is_bounded_and_whole_again_afterwards(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.02", max_num_seqs=2, max_queued=3))
    for _ in range(2):
        results = await asyncio.gather(
            *(answer(client, order(f"{i}", 4)) for i in range(8)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, Busy)]
        assert len(refused) == 3
        assert all(error.retry_after > 0 for error in refused)
        assert sum(isinstance(result, list) for result in results) == 5


async def test_close_ends_everything_once_and_for_all(open_client: Open) -> None:
    client = open_client(plan_of("fake:0.005"))
    running = [asyncio.create_task(answer(client, order(f"{i}", 100_000))) for i in range(5)]
    await asyncio.sleep(0.3)
    await asyncio.gather(client.close(), client.close())
    assert [(await task)[-1].finish for task in running] == ["abort"] * 5
    with pytest.raises(Unavailable):
        await anext(client.generate(order("a")))
    with pytest.raises(Unavailable):
        await client.stats()


async def test_a_slow_reader_loses_nothing(open_client: Open) -> None:
    client = open_client()
    got = []
    async with aclosing(client.generate(order("slow", 200, first=0))) as stream:
        async for delta in stream:
            got += delta.token_ids
            await asyncio.sleep(0.001)
    assert got == list(range(200))


async def test_a_step_that_raises_in_this_process() -> None:
    client = LocalClient(FakeEngine(PLAN), PLAN)
    deltas = await answer(client, order("a", mischief=fake_engine.EXPLODE))
    assert deltas[-1].finish == "error"
    with pytest.raises(Unavailable, match="the engine failed"):
        await anext(client.generate(order("b")))
    await client.close()
