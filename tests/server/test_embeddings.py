"""/v1/embeddings: what goes in, how vectors come out, and what is refused."""

import asyncio
import base64
import struct

import pytest

from tests.server.conftest import Live, Start, until
from tests.server.fakes import BOS, EOS, VOCAB, FakeEngine, VectorEngine, embedder, ranker


@pytest.fixture
async def live(start: Start) -> Live:
    return await start(embedder())


def engine_of(live: Live) -> VectorEngine:
    assert isinstance(live.engine, VectorEngine)
    return live.engine


async def vectors(live: Live, **body: object) -> list[list[float]]:
    answer = await live.post("/v1/embeddings", **body)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return [item["embedding"] for item in data]


def letters(live: Live, text: str) -> list[float]:
    return engine_of(live)._letters([BOS, *text.encode(), EOS])


async def test_a_text_a_list_ids_and_lists_of_ids(live: Live) -> None:
    want = [pytest.approx(letters(live, text), abs=1e-6) for text in ("hello", "you")]
    assert await vectors(live, input="hello") == want[:1]
    assert await vectors(live, input=["hello", "you"]) == want
    framed = [[BOS, *text.encode(), EOS] for text in ("hello", "you")]
    assert await vectors(live, input=framed[0]) == want[:1]
    assert await vectors(live, input=framed) == want
    plain = await vectors(live, input="hello", add_special_tokens=False)
    assert plain == await vectors(live, input=list(b"hello")) != want[:1]


async def test_the_answer_has_openais_shape(live: Live) -> None:
    answer = (await live.post("/v1/embeddings", input=["ab", "c"], model="tiny", user="me")).json()
    assert {key: answer[key] for key in ("object", "model", "usage")} == {
        "object": "list",
        "model": "tiny",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    assert [set(item) for item in answer["data"]] == [{"object", "index", "embedding"}] * 2
    assert answer["data"][0]["object"] == "embedding"


async def test_openais_client_asks_for_base64_and_for_floats(live: Live) -> None:
    client = live.openai()
    want = pytest.approx(letters(live, "hi"), abs=1e-6)
    answer = await client.embeddings.create(model="tiny", input=["hi", "you"])
    assert answer.data[0].embedding == want
    assert (answer.usage.prompt_tokens, len(answer.data)) == (9, 2)
    floats = await client.embeddings.create(model="tiny", input="hi", encoding_format="float")
    assert floats.data[0].embedding == want
    raw = await live.post("/v1/embeddings", input="hi", encoding_format="base64")
    data = base64.b64decode(raw.json()["data"][0]["embedding"])
    assert list(struct.unpack("<8f", data)) == want


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_dimensions_cut_and_give_length_1_again(live: Live, encoding: str) -> None:
    whole = letters(live, "hello")
    length = sum(value * value for value in whole[:3]) ** 0.5
    body = {"input": "hello", "dimensions": 3, "encoding_format": encoding}
    [got] = await vectors(live, **body)
    if isinstance(got, str):
        got = list(struct.unpack("<3f", base64.b64decode(got)))
    assert got == pytest.approx([value / length for value in whole[:3]], abs=1e-6)
    assert await vectors(live, input="hello", dimensions=8) == [pytest.approx(whole, abs=1e-6)]


async def test_long_texts_are_refused_or_cut(live: Live) -> None:
    long = "x" * 300
    answer = await live.post("/v1/embeddings", input=["a", long])
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "input[1]" and error["code"] == "context_length_exceeded"
    assert "302 tokens" in error["message"] and "at most 256" in error["message"]
    await vectors(live, input=long, truncate_prompt_tokens=-1)
    await vectors(live, input=long, truncate_prompt_tokens=5)
    await vectors(live, input=list(range(97, 107)), truncate_prompt_tokens=4)
    sent = [request.prompt for request in live.engine.requests]
    assert sent[0] == (BOS, *b"x" * 254, EOS)
    assert sent[1] == (BOS, *b"xxx", EOS)
    assert sent[2] == tuple(range(97, 101))


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "input", "must be a string"),
        ({"input": ""}, "input", "empty"),
        ({"input": []}, "input", "must be a string"),
        ({"input": [[]]}, "input", "empty"),
        ({"input": ["a", ""]}, "input[1]", "input[1] is empty"),
        ({"input": ["a", 5]}, "input", "input[1]"),
        ({"input": [[1], "a"]}, "input", "input[1]"),
        ({"input": [1, -1]}, "input", "token ids"),
        ({"input": [[1], [VOCAB]]}, "input[1]", f"{VOCAB}"),
        ({"input": ["a"] * 2049}, "input", "at most 2048"),
        ({"input": {"text": "a"}}, "input", "must be a string"),
        ({"input": "a", "dimensions": 0}, "dimensions", "1"),
        ({"input": "a", "dimensions": 9}, "dimensions", "have 8"),
        ({"input": "a", "dimensions": "8"}, "dimensions", "integer"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "base64"),
        ({"input": "a", "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "-1"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "-1"),
        ({"input": "a", "truncation_side": "left"}, "truncation_side", "not supported"),
        ({"input": "a", "normalize": False}, "normalize", "length 1"),
        ({"input": "a", "messages": [{"role": "user"}]}, "messages", "not supported"),
        ({"input": "a", "model": "other"}, "model", "tiny"),
    ],
)
async def test_what_is_wrong_is_refused_by_name(
    live: Live, body: dict[str, object], param: str, words: str
) -> None:
    answer = await live.post("/v1/embeddings", **{"model": "tiny", **body})
    assert answer.status_code == (404 if body.get("model") else 400)
    error = answer.json()["error"]
    assert error["param"] == param and words in error["message"]
    assert not live.engine.requests


