"""What /docs says of the endpoints and their bodies. The checks are in the dialects."""

from collections.abc import Mapping
from typing import Any

from pagemill.server.orders import MAX_N, MAX_STOP
from pagemill.text.messages import ROLES
from pagemill.types import KNOB_RANGES, WHOLE_KNOBS

DESCRIPTION = (
    "OpenAI-compatible endpoints of a Pagemill server. Unknown fields are accepted and ignored; "
    "fields that would change the meaning of an answer and are not supported yet are refused."
)

Schema = Mapping[str, Any]

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
}


def operation(path: str) -> dict[str, Any] | None:
    """What the OpenAPI page adds to a route; None for those without a body."""
    if path not in _BODIES:
        return None
    summary, required, properties = _BODIES[path]
    schema: Schema = {"type": "object", "required": required, "properties": properties}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
    }
