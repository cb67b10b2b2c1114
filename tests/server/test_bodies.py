"""Every wrong value of every field is a 400 that names the field; odd JSON is never a 500."""

import json

import httpx
import pytest

from pagemill.errors import InvalidRequest
from pagemill.server.fields import parse_object
from pagemill.server.openai import from_chat, from_completion
from tests.server.conftest import Live
from tests.server.fakes import VOCAB

CHAT = '"messages":[{"role":"user","content":"hi"}]'
TEXT = '"prompt":"hi"'

# Raw JSON texts, since some of them are no JSON. What a field takes of these is listed with it.
HOSTILE = [
    *("-1", "0", "1.5", "1e308", "-1e308", "1e999", "NaN", "Infinity", "-Infinity", "1e-320"),
    *(
        "2147483648",
        "9223372036854775808",
        "18446744073709551616",
        "9" * 400,
        "-9223372036854775809",
    ),
    *("true", "false", '"5"', '""', "[]", "[1]", "{}", '{"a":1}'),
]
SHARED: dict[str, set[str]] = {
    "temperature": {"0", "1.5", "1e-320"},
    "top_p": {"0", "1e-320"},
    "min_p": {"0", "1e-320"},
    "top_k": {"-1", "0"},
    "presence_penalty": {"-1", "0", "1.5", "1e-320"},
    "frequency_penalty": {"-1", "0", "1.5", "1e-320"},
    "repetition_penalty": {"1.5"},
    "seed": {"-1", "0", "2147483648", "9223372036854775808"},
    "n": set(),
    "max_tokens": set(),
    "max_completion_tokens": set(),
    "min_tokens": {"0"},
    "priority": {"-1", "0"},
    "logit_bias": {"{}"},
    "stop": {'"5"', "[]"},
    "stop_token_ids": {"[]", "[1]"},
    "stream_options": set(),
    "cache_salt": {'"5"', '""'},
    "stream": {"true", "false"},
    "ignore_eos": {"true", "false"},
    "skip_special_tokens": {"true", "false"},
    "include_stop_str_in_output": {"true", "false"},
    "return_token_ids": {"true", "false"},
}
CHAT_ONLY: dict[str, set[str]] = {"top_logprobs": set(), "logprobs": {"true", "false"}}
TEXT_ONLY: dict[str, set[str]] = {"logprobs": {"0"}, "echo": {"true", "false"}}
BEYOND = {
    "temperature": ("2.01", "-0.01"),
    "top_p": ("1.01",),
    "min_p": ("1.01",),
    "presence_penalty": ("2.01", "-2.01"),
    "frequency_penalty": ("2.01", "-2.01"),
    "repetition_penalty": ("10.1", "0"),
    "n": ("17", "100000", "1000000000"),
    "top_k": ("-2",),
    "max_tokens": ("257", "1000000000"),
    "stop": (json.dumps(["a"] * 17), json.dumps("a" * 1025), '["a", 1]', '["a", ""]'),
    "stop_token_ids": ("[-1]", "[1.5]", "[true]", '["7"]', "[[1]]", "[null]", f"[{VOCAB}]"),
    "logit_bias": (
        *('{"-1":1}', '{"x":1}', '{"1.5":1}', '{"1":101}', '{"1":NaN}', '{"1":true}', '{"1":"1"}'),
        *(f'{{"{VOCAB}":1}}', '{"4294967296":1}', json.dumps({str(i): 1 for i in range(1025)})),
    ),
}


def check_refused(answer: httpx.Response, param: str | None) -> None:
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param
        assert any(part in error["message"] for part in param.split("."))


async def send(direct: Live, path: str, raw: str) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return await direct.http.post(path, content=raw.encode(), headers=headers)


@pytest.mark.parametrize("field", [*SHARED, *CHAT_ONLY])
async def test_chat_fields(direct: Live, field: str) -> None:
    accepted = {**SHARED, **CHAT_ONLY}[field]
    for value in (*HOSTILE, *BEYOND.get(field, ())):
        answer = await send(direct, "/v1/chat/completions", f'{{{CHAT},"{field}":{value}}}')
        if value in accepted and value not in BEYOND.get(field, ()):
            assert answer.status_code == 200, (value, answer.text)
        else:
            check_refused(answer, field)