async def test_models_that_do_something_else_say_so(start: Start) -> None:
    writer, scorer, embeds = await start(), await start(ranker()), await start(embedder())
    for live, words in ((writer, "writes text"), (scorer, "/rerank")):
        answer = await live.post("/v1/embeddings", input="a")
        assert answer.status_code == 400 and words in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"] == "model"
    for live, words in ((embeds, "/v1/embeddings"), (scorer, "/rerank")):
        for answer in (await live.chat(), await live.post("/v1/completions", prompt="a")):
            assert answer.status_code == 400 and words in answer.json()["error"]["message"]


async def test_many_texts_keep_their_order_and_leave_room_for_others(start: Start) -> None:
    engine = VectorEngine(delay=0.001)
    live = await start(embedder(engine))
    texts = [chr(97 + n % 26) * 60 for n in range(200)]
    call = asyncio.create_task(vectors(live, input=texts))
    await until(lambda: len(engine.live) > 5)
    most = 2 * 256 // 62 + 1  # tokens of two steps
    while not call.done():
        assert len(engine.live) <= most
        await asyncio.sleep(0)
    assert await call == [pytest.approx(letters(live, text), abs=1e-6) for text in texts]
    assert [r.max_tokens for r in engine.requests] == [0] * 200
    assert all(request.pooled for request in engine.requests)


async def test_one_text_that_fails_fails_the_call_and_is_named(start: Start) -> None:
    live = await start(embedder(VectorEngine(fails_on=b"zz")))
    answer = await live.post("/v1/embeddings", input=["a", "zz", "b"])
    assert answer.status_code == 500
    assert "input[1]: The step failed." in answer.json()["error"]["message"]
    assert not live.engine.live and not live.state.live


async def test_a_full_queue_is_429(start: Start) -> None:
    live = await start(embedder(VectorEngine(max_live=0)))
    answer = await live.post("/v1/embeddings", input="a")
    assert answer.status_code == 429 and answer.headers["retry-after"] == "2"


async def test_a_client_that_goes_ends_its_requests(start: Start) -> None:
    engine = VectorEngine(gate=asyncio.Event())
    live = await start(embedder(engine))
    call = asyncio.create_task(live.post("/v1/embeddings", input=["a", "b"]))
    await until(lambda: len(engine.live) == 2)
    call.cancel()
    await until(lambda: not engine.live)
    assert len(engine.aborted) == 2 and not live.state.live


async def test_draining_ends_calls_with_an_error(start: Start) -> None:
    engine = VectorEngine(gate=asyncio.Event())
    live = await start(embedder(engine))
    call = asyncio.create_task(live.post("/v1/embeddings", input=["a"]))
    await until(lambda: len(engine.live) == 1)
    live.state.end_all()
    assert (await call).status_code == 503
    assert not engine.live


async def test_metrics_count_texts(live: Live) -> None:
    await vectors(live, input=["ab", "c"])
    text = (await live.http.get("/metrics")).text
    labels = 'engine="0",finished_reason="stop",model_name="tiny"'
    assert f"vllm:request_success_total{{{labels}}} 2.0" in text
    assert 'vllm:request_prompt_tokens_sum{engine="0",model_name="tiny"} 7.0' in text


async def test_ready_asks_for_a_vector(live: Live) -> None:
    answer = await live.http.get("/ready")
    assert answer.status_code == 200 and live.engine.requests[-1].pooled


async def test_the_model_list_says_what_models_do(start: Start) -> None:
    for live, can in (
        (await start(), "completion"),
        (await start(embedder()), "embedding"),
        (await start(ranker()), "rerank"),
    ):
        [entry] = (await live.http.get("/v1/models")).json()["data"]
        assert entry["capabilities"] == [can]
    assert FakeEngine().requests == []
