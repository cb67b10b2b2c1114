"""What a conversation is made of, and the mappings that templates see of it.

Owns the typed messages of every API and the shapes in which published templates expect them. It
must not know templates' sources, tokens or HTTP.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pagemill.errors import InvalidRequest

ROLES = ("assistant", "developer", "function", "system", "tool", "user")
MAX_NESTING = 32  # of lists and mappings in tools, arguments and extra values


@dataclass(frozen=True, slots=True)
class ContentPart:
    """A piece of a message that is not text alone. Only texts have a `text`."""

    kind: Literal["text", "image", "audio", "video"]
    text: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called. `arguments` is JSON, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    An assistant's turn may hold `tool_calls`, with or without content, and the `reasoning_content`
    that came before its answer. A tool's turn names the call that it answers: `tool_call_id`.
    """

    role: str
    content: str | tuple[ContentPart, ...]
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    @property
    def has_media(self) -> bool:
        """Whether there is more in it than text."""
        return not isinstance(self.content, str) and any(p.kind != "text" for p in self.content)

    @property
    def text(self) -> str:
        """The content's text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


@dataclass(frozen=True, slots=True)
class Habits:
    """Where templates differ in what they take for a turn with tool calls."""

    arguments_as_text: bool = False  # JSON text, not the object that it holds
    empty_content: bool = False  # "" where nothing was said, not null


def to_mapping(message: Message, habits: Habits, as_parts: bool = False) -> dict[str, Any]:
    """A message as templates see it; its content a text, unless the template takes parts."""
    content: Any = message.text
    if as_parts and isinstance(message.content, tuple):
        content = [_part(part) for part in message.content]
    elif message.tool_calls and not content and not habits.empty_content:
        content = None
    turn: dict[str, Any] = {"role": message.role, "content": content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [_call(call, habits) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.reasoning_content is not None:
        # Two names are in use for it.
        turn["thinking"] = turn["reasoning_content"] = message.reasoning_content
    return turn


def _part(part: ContentPart) -> dict[str, str]:
    return {"type": "text", "text": part.text} if part.kind == "text" else {"type": part.kind}


def _call(call: ToolCall, habits: Habits) -> dict[str, Any]:
    arguments = None if habits.arguments_as_text else _json_object(call.arguments)
    function = {"name": call.name, "arguments": call.arguments if arguments is None else arguments}
    return {"id": call.id, "type": "function", "function": function}


def _json_object(text: str) -> dict[str, Any] | None:
    """The object in a JSON text; None where it is something else: models make mistakes."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def strings(value: Any, level: int = 0) -> Iterator[str]:
    """Every string in a JSON value. InvalidRequest where it is nested too deep."""
    if level > MAX_NESTING:
        raise InvalidRequest(f"values are nested deeper than {MAX_NESTING} levels", param="tools")
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from strings(item, level + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item, level + 1)
