"""Makes chat_templates.json: what transformers renders with every published template.

Needs packages that the project does not: run it in an environment of its own and commit the result.

    python -m venv /tmp/golden && /tmp/golden/bin/pip install transformers jinja2
    PYTHONPATH=. /tmp/golden/bin/python -m tests.golden.make_chat_templates FOLDER

FOLDER holds the `.jinja` files of `tests/text/test_published_templates.py`. The result has digests
only: the templates are other people's. Where transformers raises it has the error. Calls of tools
and parts of text are rendered in each of the shapes that they may have.
"""

import hashlib
import json
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers.utils import chat_template_utils

from pagemill.text.messages import ContentPart, Message
from tests.text.conversations import CASES, NOW, TOKENS, Case

RESULT = Path(__file__).with_suffix("").with_name("chat_templates.json")


class FixedTime(datetime):
    """The clock of all renderings."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return NOW


def part(one: ContentPart) -> dict[str, str]:
    return {"type": "text", "text": one.text} if one.kind == "text" else {"type": one.kind}


def turn(
    message: Message, arguments_as_text: bool, empty_content: bool, parts: bool
) -> dict[str, Any]:
    content: Any = message.content
    if isinstance(content, tuple):
        content = [part(one) for one in content] if parts else message.text
    made: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        made["content"] = content or ("" if empty_content else None)
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": call.arguments
                    if arguments_as_text
                    else json.loads(call.arguments),
                },
            }
            for call in message.tool_calls
        ]
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(message, name)) is not None:
            made[name] = value
    return made


def render(source: str, case: Case, *shape: bool) -> str:
    try:
        [text], _ = chat_template_utils.render_jinja_template(
            [[turn(message, *shape) for message in case.messages]],
            tools=[dict(tool) for tool in case.tools] or None,
            chat_template=source,
            add_generation_prompt=case.add_generation_prompt,
            **TOKENS,
            **case.extra,
        )
    except Exception as error:  # whatever a template does with what it did not expect
        return f"{type(error).__name__}: {error}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shapes(case: Case) -> dict[str, tuple[bool, bool, bool]]:
    """Name and shape of each rendering of a case."""
    if any(isinstance(message.content, tuple) for message in case.messages):
        return {" (list)": (False, False, True), " (text)": (False, False, False)}
    if not any(message.tool_calls for message in case.messages):
        return {"": (False, False, False)}
    return {
        f" ({'text' if text else 'object'}, {'empty' if empty else 'null'})": (text, empty, False)
        for text in (False, True)
        for empty in (False, True)
    }


def main(folder: Path) -> None:
    chat_template_utils.datetime = FixedTime
    files = sorted(folder.glob("*.jinja"))
    rendered = {
        file.name: {
            name + suffix: render(file.read_text("utf-8"), case, *shape)
            for name, case in CASES.items()
            for suffix, shape in shapes(case).items()
        }
        for file in files
    }
    made_with = {name: version(name) for name in ("transformers", "jinja2")}
    content = {"made_with": made_with, "templates": rendered}
    RESULT.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
