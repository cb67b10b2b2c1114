"""What models say of sampling: what is taken, what is passed over with a word, what is refused."""

import json
import logging
from pathlib import Path

import pytest

from pagemill.errors import BadModelFile
from pagemill.text.defaults import defaults_of_folder, defaults_of_gguf
from pagemill.text.model_text import read_model_text
from pagemill.types import GenerationDefaults

VOCAB = 100


def of_folder(folder: Path, text: str) -> GenerationDefaults:
    (folder / "generation_config.json").write_text(text)
    return defaults_of_folder(folder, VOCAB)


def test_a_folder(tmp_path: Path) -> None:
    assert defaults_of_folder(tmp_path, VOCAB) == GenerationDefaults()
    config = {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0,
        "repetition_penalty": 1.05,
        "presence_penalty": 1.5,
        "frequency_penalty": None,
        "max_new_tokens": 2048,
        "max_length": 20,
        "do_sample": True,
        "eos_token_id": [7, 9, 7],
        "transformers_version": "4.51.0",
    }
    assert of_folder(tmp_path, json.dumps(config)) == GenerationDefaults(
        0.6, 20, 0.95, 0, 1.05, 1.5, None, 2048, (7, 9)
    )
    assert of_folder(tmp_path, '{"eos_token_id": 99}').stop_ids == (99,)
    assert of_folder(tmp_path, '{"top_k": -1}').top_k == 0


def test_a_gguf_file() -> None:
    keys = {
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 20,
        "general.sampling.top_p": 0.9,
        "general.sampling.min_p": 0.05,
        "general.sampling.penalty_repeat": 1.1,
        "general.sampling.mirostat": 2,
    }
    assert defaults_of_gguf(keys) == GenerationDefaults(0.6, 20, 0.9, 0.05, 1.1)
    assert defaults_of_gguf({}) == GenerationDefaults()


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("temperature", "-0.1", "a number from 0 to 2"),
        ("temperature", "2.5", "a number from 0 to 2"),
        ("temperature", "NaN", "a number from 0 to 2"),
        ("temperature", "true", "a number from 0 to 2"),
        ("temperature", '"0.6"', "a number from 0 to 2"),
        ("temperature", "[0.6]", "a number from 0 to 2"),
        ("top_p", "Infinity", "a number from 0 to 1"),
        ("top_p", "9" * 4000, "a number from 0 to 1"),
        ("top_k", "20.0", "a whole number from -1 to"),
        ("top_k", "-2", "a whole number from -1 to"),
        ("repetition_penalty", "0", "a number from 0.01 to 10"),
        ("max_new_tokens", "0", "a whole number from 1 to"),
    ],
)
def test_numbers_out_of_range_are_passed_over_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, key: str, value: str, rule: str
) -> None:
    with caplog.at_level(logging.WARNING):
        found = of_folder(tmp_path, f'{{"{key}": {value}, "min_p": 0.1}}')
    assert found == GenerationDefaults(min_p=0.1)
    [record] = caplog.records
    assert record.getMessage().startswith(f"generation_config.json: {key} is ")
    assert f", not {rule}" in record.getMessage() and len(record.getMessage()) < 150


@pytest.mark.parametrize("ids", ["100", "-1", "[5, 100]", "1.0", '"2"', "true", "[[1]]", "{}"])
def test_ids_that_the_vocabulary_lacks_are_refused(tmp_path: Path, ids: str) -> None:
    with pytest.raises(BadModelFile, match=r"eos_token_id .* is no id from 0 to 99"):
        of_folder(tmp_path, f'{{"eos_token_id": {ids}}}')


def test_more_ids_than_anyone_needs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="has 129 ids, the limit is 128"):
        of_folder(tmp_path, json.dumps({"eos_token_id": [1] * 129}))


def test_a_file_and_a_folder_bring_the_same_things(tmp_path: Path) -> None:
    keys = {"tokenizer.chat_template": "a", "general.sampling.temp": 0.6}
    file = read_model_text(tmp_path / "some.gguf", keys, VOCAB)
    (tmp_path / "chat_template.jinja").write_text("a")
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6}')
    folder = read_model_text(tmp_path, {}, VOCAB)
    assert file.template is not None and folder.template is not None
    assert file.template.text == folder.template.text
    assert file.defaults == folder.defaults
    assert (file.defaults_origin, folder.defaults_origin) == (
        "the model file",
        "generation_config.json",
    )
