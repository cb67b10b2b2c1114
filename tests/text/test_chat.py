"""Messages to prompts: variables, refusals, and that typed special tokens stay text."""

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
    Message,
    chat_prompt,
    fallback_template,
)
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
    ],
)
def test_what_templates_use(source: str, rendered: str) -> None:
    now = datetime(2026, 1, 2)
    assert template(source, now=lambda: now).render(HELLO, extra={"mood": "good"}) == rendered


def test_names_and_tools_are_passed_on() -> None:
    source = "{{ messages[0].name }}: {{ tools[0].function.name }}"
    messages = [Message("user", "hello", "Ann")]
    assert template(source).render(messages, tools=[{"function": {"name": "f"}}]) == "Ann: f"


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
    "source", ["{% for", "{{ 1 | nosuch }}", "{{ (" + "(" * 9000, "x" * 300_000]
)
def test_broken_templates(source: str) -> None:
    with pytest.raises(BadModelFile, match="chat template"):
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
