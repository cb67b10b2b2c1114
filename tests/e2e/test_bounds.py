"""More than a server takes: refused at once and politely; who was accepted gets an answer."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.serving import Serving, Stream, answers, nothing_held, until

RUN, QUEUE = 2, 4
NUM = 20  # come at once
AT_ONCE_S = 1.0  # one refusal takes milliseconds; these are twenty on a busy machine
BODY = {"prompt": "Hello", "seed": 7, "temperature": 1.0, "ignore_eos": True}


@pytest.fixture(scope="module")
def small(long_llama_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    limits = ("--max-num-seqs", str(RUN), "--max-queued", str(QUEUE))
    with Serving(tmp_path_factory.mktemp("home"), long_llama_path, *limits) as running:
        yield running


async def test_a_full_queue_refuses_at_once_and_is_whole_afterwards(small: Serving) -> None:
    body = BODY | {"max_tokens": 50}
    (alone,) = await answers(small, [body])
    for _ in range(2):
        # The engine is held, so nobody's place becomes free while they come.
        os.kill(small.engine(), signal.SIGSTOP)
        try:
            streams = [await Stream.open(small, body) for _ in range(NUM)]
            begun = [asyncio.create_task(stream.begin()) for stream in streams]
            at_once, _ = await asyncio.wait(begun, timeout=AT_ONCE_S)
        finally:
            os.kill(small.engine(), signal.SIGCONT)
        assert len(at_once) == NUM - RUN - QUEUE, "refusals do not wait for the engine"
        await asyncio.gather(*begun)
        await asyncio.gather(*(stream.rest() for stream in streams))
        accepted = [stream for stream in streams if stream.status == 200]
        refused = [stream for stream in streams if stream.status == 429]
        assert (len(accepted), len(refused)) == (RUN + QUEUE, NUM - RUN - QUEUE)
        assert {(s.text, s.finish, s.ended) for s in accepted} == {(alone.text, "length", 1)}
        for stream in refused:
            assert int(stream.headers["retry-after"]) > 0
            assert stream.error is not None
            assert {"message", "type", "param", "code"} <= stream.error.keys()
            assert "queue is full" in stream.error["message"]


async def test_clients_that_leave_the_queue_make_room(small: Serving) -> None:
    body = BODY | {"max_tokens": 1500}
    running = [await (await Stream.open(small, body)).begin() for _ in range(RUN)]
    waiting = [await Stream.open(small, body) for _ in range(QUEUE)]
    await until(lambda: small.metric("vllm:num_requests_waiting") == QUEUE, "four wait")
    for stream in waiting:
        stream.drop()
    await until(lambda: small.metric("vllm:num_requests_waiting") == 0, "none waits", 1.0)
    assert small.metric("vllm:num_requests_running") == RUN, "they ended too early to prove it"
    await asyncio.gather(*(stream.rest() for stream in running))
    assert len({stream.text for stream in running}) == 1
    assert all(stream.ended == 1 for stream in running)
    await nothing_held(small, 1.0)


async def test_a_call_of_more_answers_than_fit_is_refused_whole(small: Serving) -> None:
    for stream in (True, False):
        call = BODY | {"max_tokens": 50, "n": RUN + QUEUE + 1, "stream": stream}
        (refused,) = await answers(small, [call])
        assert refused.status == 429
        await nothing_held(small, 1.0)
        (accepted,) = await answers(small, [BODY | {"max_tokens": 5, "n": RUN + QUEUE}])
        assert accepted.ended == 1
