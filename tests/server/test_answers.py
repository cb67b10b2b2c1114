"""What answers hold: stops, seeds, ids, usage; streamed and whole ones say the same."""

import json

import httpx
import pytest

from tests.server.conftest import Live, Start
from tests.server.fakes import EOS, FakeEngine, FakeModel


def events(response: httpx.Response) -> list[dict[str, object]]:
    """The JSON of all data lines; the last line must be [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def streamed_text(response: httpx.Response, index: int = 0) -> str:
    choices = [c for event in events(response) for c in event["choices"]]  # type: ignore[attr-defined]
    return "".join(
        c["delta"].get("content", "") if "delta" in c else c["text"]
        for c in choices
        if c["index"] == index
    )


@pytest.mark.parametrize(
    ("wish", "text", "reason", "stop_reason"),
    [
        ({}, "Paris is the capital of France.", "stop", None),
        ({"stop": "capital"}, "Paris is the ", "stop", "capital"),
        ({"stop": ["zzz", "is t"]}, "Paris ", "stop", "is t"),
        ({"stop": "is t", "include_stop_str_in_output": True}, "Paris is t", "stop", "is t"),
        ({"stop_token_ids": [ord("i")]}, "Par", "stop", ord("i")),
        ({"max_tokens": 3}, "Par", "length", None),
        ({"max_completion_tokens": 4, "max_tokens": 3}, "Pari", "length", None),
        (
            {"ignore_eos": True, "max_tokens": 33},
            "Paris is the capital of France.Pa",
            "length",
            None,
        ),
    ],
)
async def test_endings(
    live: Live, wish: dict[str, object], text: str, reason: str, stop_reason: object
) -> None:
    whole = (await live.chat(**wish)).json()["choices"][0]
    assert whole["message"]["content"] == text
    assert (whole["finish_reason"], whole["stop_reason"]) == (reason, stop_reason)
    stream = await live.chat(stream=True, **wish)
    assert streamed_text(stream) == text
    last = events(stream)[-1]["choices"][0]  # type: ignore[index]
    assert (last["finish_reason"], last["stop_reason"]) == (reason, stop_reason)


async def test_a_stop_string_ends_the_engines_work(start: Start) -> None:
    live = await start(FakeModel(FakeEngine(cached=4)))
    usage = (await live.chat(stop="is", ignore_eos=True, max_tokens=200)).json()["usage"]
    assert usage["completion_tokens"] == len("Paris")
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
    assert live.engine.aborted == [live.engine.requests[0].id]
    assert not live.engine.live


async def test_characters_are_never_cut(start: Start) -> None:
    text = "naïve 日本語 🦙 end"
    live = await start(FakeModel(FakeEngine(text.encode())))
    assert streamed_text(await live.chat(stream=True)) == text
    assert (await live.chat(max_tokens=3)).json()["choices"][0]["message"]["content"] == "na�"


async def test_seeds(live: Live) -> None:
    await live.chat(seed=5, n=3)
    assert [r.sampling.seed for r in live.engine.requests] == [5, 6, 7]
    assert [r.id.rsplit("-", 1)[1] for r in live.engine.requests] == ["0", "1", "2"]
    live.engine.requests.clear()
    await live.chat(seed=-1, n=2)
    assert [r.sampling.seed for r in live.engine.requests] == [2**64 - 1, 0]
    live.engine.requests.clear()
    await live.chat()
    await live.chat()
    first, second = (r.sampling.seed for r in live.engine.requests)
    assert first != second


async def test_usage_counts_a_prompt_once(start: Start) -> None:
    live = await start(FakeModel(FakeEngine(cached=4)))
    usage = (await live.post("/v1/completions", prompt="12345678", n=3, max_tokens=5)).json()[
        "usage"
    ]
    assert usage == {
        "prompt_tokens": 8,
        "completion_tokens": 15,
        "total_tokens": 23,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


async def test_several_choices_stream_side_by_side(live: Live) -> None:
    stream = await live.post("/v1/completions", prompt=["a", "b"], n=2, max_tokens=9, stream=True)
    assert [streamed_text(stream, i) for i in range(4)] == ["Paris is "] * 4


async def test_continuous_usage(live: Live) -> None:
    stream = await live.chat(
        stream=True,
        max_tokens=3,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    counts = [event["usage"] for event in events(stream)]
    assert counts[-1]["completion_tokens"] == 3  # type: ignore[index]
    assert all(c is None or c["prompt_tokens"] == counts[-1]["prompt_tokens"] for c in counts)  # type: ignore[index]


async def test_token_ids_come_back(live: Live) -> None:
    whole = (await live.post("/v1/completions", prompt="ab", return_token_ids=True)).json()
    assert whole["choices"][0]["token_ids"] == [*b"Paris is the cap"]
    assert whole["choices"][0]["prompt_token_ids"] == [97, 98]
    stream = await live.chat(stream=True, return_token_ids=True)
    ids = [i for e in events(stream) for c in e["choices"] for i in c.get("token_ids", [])]  # type: ignore[attr-defined]
    assert ids == [*b"Paris is the capital of France.", EOS]


async def test_logprobs_of_completions(live: Live) -> None:
    body = {"prompt": "ab", "max_tokens": 3, "logprobs": 2}
    whole = (await live.post("/v1/completions", **body)).json()["choices"][0]["logprobs"]
    assert whole["tokens"] == ["P", "a", "r"]
    assert whole["text_offset"] == [0, 1, 2]
    assert whole["token_logprobs"] == [-0.5] * 3
    assert list(whole["top_logprobs"][0]) == ["P", "Q"]
    stream = events(await live.post("/v1/completions", stream=True, **body))
    pieces = [c["logprobs"] for e in stream for c in e["choices"] if c["logprobs"]]  # type: ignore[attr-defined]
    assert [t for piece in pieces for t in piece["tokens"]] == whole["tokens"]
    assert [t for piece in pieces for t in piece["text_offset"]] == whole["text_offset"]


async def test_echo_streams_the_prompt_first(live: Live) -> None:
    stream = await live.post(
        "/v1/completions", prompt="Say: ", echo=True, stream=True, max_tokens=5
    )
    assert streamed_text(stream) == "Say: Paris"


@pytest.mark.parametrize("prompt", ["abc", ["abc"], [97, 98, 99], [[97, 98, 99]]])
async def test_prompt_kinds(live: Live, prompt: object) -> None:
    assert (await live.post("/v1/completions", prompt=prompt)).status_code == 200
    assert live.engine.requests[0].prompt == (97, 98, 99)


async def test_special_tokens_in_a_text_are_text(live: Live) -> None:
    await live.post("/v1/completions", prompt="<eos>")
    assert EOS not in live.engine.requests[0].prompt
    await live.post("/v1/completions", prompt="<eos>", parse_special=True)
    assert live.engine.requests[1].prompt == (EOS,)


async def test_ignored_fields(live: Live) -> None:
    answer = await live.chat(
        user="me",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        verbosity="low",
        reasoning_effort="low",
        prompt_cache_key="k",
        parallel_tool_calls=True,
        response_format={"type": "text"},
        tools=[],
        tool_choice="auto",
        something_new={"x": [1]},
        best_of=1,
    )
    assert answer.status_code == 200


async def test_an_engine_that_fails_mid_stream(start: Start) -> None:
    live = await start(FakeModel(FakeEngine(error_after=4)))
    stream = await live.chat(stream=True)
    assert stream.status_code == 200
    assert events(stream)[-1]["error"]["code"] == "engine_error"  # type: ignore[index]
    whole = await live.chat()
    assert whole.status_code == 500
    assert whole.json()["error"]["message"] == "The step failed."


async def test_a_bug_shows_no_internals(start: Start) -> None:
    live = await start(FakeModel(FakeEngine(broken=KeyError("secret"))))
    for stream in (False, True):
        answer = await live.chat(stream=stream)
        assert answer.status_code == 500
        assert "secret" not in answer.text


async def test_tokenize_round_trip(live: Live) -> None:
    text = "naïve 🦙 <eos>"
    tokens = (await live.post("/tokenize", prompt=text, return_token_strs=True)).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert tokens["max_model_len"] == 256
    assert (await live.post("/detokenize", tokens=tokens["tokens"])).json() == {"prompt": text}


async def test_tokenize_of_a_chat_counts_as_the_chat_does(live: Live) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    ]
    count = (await live.post("/tokenize", messages=messages)).json()["count"]
    answer = (await live.post("/v1/chat/completions", messages=messages)).json()
    assert answer["usage"]["prompt_tokens"] == count


async def test_the_template_gets_the_callers_values(live: Live) -> None:
    messages = [{"role": "user", "content": "<eos>"}, {"role": "assistant", "content": "Well"}]
    await live.post(
        "/v1/chat/completions", messages=messages, chat_template_kwargs={"mood": "calm "}
    )
    await live.post("/v1/chat/completions", messages=messages, continue_final_message=True)
    first, second = (bytes(request.prompt).decode() for request in live.engine.requests)
    assert first == "user: <eos>\nassistant: Well\ncalm assistant: "
    assert second == "user: <eos>\nassistant: Well"


async def test_salts_separate_keys_and_callers(start: Start) -> None:
    live = await start(api_key=("one", "two"))
    for key, salt in (("one", ""), ("two", ""), ("one", "x"), ("one", "")):
        headers = {"authorization": f"Bearer {key}"}
        body = {"prompt": "a", "cache_salt": salt}
        await live.http.post("/v1/completions", json=body, headers=headers)
    salts = [request.cache_salt for request in live.engine.requests]
    assert len(set(salts)) == 3
    assert salts[0] == salts[3]
    assert "one" not in salts[0]
