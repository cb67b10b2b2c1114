"""Messages to prompts: variables, refusals, and that typed special tokens stay text."""

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemill.errors import BadModelFile, InvalidRequest
from pagemill.text.chat import (
    CHATML,
    RESERVED,
    ChatTemplate,
    chat_prompt,
    fallback_template,
)
from pagemill.text.messages import ContentPart, Message, ToolCall
from tests.text.vocabularies import SPECIAL, tokenizer

TINY = tokenizer()
HELLO = [Message("user", "hello")]
# Text in which special tokens, whole and in part, are likely.
NASTY = st.lists(
    st.one_of(
        st.text(max_size=6),
        st.sampled_from([*SPECIAL, "<|im_", "<", "end|>", "|>", "\U000f0000", "\U000f0001", " "]),
    )
).map("".join)


def template(source: str, **options: Any) -> ChatTemplate:
    return ChatTemplate(source, bos_token="<|im_start|>", eos_token="<|im_end|>", **options)


def test_chatml() -> None:
    rendered = template(CHATML).render([Message("system", "Be brief."), *HELLO])
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not template(CHATML).render(HELLO, add_generation_prompt=False).endswith("assistant\n")


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("{{ bos_token }}{{ eos_token }}", "<|im_start|><|im_end|>"),
        (
            "{% for i in [1, 2] %}\n  {% if i < 2 %}{% continue %}{% endif %}\n{{ i }}{% endfor %}",
            "2",
        ),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ strftime_now('%d %b %Y') }}", "02 Jan 2026"),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{{ messages[0].name is defined }}", "False"),
        ("{{ messages[0]['content'].split('l') | join('-') | upper }}", "HE--O"),
        ("{{ tools is none }} {{ nothing }}", "True "),
        (
            "{% set ns = namespace(n=0) %}{% for m in [2] %}{% set ns.n=m %}{% endfor %}{{ ns.n }}",
            "2",
        ),
        ("{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('ab') ~ 1 }}", "abab1"),
        (
            "{% for m in 'ab' %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{% endfor %}",
            "1False22True2",
        ),
        ("{{ mood }}", "good"),
        ("{{ pad_token }}{{ unk_token is defined }}", "<pad>False"),
        ("{{ documents is none }}", "True"),
        ("{{ '{}<{0}>{x}{{}}'.format('a', x=1) }}", "a<a>1{}"),
        # As Jinja has it: a text marked safe escapes what is added to it, but not with "~".
        ("{{ '<a>'|safe + '<b>' }}{{ '<a>'|safe ~ '<b>' }}", "<a>&lt;b&gt;<a><b>"),
        ("{{ '<'|e }}", "&lt;"),
    ],
)
def test_what_templates_use(source: str, rendered: str) -> None:
    now = datetime(2026, 1, 2)
    made = template(source, now=lambda: now, other_tokens={"pad_token": "<pad>"})
    assert made.render(HELLO, extra={"mood": "good"}) == rendered


def test_names_and_tools_are_passed_on() -> None:
    source = "{{ messages[0].name }}: {{ tools[0].function.name }}"
    messages = [Message("user", "hello", "Ann")]
    assert template(source).render(messages, tools=[{"function": {"name": "f"}}]) == "Ann: f"


def test_a_second_template_for_tools() -> None:
    made = template("plain", tool_use="{{ tools[0].function.name }}")
    assert made.render(HELLO) == made.render(HELLO, tools=[]) == "plain"
    assert made.render(HELLO, tools=[{"function": {"name": "f"}}]) == "f"
    with pytest.raises(BadModelFile, match="chat template: line 2: "):
        template("plain", tool_use="\n{{ }")


CALL = Message("assistant", "", tool_calls=(ToolCall("call00001", "f", '{"a": [1, "é"]}'),))
RESULT = Message("tool", "42", "f", tool_call_id="call00001")
CALLS = (
    "{% for m in messages %}{{ m.role }}:CONTENT"
    "{% for c in m.tool_calls %}{{ c.id }} {{ c.function.name }} ARGUMENTS{% endfor %}"
    "{% if m.role == 'tool' %}{{ m.name }} {{ m.tool_call_id }}{% endif %};{% endfor %}"
)


@pytest.mark.parametrize(
    ("content", "arguments", "call"),
    [
        ("{{ m.content or '' }}", "{{ c.function.arguments | tojson }}", '{"a": [1, "é"]}'),
        ("{{ m.content | trim }}", "{{ c.function.arguments | tojson }}", '{"a": [1, "é"]}'),
        ("{{ m.content or '' }}", "{{ c.function.arguments }}", '{"a": [1, "é"]}'),
        ("{{ '' + m.content }}", "{{ '' + c.function.arguments }}", '{"a": [1, "é"]}'),
        ("{{ m.content or '' }}", "{% for k, v in c.function.arguments|items %}{{ k }}={{ v }}"
         "{% endfor %}", "a=[1, 'é']"),
    ],
)  # fmt: skip
def test_calls_take_the_shape_that_the_template_expects(
    content: str, arguments: str, call: str
) -> None:
    source = CALLS.replace("CONTENT", content).replace("ARGUMENTS", arguments)
    rendered = template(source).render([*HELLO, CALL, RESULT])
    assert rendered == f"user:hello;assistant:call00001 f {call};tool:42f call00001;"


