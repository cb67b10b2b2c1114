"""Many clients of one server: the same bytes as alone, and nothing held for those who left."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.e2e.serving import Serving, Stream, answers, nothing_held, until

FREED_S = 1.0  # what those who left held is free again
RUNNING = "vllm:num_requests_running"
WASTE = "pagemill:kv_waste_ratio"
MOST_WASTE = 0.04


def long(seed: int, tokens: int = 20_000) -> dict[str, Any]:
    """An answer that takes seconds."""
    return {"prompt": f"Count to {seed}", "max_tokens": tokens, "ignore_eos": True}


def seeded(seed: int) -> dict[str, Any]:
    words = random.Random(seed).choices(["the", "hello", "one", "or", "\u00e9"], k=1 + seed % 40)
    return {
        "prompt": " ".join(words),
        "max_tokens": 20 + seed,
        "temperature": 1.0,
        "seed": seed,
        "ignore_eos": True,
    }


async def test_fifty_clients_get_what_each_gets_alone(server: Serving) -> None:
    url = f"http://127.0.0.1:{server.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

        async def ask(seed: int) -> tuple[str, list[float]]:
            body = seeded(seed)
            stream = await client.completions.create(
                model="long",
                prompt=str(body["prompt"]),
                max_tokens=20 + seed,
                temperature=1.0,
                seed=seed,
                logprobs=1,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            text, logprobs = "", []
            async for chunk in stream:
                text += chunk.choices[0].text
                if (entry := chunk.choices[0].logprobs) is not None:
                    logprobs += entry.token_logprobs or []
            return text, logprobs

        alone = {seed: await ask(seed) for seed in range(50)}
        order = random.Random(0).sample(range(50), 50)
        together = dict(zip(order, await asyncio.gather(*map(ask, order)), strict=True))
    for seed in range(50):
        assert len(alone[seed][1]) == 20 + seed
        assert together[seed] == alone[seed], f"seed {seed} differs among fifty"
    assert len({text for text, _ in alone.values()}) == 50, "the answers do not tell them apart"


async def test_fifty_sequences_of_mixed_length_waste_few_slots(server: Serving) -> None:
    lengths = random.Random(1).sample(range(100, 1001), 50)
    bodies = [
        long(0, 4_000) | {"prompt": [3 + (i * length) % 260 for i in range(length)]}
        for length in lengths
    ]
    streams = [await Stream.open(server, body) for body in bodies]
    await asyncio.gather(*(stream.begin() for stream in streams))
    wasted = []
    for _ in range(5):
        assert await asyncio.to_thread(server.metric, RUNNING) == 50
        wasted.append(await asyncio.to_thread(server.metric, WASTE))
        await asyncio.sleep(0.05)
    assert min(wasted) > 0, "fifty sequences cannot all fill their last page"
    assert max(wasted) < MOST_WASTE
    for stream in streams:
        stream.drop()
    await nothing_held(server)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("how", [{"stream": True}, {"stream": False}, {"n": 4}], ids=str)
async def test_clients_that_leave_hold_nothing(
    server: Serving, how: dict[str, Any], reset: bool
) -> None:
    num = 40 // how.get("n", 1)
    streams = [await Stream.open(server, long(i) | how) for i in range(num)]
    if how.get("stream", True):
        await asyncio.gather(*(stream.begin() for stream in streams))
    await until(lambda: server.metric(RUNNING) == 40, "forty run")
    for stream in streams:
        stream.drop(reset=reset)
    await nothing_held(server, FREED_S)
    (after,) = await answers(server, [seeded(1)])
    assert after.ended == 1


async def test_clients_that_leave_during_prefill_hold_nothing(server: Serving) -> None:
    made = server.metric("vllm:generation_tokens_total")
    prompts = [[3 + (i * k) % 260 for i in range(12_000)] for k in (1, 3, 7, 11)]
    streams = [await Stream.open(server, {"prompt": ids, "max_tokens": 9}) for ids in prompts]
    await until(lambda: server.metric(RUNNING) > 0, "a prompt is being computed")
    for stream in streams:
        stream.drop()
    await nothing_held(server, FREED_S)
    assert server.metric("vllm:generation_tokens_total") == made, "the prompts were done before"


async def test_a_slow_reader_harms_nobody(server: Serving) -> None:
    bodies = [seeded(seed) | {"max_tokens": 400} for seed in range(16)]
    alone = [(await answers(server, [body]))[0].text for body in bodies]
    slow = await Stream.open(server, long(1), window=4096)
    assert await asyncio.wait_for(slow.reader.readexactly(1), 10) == b"H"

    async def sip() -> None:
        while True:
            await slow.reader.readexactly(1)
            await asyncio.sleep(1)

    sipping = asyncio.create_task(sip())
    together = await answers(server, bodies)
    assert [stream.text for stream in together] == alone
    assert all(stream.ended == 1 for stream in together)
    assert not sipping.done(), "the slow reader was cut off while it still read"
    sipping.cancel()
    slow.drop()
    await nothing_held(server, FREED_S)


def test_only_the_api_listens(server: Serving) -> None:
    assert listening(server) == {("tcp", f"0100007F:{server.port:04X}")}


def listening(server: Serving) -> set[tuple[str, str]]:
    """Listening sockets of all its processes, as (kind, address in hex)."""
    inodes = set()
    for pid in server.tree():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = str(entry.readlink()) if entry.is_symlink() else ""
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    found = set()
    for kind, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and fields[9] in inodes:
                found.add((kind, fields[1]))
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        accepts = int(fields[3], 16) & 0x10000
        if accepts and fields[6] in inodes:
            found.add(("unix", fields[7] if len(fields) > 7 else ""))
    return found
