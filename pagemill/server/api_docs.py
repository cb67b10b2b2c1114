"""What /openapi.json says of the endpoints and their bodies. The checks are in the dialects."""

import re
from collections.abc import Mapping
from typing import Any

from pagemill import __version__
from pagemill.server.inputs import MAX_INPUTS
from pagemill.server.orders import MAX_N, MAX_STOP
from pagemill.text.messages import ROLES
from pagemill.types import KNOB_RANGES, WHOLE_KNOBS

DESCRIPTION = (
    "OpenAI-compatible endpoints of a Pagemill server. Unknown fields are accepted and ignored; "
    "fields that would change the meaning of an answer and are not supported yet are refused."
)

Schema = Mapping[str, Any]

_WORDS = re.compile(r"\w+")
_NAMED_PARTS = re.compile(r"\{(\w+)\}")

_INT: Schema = {"type": "integer"}
_BOOL: Schema = {"type": "boolean"}
_STRING: Schema = {"type": "string"}
_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}


_KNOBS: Schema = {
    name: {
        "type": "integer" if name in WHOLE_KNOBS else "number",
        "minimum": low,
        "maximum": high,
    }
    for name, (low, high) in KNOB_RANGES.items()
}
_SHARED: Schema = {
    "model": {**_STRING, "description": "May be left out when one model is served."},
    "stream": _BOOL,
    "stream_options": {
        "type": "object",
        "properties": {"include_usage": _BOOL, "continuous_usage_stats": _BOOL},
    },
    **_KNOBS,
    "max_completion_tokens": _KNOBS["max_tokens"],
    "sampling_defaults": {
        "type": "object",
        "properties": _KNOBS,
        "description": "For what neither the call nor the model sets.",
    },
    "min_tokens": {"type": "integer", "minimum": 0},
    "n": {"type": "integer", "minimum": 1, "maximum": MAX_N},
    "logit_bias": {
        "type": "object",
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    },
    "seed": _INT,
    "stop": {"oneOf": [_STRING, {"type": "array", "items": _STRING, "maxItems": MAX_STOP}]},
    "stop_token_ids": _IDS,
    "include_stop_str_in_output": _BOOL,
    "ignore_eos": _BOOL,
    "skip_special_tokens": _BOOL,
    "return_token_ids": _BOOL,
    "return_tokens_as_token_ids": _BOOL,
    "priority": {**_INT, "description": "Lower runs first."},
    "cache_salt": _STRING,
}
_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": list(ROLES)},
            "content": {"oneOf": [_STRING, {"type": "array", "items": {"type": "object"}}]},
            "name": _STRING,
        },
    },
}
_PROMPT_ENDING: Schema = {
    "add_generation_prompt": _BOOL,
    "continue_final_message": _BOOL,
    "chat_template_kwargs": {"type": "object"},
}
_SPECIAL: Schema = {"add_special_tokens": _BOOL, "parse_special": _BOOL}
_INPUTS: Schema = {
    "oneOf": [
        _STRING,
        {"type": "array", "items": _STRING, "maxItems": MAX_INPUTS},
        _IDS,
        {"type": "array", "items": _IDS, "maxItems": MAX_INPUTS},
    ]
}
_TEXTS: Schema = {"oneOf": [_STRING, {"type": "array", "items": _STRING, "maxItems": MAX_INPUTS}]}
_ENCODING: Schema = {"encoding_format": {"enum": ["float", "base64"]}}
_POOLED: Schema = {
    "model": _STRING,
    "truncate_prompt_tokens": {
        "type": "integer",
        "minimum": -1,
        "description": "Cut longer texts to so many tokens; -1: to what the model takes.",
    },
    "priority": {**_INT, "description": "Lower runs first."},
}
_ACTIVATION: Schema = {"use_activation": {**_BOOL, "description": "False: scores as they are."}}
_RERANK: tuple[str, list[str], Schema] = (
    "Order documents by how well they answer a query.",
    ["query", "documents"],
    {
        "query": _STRING,
        "documents": {
            "type": "array",
            "maxItems": MAX_INPUTS,
            "items": {
                "oneOf": [_STRING, {"type": "object", "properties": {"text": _STRING}}],
            },
        },
        "top_n": {"type": "integer", "minimum": 1},
        "return_documents": _BOOL,
        "max_tokens_per_doc": {"type": "integer", "minimum": 1},
        **_POOLED,
        **_ACTIVATION,
    },
)
_SCORE: tuple[str, list[str], Schema] = (
    "Score pairs of texts: one with many, or as many with as many.",
    ["text_1", "text_2"],
    {"text_1": _TEXTS, "text_2": _TEXTS, **_POOLED, **_ACTIVATION},
)

