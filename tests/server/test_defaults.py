"""Who has the last word on a knob: the call, the model, the caller's own defaults, ours."""

from typing import Any

import pytest

from pagemill.types import GenerationDefaults, Request
from tests.server.conftest import Live, Start
from tests.server.fakes import EOS, FakeEngine, FakeModel

MODEL = GenerationDefaults(
    temperature=0.6, top_k=20, top_p=0.9, min_p=0.05, repetition_penalty=1.2, max_tokens=7
)


async def asked(live: Live, path: str = "/v1/chat/completions", **body: Any) -> Request:
    """What the engine is asked for a call with these fields."""
    live.engine.requests.clear()
    prompt: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    answer = await live.post(path, **(prompt if "chat" in path else {"prompt": "hi"}), **body)
    assert answer.status_code == 200, answer.text
    return live.engine.requests[0]


async def test_the_models_defaults_count_where_a_call_says_nothing(start: Start) -> None:
    live = await start(FakeModel(defaults=MODEL))
    request = await asked(live)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.6, 20, 0.9)
    assert (sampling.min_p, sampling.repetition_penalty, request.max_tokens) == (0.05, 1.2, 7)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0, 0)


async def test_a_call_has_the_last_word(start: Start) -> None:
    live = await start(FakeModel(defaults=MODEL))
    request = await asked(live, temperature=0, top_k=-1, top_p=1, max_completion_tokens=3)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0, 0, 1)
    assert (sampling.min_p, request.max_tokens) == (0.05, 3)


async def test_a_callers_defaults_give_way_to_the_models(start: Start) -> None:
    live = await start(FakeModel(defaults=GenerationDefaults(temperature=0.6)))
    weak = {"temperature": 0.3, "top_p": 0.95, "repetition_penalty": 1.1}
    sampling = (await asked(live, top_p=0.5, sampling_defaults=weak)).sampling
    assert (sampling.temperature, sampling.top_p, sampling.repetition_penalty) == (0.6, 0.5, 1.1)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("sampling_defaults", 1, "sampling_defaults"),
        ("sampling_defaults", {"temperature": 3}, "sampling_defaults.temperature"),
    ],
)
async def test_wrong_defaults_of_a_caller(live: Live, field: str, value: Any, param: str) -> None:
    answer = await live.chat(**{field: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_the_models_limit_comes_before_that_of_completions(start: Start, live: Live) -> None:
    assert (await asked(live, "/v1/completions")).max_tokens == 16
    limited = await start(FakeModel(defaults=MODEL))
    assert (await asked(limited, "/v1/completions")).max_tokens == 7


async def test_a_default_limit_gives_way_to_the_room_there_is(start: Start) -> None:
    live = await start(FakeModel(defaults=GenerationDefaults(max_tokens=10**6)))
    request = await asked(live)
    assert request.max_tokens == 256 - len(request.prompt)
    few = await live.post("/v1/completions", prompt="a" * 250)
    assert few.json()["usage"]["completion_tokens"] == 6


async def test_a_default_limit_below_min_tokens_is_an_error(start: Start) -> None:
    live = await start(FakeModel(defaults=MODEL))
    answer = await live.chat(min_tokens=8)
    assert answer.status_code == 400
    assert "min_tokens is 8, but at most 7 tokens can come" in answer.json()["error"]["message"]


async def test_the_models_stop_ids_end_answers_as_its_end_of_text_does(start: Start) -> None:
    live = await start(
        FakeModel(FakeEngine(b"Paris."), defaults=GenerationDefaults(stop_ids=(46,)))
    )
    request = await asked(live)
    assert request.stop_ids == (46, EOS)
    choice = (await live.chat()).json()["choices"][0]
    assert choice["message"]["content"] == "Paris"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    assert (await asked(live, ignore_eos=True, max_tokens=9)).stop_ids == ()


async def test_tiny_temperatures_are_greedy_whoever_sets_them(start: Start, live: Live) -> None:
    sampling = (await asked(live, temperature=1e-9, top_p=0)).sampling
    assert sampling.temperature == 0
    assert 0 < sampling.top_p < 1e-3
    tiny = await start(FakeModel(defaults=GenerationDefaults(temperature=1e-9, top_p=0)))
    assert (await asked(tiny)).sampling.temperature == 0


async def test_a_top_k_of_the_whole_vocabulary_is_off(live: Live) -> None:
    assert (await asked(live, top_k=300)).sampling.top_k == 0
    assert (await asked(live, top_k=299)).sampling.top_k == 299