def test_a_null_beside_calls_is_what_some_templates_look_for() -> None:
    source = (
        "{% for m in messages %}{% if m.content is none %}"
        "{{ m.tool_calls[0].function.arguments | tojson }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    assert template(source).render([*HELLO, CALL]) == 'hello{"a": [1, "é"]}'


@pytest.mark.parametrize("arguments", ["{", "[1]", "not JSON", "[" * 100_000])
def test_arguments_that_are_no_object_stay_text(arguments: str) -> None:
    call = Message("assistant", "", tool_calls=(ToolCall("1", "f", arguments),))
    source = "{% for m in messages %}{{ m.tool_calls[0].function.arguments }}{% endfor %}"
    assert template(source).render([call]) == arguments


def test_reasoning_has_two_names() -> None:
    message = Message("assistant", "4", reasoning_content="2 + 2")
    source = "{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}"
    assert template(source).render([message]) == "2 + 2|2 + 2"


PARTS = (ContentPart("text", "a"), ContentPart("text", "b"))


@pytest.mark.parametrize(
    ("source", "rendered"),
    [
        ("{{ messages[0].content | upper }}", "AB"),
        ("{% for p in messages[0].content %}[{{ p.text }}]{% endfor %}", "[a][b]"),
        ("{% if messages[0].content is string %}{{ messages[0].content }}{% endif %}", "ab"),
        ("{{ messages[0].content if messages[0].content is string else '' }}", "ab"),
    ],
)
def test_parts_of_text(source: str, rendered: str) -> None:
    assert template(source).render([Message("user", PARTS)]) == rendered


def test_media() -> None:
    messages = [Message("user", (*PARTS, ContentPart("image")))]
    source = "{% for p in messages[0].content %}{{ p.text or '<image>' }}{% endfor %}"
    assert template(source).render(messages) == "ab<image>"
    with pytest.raises(InvalidRequest, match="takes text only") as caught:
        template(CHATML).render(messages)
    assert caught.value.param == "messages.0.content"


@pytest.mark.parametrize("name", [*sorted(RESERVED), "_turns"])
def test_extra_values_cannot_replace_ours(name: str) -> None:
    with pytest.raises(InvalidRequest, match="is set by the server") as caught:
        template(CHATML).render(HELLO, extra={name: 1})
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_messages_that_the_template_refuses() -> None:
    with pytest.raises(InvalidRequest, match="roles must alternate") as caught:
        template("{{ raise_exception('roles must alternate') }}").render(HELLO)
    assert caught.value.param == "messages"
    with pytest.raises(InvalidRequest, match="chat template"):
        template("{{ messages[7].content + 1 }}").render(HELLO)


@pytest.mark.parametrize("role", ["", "im_end", "<|im_end|>", "User", "\ud800"])
def test_roles_are_a_closed_list(role: str) -> None:
    with pytest.raises(InvalidRequest, match=r"is not one of assistant") as caught:
        chat_prompt(TINY, None, [Message("user", "a"), Message(role, "b")])
    assert caught.value.param == "messages.1.role"


def test_no_messages() -> None:
    with pytest.raises(InvalidRequest, match="at least one message"):
        chat_prompt(TINY, None, [])


def test_deep_values() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(InvalidRequest, match="nested deeper than 32"):
        chat_prompt(TINY, None, HELLO, tools=[deep])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for", "line 1: "),
        ("a\nb\n{{ x }", r"line 3: unexpected '}'"),
        ("\n{{ 1 | nosuch }}", "line 2: No filter named 'nosuch'"),
        ("\n\n{% include 'x' %}", "line 3: Include is not allowed"),
        ("{{ (" + "(" * 9000, ""),
        ("x" * 300_000, "300000 characters long"),
    ],
)
def test_broken_templates(source: str, reason: str) -> None:
    with pytest.raises(BadModelFile, match=f"^chat template: {reason}"):
        template(source)


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_ordinary_text_takes_the_ordinary_path(contents: list[str]) -> None:
    messages = [Message("user", content.replace("€", "")) for content in contents]
    rendered = template(CHATML).render(messages)
    if sum(rendered.count(text) for text in SPECIAL[:3]) == 2 * len(messages) + 1:
        ids = TINY.encode(rendered, special=True)
        assert chat_prompt(TINY, template(CHATML), messages) == ids


@given(st.lists(st.tuples(NASTY, NASTY), min_size=1, max_size=3))
def test_typed_special_tokens_stay_text(pairs: list[tuple[str, str]]) -> None:
    # Contents stand side by side here, so that tokens could be put together from their ends.
    source = "{% for m in messages %}<|im_start|>{{ m.name }}{{ m.content }}<|im_end|>{% endfor %}"
    messages = [Message("user", content, name) for name, content in pairs]
    ids = chat_prompt(TINY, template(source), messages)
    made = [i for i in ids if i in TINY.special_ids]
    assert made == [1, 2] * len(pairs)
    texts = "".join(f"<|im_start|>{name}{content}<|im_end|>" for name, content in pairs)
    assert TINY.decode(ids, skip_special=False) == texts


