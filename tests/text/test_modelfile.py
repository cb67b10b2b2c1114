"""Modelfiles: what is honoured, and what is refused with its line."""

from pathlib import Path

import pytest

from pagemill.errors import PagemillError, Unsupported
from pagemill.text.modelfile import Modelfile, read_modelfile
from pagemill.text.overlay import Opening, Overlay


def read(folder: Path, text: str) -> Modelfile:
    path = folder / "Modelfile"
    path.write_text(text)
    return read_modelfile(path)


def test_everything_that_is_honoured(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        '''# a comment
from smollm2:135m

PARAMETER temperature 0.25
parameter num_predict 40
PARAMETER repeat_penalty 1.5
PARAMETER top_k -1
PARAMETER stop "<|im_end|>"
PARAMETER stop <|im_start|>
SYSTEM """You are a pirate.
  # no comment, but text
Answer briefly."""
TEMPLATE """{% for m in messages %}{{ m.content }}
{% endfor %}"""
MESSAGE user What is your name?
MESSAGE assistant "Arr!"
MESSAGE user """two
lines"""
LICENSE Apache-2.0
''',
    )
    assert found.base == "smollm2:135m"
    assert found.stops == ((8, "<|im_end|>"), (9, "<|im_start|>"))
    assert found.overlay == Overlay(
        base="smollm2:135m",
        template="{% for m in messages %}{{ m.content }}\n{% endfor %}",
        system="You are a pirate.\n  # no comment, but text\nAnswer briefly.",
        messages=(
            Opening("user", "What is your name?"),
            Opening("assistant", "Arr!"),
            Opening("user", "two\nlines"),
        ),
        defaults={"temperature": 0.25, "max_tokens": 40, "repetition_penalty": 1.5, "top_k": 0},
        license="Apache-2.0",
    )


@pytest.mark.parametrize("text", ['FROM x\nSYSTEM say """ here"""', 'FROM x\nSYSTEM """a"""'])
def test_quotes_on_one_line(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text).overlay.system in ("a", "say  here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SYSTEM a", "'Modelfile' has no FROM"),
        ("", "has no FROM"),
        ("FROM", "line 1: FROM says nothing"),
        ("FROM a\nFROM b", "line 2: FROM: there is one already"),
        ("FROM a\nSYSTEM", "line 2: SYSTEM says nothing"),
        ("FROM a\n\nADAPTER ./lora", "line 3: ADAPTER cannot be honoured"),
        ("FROM a\nSYTEM b", "line 2: 'SYTEM' is not one of FROM, PARAMETER"),
        ("FROM a\nPARAMETER num_ctx 4096", "num_ctx cannot be honoured: `pagemill serve --max-mod"),
        ("FROM a\nPARAMETER mirostat 2", "PARAMETER mirostat cannot be honoured: there are stop"),
        (
            "FROM a\nPARAMETER temperature 9",
            "line 2: PARAMETER temperature: 9 is not within 0 to 2",
        ),
        ("FROM a\nPARAMETER temperature x", "PARAMETER temperature: could not convert"),
        ("FROM a\nPARAMETER temperature nan", "nan is not within 0 to 2"),
        ("FROM a\nPARAMETER num_predict 1.5", "1.5 is no whole number"),
        ("FROM a\nPARAMETER num_predict inf", "PARAMETER num_predict: "),
        ("FROM a\nPARAMETER num_predict -1", "-1 is not within 1 to"),
        ("FROM a\nMESSAGE tool b", "line 2: MESSAGE: role 'tool' is not one of"),
        ('FROM a\nSYSTEM """b\nc', 'line 2: """ is never closed'),
        ('FROM a\nSYSTEM """b""" c', "line 2: ' c' follows the closing"),
        ("FROM a\nTEMPLATE {% if %}", "line 2: TEMPLATE: chat template: line 1"),
        ("FROM a\nTEMPLATE {{ bos_token }}", "makes nothing of the variable 'messages'"),
        ("FROM a\n" + "MESSAGE user x\n" * 65, "65 times MESSAGE, the limit is 64"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PagemillError) as caught:
        read(tmp_path, text)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "template",
    [
        "{{ .Prompt }}",
        "{{- if .System }}{{ .System }}{{ end }}",
        '"""{{ range .Messages }}\n{{ .Content }}{{ end }}"""',
        "{{ $last := 1 }}",
    ],
)
def test_templates_of_go_are_told_apart(tmp_path: Path, template: str) -> None:
    with pytest.raises(Unsupported, match="is written in Go's language; only Jinja"):
        read(tmp_path, f"FROM a\nTEMPLATE {template}")
