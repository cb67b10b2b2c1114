"""The openai package, unmodified, sync and async, as articles and documentation use it."""

import asyncio

import openai
import pytest
from openai import OpenAI

from tests.server.conftest import Live, Start
from tests.server.fakes import FakeEngine, FakeModel

ANSWER = "Paris is the capital of France."


async def test_first_snippet(live: Live) -> None:
    def ask() -> str | None:
        client = OpenAI(base_url=f"{live.url}/v1", api_key="not-needed")
        response = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0.1,
        )
        return response.choices[0].message.content

    assert await asyncio.to_thread(ask) == ANSWER
    assert live.engine.requests[0].sampling.temperature == 0.1
    assert live.engine.requests[0].max_tokens == 256 - len(live.engine.requests[0].prompt)


async def test_sync_streaming(live: Live) -> None:
    def ask() -> list[str]:
        client = OpenAI(base_url=f"{live.url}/v1", api_key="not-needed")
        stream = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            max_tokens=100,
        )
        return [chunk.choices[0].delta.content or "" for chunk in stream]

    pieces = await asyncio.to_thread(ask)
    assert "".join(pieces) == ANSWER
    assert len(pieces) > 10


async def test_eight_at_once(live: Live) -> None:
    client = live.openai()

    async def ask(prompt: str) -> str | None:
        response = await client.chat.completions.create(
            model="tiny",
            messages=[
                {"role": "system", "content": "You are brief."},
                {"role": "user", "content": prompt},
            ],
            max_tokens=64,
            temperature=0.7,
        )
        return response.choices[0].message.content

    assert await asyncio.gather(*(ask(f"Question {i}") for i in range(8))) == [ANSWER] * 8
    assert len({request.id for request in live.engine.requests}) == 8


async def test_streamed_usage_and_roles(live: Live) -> None:
    stream = await live.openai().chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(ANSWER) + 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


async def test_logprobs(live: Live) -> None:
    answer = await live.openai().chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hi"}],
        logprobs=True,
        top_logprobs=3,
        max_tokens=5,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == "Paris"
    assert [len(entry.top_logprobs) for entry in logprobs.content] == [3] * 5
    assert bytes(logprobs.content[0].bytes or []) == b"P"


async def test_text_completion(live: Live) -> None:
    answer = await live.openai().completions.create(
        model="tiny", prompt=["The capital", "It"], max_tokens=5, echo=True
    )
    assert [choice.text for choice in answer.choices] == ["The capitalParis", "ItParis"]
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].finish_reason == "length"


async def test_models(live: Live) -> None:
    client = live.openai()
    assert [model.id async for model in await client.models.list()] == ["tiny"]
    assert (await client.models.retrieve("tiny")).owned_by == "pagemill"
    with pytest.raises(openai.NotFoundError, match="tiny"):
        await client.models.retrieve("org/other")
    with pytest.raises(openai.NotFoundError, match="tiny"):
        await client.completions.create(model="other", prompt="x")


async def test_errors_are_the_clients_own(start: Start) -> None:
    live = await start(FakeModel(FakeEngine(max_live=0)))
    with pytest.raises(openai.RateLimitError) as busy:
        await live.openai().completions.create(model="tiny", prompt="x")
    assert busy.value.response.headers["retry-after"] == "2"
    with pytest.raises(openai.RateLimitError):
        await live.openai().completions.create(model="tiny", prompt="x", stream=True)
    with pytest.raises(openai.BadRequestError) as wrong:
        await live.openai().completions.create(model="tiny", prompt="x", temperature=3)
    assert wrong.value.param == "temperature"
