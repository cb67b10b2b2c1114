"""OpenAI's dialect, inbound: bodies of chat and text completions to typed orders. Pure functions.

The rule for fields: those read here are checked; those in `_CANNOT_HONOUR` would change what the
answer means and are refused; all others (user, metadata, store, ...) are accepted and ignored.
The way back, from events to bodies and chunks, is `openai_answers`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pagemill.errors import InvalidRequest
from pagemill.server.fields import Fields, show
from pagemill.server.inputs import MAX_IDS, MAX_TEXT, Input, read_inputs
from pagemill.server.orders import MAX_CHOICES, MAX_NAME, Conversation, Order, read_order
from pagemill.text.messages import ROLES, Message

MAX_MESSAGES = 4096
MAX_PARTS = 256


@dataclass(frozen=True, slots=True)
class ChatOrder:
    """A checked body of /v1/chat/completions."""

    order: Order
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class CompletionOrder:
    """A checked body of /v1/completions; each prompt is text or token ids."""

    order: Order
    prompts: tuple[Input, ...]
    echo: bool = False
    add_special: bool = True
    parse_special: bool = False


@dataclass(frozen=True, slots=True)
class TokenizeOrder:
    """A checked body of /tokenize: either a text or a conversation."""

    model: str
    prompt: str | None
    conversation: Conversation | None = None
    add_special: bool = True
    parse_special: bool = False
    token_strs: bool = False


@dataclass(frozen=True, slots=True)
class DetokenizeOrder:
    """A checked body of /detokenize."""

    model: str
    tokens: tuple[int, ...]


def _present(value: Any) -> bool:
    return value not in (None, False, [], {}, "")


def _names_a_schema(value: Any) -> bool:
    return value is not None and not (isinstance(value, dict) and value.get("type") == "text")


def _forces_a_tool(value: Any) -> bool:
    return value not in (None, "none", "auto")


def _not_only_text(value: Any) -> bool:
    return value not in (None, [], ["text"])


def _more_than_one(value: Any) -> bool:
    return value is not None and (isinstance(value, bool) or value != 1)


_CANNOT_HONOUR: Mapping[str, Callable[[Any], bool]] = {
    "response_format": _names_a_schema,
    "tool_choice": _forces_a_tool,
    "function_call": _forces_a_tool,
    "modalities": _not_only_text,
    "best_of": _more_than_one,
    **dict.fromkeys(
        (
            *("suffix", "prompt_embeds", "truncate_prompt_tokens", "use_beam_search"),
            *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
            *("structured_outputs", "bad_words", "allowed_token_ids", "logprob_token_ids"),
            *("prompt_logprobs", "chat_template", "documents", "audio"),
        ),
        _present,
    ),
}


def _refuse_unsupported(body: Fields) -> None:
    for name, matters in _CANNOT_HONOUR.items():
        value = body.get(name)
        if value is not None and matters(value):
            raise InvalidRequest(
                f"{name}: {show(value)} is not supported yet; leave it out.", param=name
            )


def from_chat(body: Fields) -> ChatOrder:
    """Read a body of /v1/chat/completions."""
    _refuse_unsupported(body)
    if body.boolean("echo", False):
        raise InvalidRequest("echo is not supported in chat; leave it out.", param="echo")
    wanted = body.boolean("logprobs", False)
    top = body.integer("top_logprobs", None, 0, 20)
    if top is not None and not wanted:
        raise InvalidRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    conversation = read_conversation(body)
    order = read_order(
        body,
        logprobs=(top or 0) if wanted else None,
        default_max_tokens=None,
        continues=conversation.continue_final,
    )
    return ChatOrder(order=order, conversation=conversation)


def read_conversation(body: Fields) -> Conversation:
    """The messages and how the model's template is to lay them out."""
    continued = body.boolean("continue_final_message", False)
    add = body.boolean("add_generation_prompt", not continued)
    if add and continued:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt cannot both be true.",
            param="continue_final_message",
        )
    raw = body.items("messages", MAX_MESSAGES)
    if not raw:
        raise InvalidRequest("messages must hold at least one message.", param="messages")
    values = body.object("chat_template_kwargs")
    return Conversation(
        messages=tuple(_message(item, f"messages[{i}]") for i, item in enumerate(raw)),
        add_generation_prompt=add,
        continue_final=continued,
        template_values=values.raw if values else {},
    )