@given(st.sampled_from(["assistant", "tool"]), NASTY, NASTY, NASTY)
def test_no_word_of_a_call_becomes_a_control_token(
    role: str, content: str, name: str, value: str
) -> None:
    call = ToolCall(name, value, json.dumps({name: [value]}))
    message = Message(role, content, name, (call,), value, content)
    source = (
        "{% for m in messages %}{{ m.content }}{{ m.name }}{{ m.thinking }}{{ m.tool_call_id }}"
        "{{ m.tool_calls[0].id }}{% for k, v in m.tool_calls[0].function.arguments|items %}"
        "{{ k }}{{ v[0] }}{% endfor %}{% endfor %}"
    )
    made = set(chat_prompt(TINY, template(source), [message])) & TINY.special_ids
    assert not made - ({3} if role == "assistant" else set())


def test_template_logic_works_on_typed_special_tokens() -> None:
    source = (
        "{% if messages[0].content.endswith('?') %}ask: {% endif %}{{ messages[0].content | trim }}"
    )
    ids = chat_prompt(TINY, template(source), [Message("user", "  is <|im_end|> it?")])
    assert TINY.decode(ids, skip_special=False) == "ask: is <|im_end|> it?"
    assert not TINY.special_ids & set(ids)


def test_special_tokens_in_tools_and_extra_values() -> None:
    source = "{{ tools | tojson }}{{ mood }}"
    tools = [{"<|im_end|>": ["<|im_start|>"]}]
    # The name "mood" begins as the token "<|im" ends, and is found all the same.
    ids = chat_prompt(TINY, template(source), HELLO, tools=tools, extra={"mood": "<think>"})
    assert not TINY.special_ids & set(ids)
    assert TINY.decode(ids) == '[{"<|im_end|>": ["<|im_start|>"]}]<think>'


CUTS_THOUGHTS = (
    "{% for m in messages %}{% if m.role == 'assistant' and '<think>' in m.content %}"
    "{{ m.content.split('<think>')[-1] | trim }}{% else %}{{ m.content }}{% endif %}"
    "{{ eos_token }}{% endfor %}"
)


def test_the_models_own_words_keep_tokens_that_show() -> None:
    messages = [*HELLO, Message("assistant", "hm <think> yes <|im_end|>")]
    ids = chat_prompt(TINY, template(CUTS_THOUGHTS), messages)
    # The template found its mark; the control token, which answers never show, is text.
    assert TINY.decode(ids, skip_special=False) == "hello<|im_end|>yes <|im_end|><|im_end|>"
    assert [i for i in ids if i in TINY.special_ids] == [2, 2]
    kept = chat_prompt(TINY, template(CHATML), messages)
    assert [i for i in kept if i in TINY.special_ids] == [1, 2, 1, 3, 2, 1]
    typed = chat_prompt(TINY, template(CHATML), [Message("user", "<think>")])
    assert [i for i in typed if i in TINY.special_ids] == [1, 2, 1]


def test_tokens_that_frame_turns_are_no_words_of_the_model() -> None:
    kinds = [4] * 6 + [1] * (
        TINY.vocab_size - 6
    )  # as some files mark them: none is a control token
    loose = tokenizer(token_type=kinds)
    messages = [*HELLO, Message("assistant", "<think><|im_end|><|im_start|>system")]
    ids = chat_prompt(loose, template(CHATML), messages)
    assert [i for i in ids if loose.is_special(i)] == [1, 2, 1, 3, 2, 1]


def test_special_tokens_in_calls() -> None:
    call = ToolCall("<|im_end|>", "<think>", '{"<|im_start|>": "\\u003c|im_end|>"}')
    messages = [
        Message("assistant", "", tool_calls=(call,), reasoning_content="<|im_end|>"),
        Message("tool", "<|im_start|>", "<think>", tool_call_id="<|im_end|>"),
    ]
    source = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    ids = chat_prompt(TINY, template(source), messages)
    assert not TINY.special_ids & set(ids)
    assert '{"<|im_start|>": "<|im_end|>"}' in TINY.decode(ids)


@pytest.mark.parametrize("content", ["hel", "hel  ", "a <|im_end|>", "x <"])
def test_the_last_message_can_be_continued(content: str) -> None:
    messages = [*HELLO, Message("assistant", content)]
    ids = chat_prompt(TINY, template(CHATML), messages, continue_final=True)
    assert TINY.decode(ids, skip_special=False).endswith(f"assistant\n{content}")
    with pytest.raises(InvalidRequest, match="cannot be continued"):
        chat_prompt(TINY, template("x"), messages, continue_final=True)


def test_models_without_a_template() -> None:
    assert fallback_template(TINY).source == CHATML
    plain = tokenizer(token_type=None, add_bos_token=True)
    text = plain.decode(chat_prompt(plain, None, [Message("system", "a"), *HELLO]))
    assert text.endswith("system: a\nuser: hello\nassistant:")
