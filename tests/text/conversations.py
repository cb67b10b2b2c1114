"""Conversations that every published template is rendered with, and the date of their renderings.

`tests/golden/make_chat_templates.py` renders them with transformers, `test_published_templates.py`
with ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pagemill.text.messages import ContentPart, Message, ToolCall

NOW = datetime(2026, 1, 2, 3, 4, 5)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


@dataclass(frozen=True)
class Case:
    """What is rendered."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True


SYSTEM = Message("system", "Answer briefly.")
ASK = Message("user", 'Is "2 < 3" true, {{ name }}? Ça va & <b>好</b>\n\n')
ANSWER = Message("assistant", "Yes, it is.")
AGAIN = Message("user", "And 3 < 2?")
THOUGHT = Message("assistant", "Yes.", reasoning_content="Two is the smaller one.")
INLINE = Message("assistant", "<think>\nTwo is the smaller one.\n</think>\n\nYes.")
CALL = ToolCall("abcdef123", "get_weather", '{"city": "Zürich", "days": 3, "exact": true}')
OTHER = ToolCall("abcdef456", "get_time", '{"zone": {"name": "UTC", "offsets": [0, -1.5, null]}}')
CALLING = Message("assistant", "", tool_calls=(CALL,))
RESULT = Message("tool", '{"degrees": 21.5, "sky": "clear"}', "get_weather", (), "abcdef123")
TIME = Message("tool", "12:00", "get_time", tool_call_id="abcdef456")
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather of a city, such as "Zürich".',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name."},
                "days": {"type": "integer", "minimum": 1, "default": 1},
                "exact": {"type": "boolean"},
                "units": {"type": "string", "enum": ["metric", "imperial"]},
            },
            "required": ["city"],
        },
    },
}
TIME_TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time of day.",
        "parameters": {
            "type": "object",
            "properties": {
                "zone": {
                    "type": "object",
                    "description": "A zone.",
                    "properties": {
                        "name": {"type": "string"},
                        "offsets": {"type": "array", "items": {"type": "number"}},
                    },
                }
            },
            "required": [],
        },
    },
}
TOOLS = (WEATHER_TOOL, TIME_TOOL)
# Whatever the templates that have such a switch call it.
THINK = {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}
DO_NOT_THINK = {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"}

CASES: Mapping[str, Case] = {
    "question": Case((ASK,)),
    "question, no generation prompt": Case((ASK,), add_generation_prompt=False),
    "system": Case((SYSTEM, ASK)),
    "developer": Case((Message("developer", "Answer briefly."), ASK)),
    "turns": Case((ASK, ANSWER, AGAIN)),
    "turns with system": Case((SYSTEM, ASK, ANSWER, AGAIN)),
    "ends with an answer": Case((SYSTEM, ASK, ANSWER), add_generation_prompt=False),
    "two users": Case((ASK, AGAIN)),
    "name": Case((Message("user", "Hello.", "Ann"),)),
    "parts": Case(
        (Message("user", (ContentPart("text", "Is it "), ContentPart("text", "true?"))),),
    ),
    "image": Case((Message("user", (ContentPart("image"), ContentPart("text", "What is it?"))),)),
    "think": Case((SYSTEM, ASK), extra=THINK),
    "do not think": Case((SYSTEM, ASK), extra=DO_NOT_THINK),
    "thoughts": Case((ASK, THOUGHT, AGAIN), extra=THINK),
    "thoughts in an answer": Case((ASK, INLINE, AGAIN)),
    "documents": Case((ASK,), extra={"documents": [{"title": "Numbers", "text": "2 < 3."}]}),
    "tools": Case((ASK,), TOOLS),
    "tools with system": Case((SYSTEM, ASK), TOOLS),
    "call": Case((ASK, CALLING, RESULT), TOOLS),
    "call and answer": Case((SYSTEM, ASK, CALLING, RESULT, ANSWER, AGAIN), TOOLS),
    "calls at once": Case(
        (ASK, Message("assistant", "", tool_calls=(CALL, OTHER)), RESULT, TIME), TOOLS
    ),
    "words, thoughts and a call": Case(
        (
            ASK,
            Message(
                "assistant",
                "Let me see.",
                tool_calls=(CALL,),
                reasoning_content="The weather matters.",
            ),
            RESULT,
        ),
        TOOLS,
        THINK,
    ),
    "call without tools": Case((ASK, CALLING, RESULT)),
}