def _message(raw: Any, path: str) -> Message:
    if not isinstance(raw, dict):
        raise InvalidRequest(f"{path} must be an object, not {show(raw)}.", param=path)
    fields = Fields(raw, f"{path}.")
    role = fields.get("role")
    if role not in ROLES:
        raise fields.wrong("role", f"must be one of {', '.join(ROLES)}")
    if _present(fields.get("tool_calls")) or _present(fields.get("function_call")):
        raise InvalidRequest(
            f"{path}.tool_calls are not supported yet; leave them out.", param=f"{path}.tool_calls"
        )
    name = fields.string("name", None, MAX_NAME)
    return Message("system" if role == "developer" else role, _content(fields, role), name)


def _content(fields: Fields, role: str) -> str:
    content = fields.get("content")
    if isinstance(content, str):
        return content
    if content is None and role == "assistant":
        return ""
    if not isinstance(content, list):
        raise fields.wrong("content", "must be a string or a list of text parts")
    fields.check_count("content", len(content), MAX_PARTS)
    return "".join(_part(part, fields.path(f"content[{i}]")) for i, part in enumerate(content))


def _part(raw: Any, path: str) -> str:
    if not isinstance(raw, dict):
        raise InvalidRequest(f"{path} must be an object, not {show(raw)}.", param=path)
    part = Fields(raw, f"{path}.")
    if part.get("type") != "text":
        raise part.wrong("type", 'must be "text" (this model takes text only)')
    text = part.get("text")
    if not isinstance(text, str):
        raise part.wrong("text", "must be a string")
    return text


def from_completion(body: Fields) -> CompletionOrder:
    """Read a body of /v1/completions."""
    _refuse_unsupported(body)
    logprobs = body.integer("logprobs", None, 0, 5)
    echo = body.boolean("echo", False)
    if echo and logprobs is not None:
        raise InvalidRequest(
            "logprobs together with echo is not supported yet (the prompt's own "
            "log-probabilities are not computed); use one of them.",
            param="logprobs",
        )
    return CompletionOrder(
        order=read_order(body, logprobs=logprobs, default_max_tokens=16, continues=True),
        prompts=read_inputs(body, "prompt", MAX_CHOICES),
        echo=echo,
        add_special=body.boolean("add_special_tokens", True),
        parse_special=body.boolean("parse_special", False),
    )


def from_tokenize(body: Fields) -> TokenizeOrder:
    """Read a body of /tokenize: `prompt`, or `messages` for the chat form."""
    _refuse_unsupported(body)
    prompt = body.string("prompt", None, MAX_TEXT)
    chat = body.get("messages") is not None
    if chat == (prompt is not None):
        raise InvalidRequest("Give either prompt or messages.", param="prompt")
    return TokenizeOrder(
        model=body.string("model", "", MAX_NAME),
        prompt=prompt,
        conversation=read_conversation(body) if chat else None,
        add_special=body.boolean("add_special_tokens", True),
        parse_special=body.boolean("parse_special", False),
        token_strs=body.boolean("return_token_strs", False),
    )


def from_detokenize(body: Fields) -> DetokenizeOrder:
    """Read a body of /detokenize."""
    tokens = body.token_ids("tokens", MAX_IDS)
    if tokens is None:
        raise InvalidRequest("tokens must be a list of token ids.", param="tokens")
    return DetokenizeOrder(model=body.string("model", "", MAX_NAME), tokens=tokens)
