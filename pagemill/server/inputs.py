"""Texts in bodies, whatever the dialect: one or many, as strings or as token ids, and what else
calls for vectors have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagemill.errors import InvalidRequest
from pagemill.server.fields import Fields, read_token_ids, show
from pagemill.server.orders import MAX_NAME

MAX_TEXT = 2**25
MAX_IDS = 2**20
MAX_INPUTS = 2048  # of one call for vectors

Input = str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PooledOrder:
    """What every call for vectors may say, valid without knowing the model."""

    model: str = ""
    # Longer texts are cut to so many tokens, -1: to what the model takes; None: they are refused.
    truncate: int | None = None
    add_special: bool = True
    priority: int = 0
    raw: bool = False  # scores as the network gives them
    second_limit: int | None = None  # tokens of the second text of a pair; the rest is left out


# Fields whose other values would change what the vectors are.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "truncation_side": (None, "right"),
    "embed_dtype": (None, "float32"),
    "endianness": (None, "native", "little"),
    "messages": (None,),
}


def read_pooled_order(body: Fields) -> PooledOrder:
    """The fields that calls for vectors share, under vLLM's names."""
    for name, allowed in _ONLY.items():
        if body.get(name) not in allowed:
            raise InvalidRequest(
                f"{name}: {show(body.get(name))} is not supported; leave it out.", param=name
            )
    truncate = body.integer("truncate_prompt_tokens", None, -1, 2**31 - 1)
    if truncate == 0:
        raise body.wrong("truncate_prompt_tokens", "must be -1 or at least 1")
    plain = body.boolean("raw_scores", False)
    return PooledOrder(
        model=body.string("model", "", MAX_NAME),
        truncate=truncate,
        add_special=body.boolean("add_special_tokens", True),
        priority=body.integer("priority", 0, -(2**31), 2**31 - 1),
        raw=plain or not body.boolean("use_activation", True),
        second_limit=body.integer("max_tokens_per_doc", None, 1, 2**31 - 1),
    )


def read_base64(body: Fields) -> bool:
    """Whether vectors are sent as base64 of their float32 numbers, little-endian."""
    kind = body.get("encoding_format")
    if kind not in (None, "float", "base64"):
        raise body.wrong("encoding_format", 'must be "float" or "base64"')
    return bool(kind == "base64")


def read_inputs(body: Fields, name: str, most: int) -> tuple[Input, ...]:
    """A string, a list of token ids, or a list of up to `most` of either. They may be empty."""
    raw = body.get(name)
    if isinstance(raw, str):
        return (raw,)
    if not isinstance(raw, list) or not raw:
        rule = "must be a string, a list of strings, a list of token ids or a list of such lists"
        raise body.wrong(name, rule)
    if not isinstance(raw[0], (str, list)):
        body.check_count(name, len(raw), MAX_IDS)
        return (read_token_ids(raw, name),)
    body.check_count(name, len(raw), most)
    return tuple(_one(item, raw[0], name, i) for i, item in enumerate(raw))


def _one(item: Any, first: Any, name: str, index: int) -> Input:
    path = f"{name}[{index}]"
    if type(item) is not type(first):
        raise InvalidRequest(
            f"{path} must be of the same kind as {name}[0], not {show(item)}.", param=name
        )
    return item if isinstance(item, str) else read_token_ids(item, path)
