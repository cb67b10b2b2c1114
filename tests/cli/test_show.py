"""show: the template that counts, the defaults that count, and where each came from."""

from dataclasses import replace
from pathlib import Path

import pytest

from pagemill.cli.show import defaults_lines, show, template_lines
from pagemill.config import HubConfig, Settings, TextConfig
from pagemill.errors import ConfigError
from pagemill.text.model_text import read_model_text
from pagemill.types import GenerationDefaults


def settings(home: Path, **text: str) -> Settings:
    return Settings(hub=HubConfig(home=home), text=TextConfig(**text))


def test_template_tokens_and_defaults(tmp_path: Path, tiny_llama_path: Path) -> None:
    shown = show(str(tiny_llama_path), settings(tmp_path), "card")
    assert "  template        333 characters, from the model file\n" in shown
    assert "  special tokens  bos '<|im_start|>', eos '<|im_end|>'" in shown
    assert "  temperature         1                        built-in\n" in shown


def test_a_template_that_is_set_is_the_one_that_is_shown(
    tmp_path: Path, tiny_llama_path: Path
) -> None:
    given = settings(tmp_path, chat_template="{{ messages }}")
    assert "14 characters, from --chat-template" in show(str(tiny_llama_path), given, "card")
    assert show(str(tiny_llama_path), given, "template") == "{{ messages }}"
    with pytest.raises(ConfigError, match="line 1"):
        show(str(tiny_llama_path), settings(tmp_path, chat_template="{{ x }"), "card")


def test_who_says_what_counts() -> None:
    lines = defaults_lines(
        GenerationDefaults(temperature=0.6000000238, stop_ids=(1, 2)), lambda _: "a file"
    )
    assert "  temperature         0.6                      a file\n" in lines
    assert "  top_p               1                        built-in\n" in lines
    assert "  max_tokens          what the context leaves  built-in\n" in lines
    assert lines.endswith("  stop ids            1, 2                     a file")


def test_a_model_that_brings_nothing(tmp_path: Path) -> None:
    brought = read_model_text(tmp_path, {}, 10)
    lines = template_lines(brought.template, brought)
    assert "--chat-template sets one" in lines and "none are named" in lines
    many = replace(brought, tokens={f"t{i}_token": "x" for i in range(20)})
    assert "... 20 in all" in template_lines(None, many)


def test_of_an_encoder_it_says_what_it_gives_and_nothing_of_writing(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden" / "encoders"
    shown = show(str(golden / "nomic" / "model.gguf"), settings(tmp_path), "card")
    assert "  gives           embeddings of 16 numbers, from the mean of all tokens\n" in shown
    assert "template" not in shown and "temperature" not in shown
    classes = show(str(golden / "bert_classifier" / "model.gguf"), settings(tmp_path), "card")
    assert "  gives           3 classes: bad, so so, good\n" in classes
    scores = show(str(golden / "reranker" / "model.gguf"), settings(tmp_path), "card")
    assert "  gives           a score of how well two texts go together\n" in scores
