"""What a chat template takes, found by trial: published ones differ, and none says so.

Owns small conversations and the signs by which their renderings are judged. It must not know how a
template is rendered.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pagemill.text.messages import ContentPart, Habits, Message, ToolCall, to_mapping

# Renders messages and tools, without the beginning of an answer; nothing comes of what the template
# cannot do.
Render = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None], str]

_NAME, _KEY, _VALUE = "look_up", "needle_key", "needle value"
_TOOLS = (
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "Looks up.",
            "parameters": {
                "type": "object",
                "properties": {_KEY: {"type": "string", "description": "What."}},
                "required": [_KEY],
            },
        },
    },
)
_ASK = Message("user", "Go.")
# All templates take an id of nine letters and digits, some no other.
_CALL = ToolCall("call00001", _NAME, f'{{"{_KEY}": "{_VALUE}"}}')
_CALLING = Message("assistant", "", tool_calls=(_CALL,))
_RESULT = Message("tool", "Found.", _NAME, tool_call_id=_CALL.id)

_PARTS = (ContentPart("text", "needle"), ContentPart("text", "thread"))
_IN_PARTS = {
    "system": (Message("system", _PARTS), _ASK),
    "user": (Message("user", _PARTS),),
    "assistant": (_ASK, Message("assistant", _PARTS), _ASK),
    "tool": (_ASK, _CALLING, Message("tool", _PARTS, _NAME, tool_call_id=_CALL.id)),
}


def find_habits(render: Render) -> Habits:
    """What the template expects of a turn with tool calls; a guess if it shows no calls at all."""
    for as_text, empty in itertools.product((False, True), repeat=2):
        habits = Habits(as_text, empty)
        turns = [to_mapping(message, habits) for message in (_ASK, _CALLING, _RESULT)]
        text = render(turns, _TOOLS)
        # An object written out by Python, JSON within JSON, a null taken for a text.
        odd = [f"'{_KEY}'", f'\\"{_KEY}', *([] if empty else ["None"])]
        if _VALUE in text and not any(sign in text for sign in odd):
            return habits
    return Habits(empty_content=True)


def find_part_roles(render: Render, habits: Habits) -> frozenset[str]:
    """The roles whose content the template takes as a list of parts."""
    found = []
    for role, messages in _IN_PARTS.items():
        turns = [to_mapping(message, habits, True) for message in messages]
        text = render(turns, _TOOLS if role == "tool" else None)
        shown = all(part.text in text for part in _PARTS)
        if shown and "'text'" not in text and '"text"' not in text:  # not as the list written out
            found.append(role)
    return frozenset(found)


def find_frame(render: Render) -> str:
    """What the template puts around the words of a system and of a user, or of a user alone."""
    turns = [{"role": role, "content": "Go."} for role in ("system", "user")]
    return render(turns, None) or render(turns[1:], None)
