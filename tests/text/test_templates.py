"""Where templates and special tokens are found, and what is refused there."""

import json
from pathlib import Path
from typing import Any

import pytest

from pagemill.errors import BadModelFile, ConfigError
from pagemill.text.chat import MAX_SOURCE_CHARS
from pagemill.text.messages import Message
from pagemill.text.templates import (
    template_of_folder,
    template_of_gguf,
    template_of_setting,
    tokens_of_folder,
    tokens_of_gguf,
)
from tests.text.vocabularies import metadata

KEY = "tokenizer.chat_template"
HELLO = [Message("user", "hello")]


def write(folder: Path, name: str, content: object) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


def test_a_setting_is_a_text_or_a_file(tmp_path: Path) -> None:
    assert template_of_setting("") is None
    text = template_of_setting(" {{ messages[0].content }}\n")
    assert text is not None and text.compile({}).render(HELLO) == " hello"
    write(tmp_path, "my.jinja", "{% if true %}\n{{ bos_token }}{% endif %}")
    file = template_of_setting(str(tmp_path / "my.jinja"))
    assert file is not None and file.compile({"bos_token": "<s>"}).render(HELLO) == "<s>"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a\nb\n{{ x }", r"my\.jinja: line 3: unexpected '}'"),
        ("\n{% include 'x' %}", r"my\.jinja: line 2: Include is not allowed"),
        ("x" * (MAX_SOURCE_CHARS + 1), rf"my\.jinja: {MAX_SOURCE_CHARS + 1} characters long"),
        ("é" * 4 * MAX_SOURCE_CHARS, r"my\.jinja: 'my\.jinja' is longer than"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, content: str, reason: str) -> None:
    write(tmp_path, "my.jinja", content)
    with pytest.raises(ConfigError, match=f"^--chat-template .*{reason}") as caught:
        template_of_setting(str(tmp_path / "my.jinja"))
    assert caught.value.param == "chat_template"


def test_a_missing_file_and_a_wrong_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--chat-template .*none\.jinja: .*No such file"):
        template_of_setting(str(tmp_path / "none.jinja"))
    with pytest.raises(ConfigError, match=r"^--chat-template: line 2: "):
        template_of_setting("\n{{ x }")


def test_templates_of_gguf() -> None:
    assert template_of_gguf({}) is None
    assert template_of_gguf({KEY: " \n"}) is None
    source = template_of_gguf({KEY: "a", f"{KEY}.tool_use": "b", f"{KEY}.rag": "c"})
    assert source is not None and (source.text, source.tool_use) == ("a", "b")
    template = source.compile({})
    assert template.render(HELLO) + template.render(HELLO, tools=[{}]) == "ab"
    with pytest.raises(BadModelFile, match=r"'tokenizer\.chat_template' must be a string, not int"):
        template_of_gguf({KEY: 1})


NAMED = [
    {"name": "default", "template": "a"},
    {"name": "tool_use", "template": "b"},
    {"name": "rag", "template": "c"},
]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"tokenizer_config.json": {}}, None),
        ({"tokenizer_config.json": {"chat_template": None}}, None),
        ({"tokenizer_config.json": {"chat_template": "a"}}, ("a", "")),
        ({"tokenizer_config.json": {"chat_template": NAMED}}, ("a", "b")),
        ({"tokenizer_config.json": {"chat_template": NAMED[1:]}}, None),
        ({"chat_template.json": {"chat_template": "a"}}, ("a", "")),
        ({"chat_template.jinja": "x", "tokenizer_config.json": {"chat_template": "a"}}, ("x", "")),
        (
            {"chat_template.jinja": "x", "additional_chat_templates/tool_use.jinja": "y"},
            ("x", "y"),
        ),
    ],
)
def test_templates_of_folders(tmp_path: Path, files: dict[str, Any], expected: object) -> None:
    for name, content in files.items():
        write(tmp_path, name, content)
    found = template_of_folder(tmp_path)
    assert (found and (found.text, found.tool_use)) == expected
    assert found is None or found.origin in files


@pytest.mark.parametrize(
    "value", [1, {}, [1], [{"name": 1, "template": ""}], [{"name": "default"}]]
)
def test_a_template_of_another_kind_is_refused(tmp_path: Path, value: object) -> None:
    write(tmp_path, "tokenizer_config.json", {"chat_template": value})
    with pytest.raises(BadModelFile, match=r"tokenizer_config\.json: chat_template must be"):
        template_of_folder(tmp_path)


def test_tokens_of_gguf() -> None:
    assert tokens_of_gguf(metadata(padding_token_id=0, unknown_token_id=10**6)) == {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    assert tokens_of_gguf({}) == {}


def test_tokens_of_folders(tmp_path: Path) -> None:
    assert tokens_of_folder(tmp_path) == {}
    config = {
        "bos_token": None,
        "eos_token": {"content": "</s>", "special": True},
        "image_token": "<img>",
        "add_bos_token": True,
        "_odd_token": "x",
        "sep_token": "x" * 2000,
        "cls_token": ["x"],
        "extra_special_tokens": {"eoi_token": "</img>", "not one": "x"},
    }
    write(tmp_path, "tokenizer_config.json", config)
    write(tmp_path, "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "no"})
    assert tokens_of_folder(tmp_path) == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "image_token": "<img>",
        "eoi_token": "</img>",
    }
    many = {f"t{i}_token": "x" for i in range(300)}
    write(tmp_path, "tokenizer_config.json", many)
    with pytest.raises(BadModelFile, match="302 special tokens"):
        tokens_of_folder(tmp_path)