@pytest.mark.parametrize("field", [*SHARED, *TEXT_ONLY])
def test_completion_fields(field: str) -> None:
    accepted = {**SHARED, **TEXT_ONLY}[field]
    for value in HOSTILE:
        raw = f'{{{TEXT},"max_tokens":200,"{field}":{value}}}'.encode()
        if value in accepted:
            from_completion(parse_object(raw))
        else:
            with pytest.raises(InvalidRequest) as refused:
                from_completion(parse_object(raw))
            assert refused.value.param == field


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", '{"prompt":[]}', "prompt"),
        ("/v1/completions", '{"prompt":""}', "prompt"),
        ("/v1/completions", '{"prompt":[[]]}', "prompt"),
        ("/v1/completions", "{}", "prompt"),
        ("/v1/completions", '{"prompt":[1,-1]}', "prompt"),
        ("/v1/completions", '{"prompt":[true]}', "prompt"),
        ("/v1/completions", '{"prompt":[1,1.5]}', "prompt"),
        ("/v1/completions", f'{{"prompt":[{VOCAB}]}}', "prompt"),
        ("/v1/completions", '{"prompt":[9223372036854775808]}', "prompt"),
        ("/v1/completions", '{"prompt":[1,[2]]}', "prompt"),
        ("/v1/completions", '{"prompt":["a",[2]]}', "prompt"),
        ("/v1/completions", '{"prompt":{"a":1}}', "prompt"),
        ("/v1/completions", json.dumps({"prompt": ["a"] * 129}), "prompt"),
        ("/v1/completions", json.dumps({"prompt": ["a"] * 65, "n": 2}), "n"),
        ("/v1/completions", '{"prompt":"a","suffix":"b"}', "suffix"),
        ("/v1/completions", '{"prompt":"a","best_of":2}', "best_of"),
        ("/v1/completions", '{"prompt":"a","logprobs":6}', "logprobs"),
        ("/v1/completions", '{"prompt":"a","logprobs":1,"echo":true}', "logprobs"),
        ("/v1/completions", '{"prompt":"a","min_tokens":17}', "min_tokens"),
        ("/v1/completions", '{"prompt":"a","guided_json":{"type":"object"}}', "guided_json"),
        ("/v1/completions", '{"prompt":"a","prompt_logprobs":1}', "prompt_logprobs"),
        ("/v1/chat/completions", "{}", "messages"),
        ("/v1/chat/completions", '{"messages":[]}', "messages"),
        ("/v1/chat/completions", '{"messages":"hi"}', "messages"),
        ("/v1/chat/completions", '{"messages":[5]}', "messages[0]"),
        ("/v1/chat/completions", '{"messages":[{"content":"a"}]}', "messages[0].role"),
        (
            "/v1/chat/completions",
            '{"messages":[{"role":"king","content":"a"}]}',
            "messages[0].role",
        ),
        ("/v1/chat/completions", '{"messages":[{"role":[],"content":"a"}]}', "messages[0].role"),
        ("/v1/chat/completions", '{"messages":[{"role":"user"}]}', "messages[0].content"),
        (
            "/v1/chat/completions",
            '{"messages":[{"role":"user","content":5}]}',
            "messages[0].content",
        ),
        (
            "/v1/chat/completions",
            '{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}',
            "messages[0].content[0].type",
        ),
        ("/v1/chat/completions", f'{{{CHAT},"top_logprobs":2}}', "top_logprobs"),
        ("/v1/chat/completions", f'{{{CHAT},"top_logprobs":21,"logprobs":true}}', "top_logprobs"),
        ("/v1/chat/completions", f'{{{CHAT},"tool_choice":"required"}}', "tool_choice"),
        ("/v1/chat/completions", f'{{{CHAT},"chat_template":"{{{{x}}}}"}}', "chat_template"),
        (
            "/v1/chat/completions",
            f'{{{CHAT},"chat_template_kwargs":{{"tokenize":false}}}}',
            "chat_template_kwargs.tokenize",
        ),
        (
            "/v1/chat/completions",
            f'{{{CHAT},"response_format":{{"type":"json_object"}}}}',
            "response_format",
        ),
        (
            "/v1/chat/completions",
            f'{{{CHAT},"stream":true,"stream_options":{{"include_usage":1}}}}',
            "stream_options.include_usage",
        ),
        ("/v1/chat/completions", f'{{{CHAT},"model":5}}', "model"),
        ("/v1/chat/completions", f'{{{CHAT},"model":"{"m" * 257}"}}', "model"),
        ("/v1/chat/completions", f'{{{CHAT},"cache_salt":"{"s" * 257}"}}', "cache_salt"),
        ("/tokenize", "{}", "prompt"),
        ("/tokenize", f"{{{CHAT},{TEXT}}}", "prompt"),
        ("/detokenize", "{}", "tokens"),
        ("/detokenize", f'{{"tokens":[{VOCAB}]}}', "tokens"),
        ("/detokenize", '{"tokens":[-1]}', "tokens"),
        ("/detokenize", '{"tokens":"abc"}', "tokens"),
    ],
)
async def test_wrong_bodies(direct: Live, path: str, body: str, param: str) -> None:
    check_refused(await send(direct, path, body), param)
    assert not direct.engine.requests


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{", b"null", b"[]", b'"x"', b"5", b"{} x", b"{'a':1}", b'{"a":}', b'{"a":1,}'),
        *(b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b'{"a":"\xff"}', b'{"a":"\\ud800"}'),
        *(b"[" * 100_000, b'{"a":' * 100_000, b'{"a":' + b"9" * 1_000_000 + b"}"),
        *(b'{"a":NaN}', b'{"a":{"b":NaN}}', b"{}"),
        json.dumps({f"k{i}": i for i in range(100_000)}).encode(),
    ],
)
async def test_odd_json(direct: Live, raw: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await direct.http.post("/v1/chat/completions", content=raw, headers=headers)
    check_refused(answer, None)


async def test_the_last_of_two_equal_keys_counts(direct: Live) -> None:
    raw = f'{{{CHAT},"max_tokens":-1,"max_tokens":2}}'
    answer = await send(direct, "/v1/chat/completions", raw)
    assert answer.json()["usage"]["completion_tokens"] == 2


async def test_context_limits(direct: Live) -> None:
    """The context of the fake is 256 tokens."""
    fits = await direct.post("/v1/completions", prompt="a" * 255, max_tokens=1)
    assert fits.json()["usage"]["total_tokens"] == 256
    for length, asked in ((256, 1), (257, 1), (2560, 16), (255, 2)):
        answer = await direct.post("/v1/completions", prompt="a" * length, max_tokens=asked)
        check_refused(answer, None)
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert str(length) in error["message"]
        assert "256" in error["message"]
    chat = await direct.chat("a" * 300)
    assert chat.json()["error"]["param"] == "messages"


async def test_a_long_text_leaves_the_event_loop(direct: Live) -> None:
    tokens = await direct.post("/tokenize", prompt="a" * 1_000_000)
    assert tokens.json()["count"] == 1_000_000


def test_defaults() -> None:
    order = from_chat(parse_object(f"{{{CHAT}}}".encode())).order
    assert order.sampling.temperature == 1.0
    assert order.max_tokens is None
    assert order.seed is None
    assert from_completion(parse_object(f"{{{TEXT}}}".encode())).order.max_tokens == 16


def test_whole_floats_count_as_integers() -> None:
    assert from_chat(parse_object(f'{{{CHAT},"max_tokens":5.0}}'.encode())).order.max_tokens == 5


def test_developer_is_system() -> None:
    body = b'{"messages":[{"role":"developer","content":"x"},{"role":"assistant","content":null}]}'
    assert [m.role for m in from_chat(parse_object(body)).conversation.messages] == [
        "system",
        "assistant",
    ]