_BODIES: Mapping[str, tuple[str, list[str], Schema]] = {
    "/v1/chat/completions": (
        "Answer a conversation.",
        ["messages"],
        {
            "messages": _MESSAGES,
            **_SHARED,
            "logprobs": _BOOL,
            "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
            **_PROMPT_ENDING,
        },
    ),
    "/v1/completions": (
        "Continue a text.",
        ["prompt"],
        {
            "prompt": {
                "oneOf": [
                    _STRING,
                    {"type": "array", "items": _STRING},
                    _IDS,
                    {"type": "array", "items": _IDS},
                ]
            },
            **_SHARED,
            "echo": _BOOL,
            "logprobs": {"type": "integer", "minimum": 0, "maximum": 5},
            **_SPECIAL,
        },
    ),
    "/v1/embeddings": (
        "A vector of length 1 for each text.",
        ["input"],
        {
            "input": _INPUTS,
            "dimensions": {
                "type": "integer",
                "minimum": 1,
                "description": "Cut vectors to so many numbers, of length 1 again.",
            },
            **_ENCODING,
            "add_special_tokens": _BOOL,
            **_POOLED,
        },
    ),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), _RERANK),
    **dict.fromkeys(("/score", "/v1/score"), _SCORE),
    "/classify": (
        "The probability of each of a classifier's classes.",
        ["input"],
        {"input": _INPUTS, "add_special_tokens": _BOOL, **_POOLED, **_ACTIVATION},
    ),
    "/pooling": (
        "What the network gives for each text: an embedding, or probabilities.",
        ["input"],
        {
            "input": _INPUTS,
            "task": {"enum": ["embed", "classify", "score"]},
            **_ENCODING,
            "add_special_tokens": _BOOL,
            **_POOLED,
            **_ACTIVATION,
        },
    ),
    "/tokenize": (
        "Token ids of a text or a conversation.",
        [],
        {
            "model": _STRING,
            "prompt": _STRING,
            "messages": _MESSAGES,
            "return_token_strs": _BOOL,
            **_SPECIAL,
            **_PROMPT_ENDING,
        },
    ),
    "/detokenize": ("The text of token ids.", ["tokens"], {"model": _STRING, "tokens": _IDS}),
    "/pagemill/unload": ("Take a model out of memory.", ["model"], {"model": _STRING}),
}


_NO_BODY: Mapping[str, str] = {
    "/v1/models": "The models that may be asked for.",
    "/v1/models/{model_id}": "One of them.",
    "/health": "200 while the server and its engines answer. Needs no key.",
    "/ready": "200 when every loaded model has just made a token.",
    "/version": "The server's version.",
    "/load": "How many requests run and wait.",
    "/metrics": "Counters in Prometheus' format.",
    "/pagemill/models": "The models in memory.",
}
_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": _STRING,
                "type": _STRING,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
_RESPONSES: Schema = {
    "200": {"description": "The answer."},
    "default": {
        "description": "What went wrong; `param` names the field.",
        "content": {"application/json": {"schema": _ERROR}},
    },
}


def document() -> dict[str, Any]:
    """All of it, in the form of OpenAPI 3.1."""
    info = {"title": "Pagemill", "description": DESCRIPTION, "version": __version__}
    paths: dict[str, Any] = {
        path: {"post": _post(path, summary, required, properties)}
        for path, (summary, required, properties) in _BODIES.items()
    }
    for path, summary in _NO_BODY.items():
        paths[path] = {"get": _get(path, summary)}
    return {"openapi": "3.1.0", "info": info, "paths": paths}


def _post(path: str, summary: str, required: list[str], properties: Schema) -> dict[str, Any]:
    schema = {"type": "object", "required": required, "properties": properties}
    return {
        "summary": summary,
        "operationId": _operation_id("post", path),
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _RESPONSES,
    }


def _get(path: str, summary: str) -> dict[str, Any]:
    names = _NAMED_PARTS.findall(path)
    parts = [{"name": n, "in": "path", "required": True, "schema": _STRING} for n in names]
    return {
        "summary": summary,
        "operationId": _operation_id("get", path),
        **({"parameters": parts} if parts else {}),
        "responses": _RESPONSES,
    }


def _operation_id(method: str, path: str) -> str:
    return "_".join([method, *_WORDS.findall(path)])
