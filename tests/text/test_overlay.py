"""What a created model says beside its base, from its file to a conversation."""

from pathlib import Path

import pytest

from pagemill.errors import BadModelFile
from pagemill.text.messages import Message
from pagemill.text.model_text import CREATED, read_model_text
from pagemill.text.overlay import FILE, Opening, Overlay, read_overlay

FULL = Overlay(
    base="b",
    model="m.gguf",
    template="{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}",
    system="be kind",
    messages=(Opening("user", "hi"), Opening("assistant", "hello")),
    defaults={"temperature": 0.5, "max_tokens": 7},
    stop_ids=(3,),
    license="MIT",
)
GGUF = {"general.sampling.temp": 0.25, "general.sampling.top_k": 9}


def put(folder: Path, overlay: Overlay, model: str = "m.gguf") -> Path:
    (folder / FILE).write_bytes(overlay.written())
    (folder / model).touch()
    return folder / model


def test_it_lies_over_the_base(tmp_path: Path) -> None:
    path = put(tmp_path, FULL)
    assert read_overlay(path) == FULL
    brought = read_model_text(path, GGUF, 10)
    assert (brought.defaults.temperature, brought.defaults.top_k) == (0.5, 9)
    assert (brought.defaults.max_tokens, brought.defaults.stop_ids) == (7, (3,))
    origins = [brought.origin(name) for name in ("temperature", "top_k", "stop_ids")]
    assert origins == [CREATED, "the model file", CREATED]
    assert brought.template is not None
    assert brought.template.origin == CREATED


def test_conversations_begin_with_it(tmp_path: Path) -> None:
    brought = read_model_text(put(tmp_path, FULL), GGUF, 10)
    assert brought.template is not None
    template = brought.template.compile(brought.tokens)
    template.opening = brought.opening
    said = template.render([Message("user", "now")])
    assert said == "system:be kind;user:hi;assistant:hello;user:now;"
    own = [Message("system", "mine"), Message("user", "now")]
    assert template.render(own) == "system:mine;user:hi;assistant:hello;user:now;"
    plain = brought.template.compile(brought.tokens)
    assert plain.render([Message("user", "now")]) == "user:now;"


def test_it_is_for_one_model_of_a_folder(tmp_path: Path) -> None:
    put(tmp_path, FULL)
    (tmp_path / "other.gguf").touch()
    assert read_overlay(tmp_path / "other.gguf") is None
    assert read_overlay(tmp_path) is None
    assert read_model_text(tmp_path / "other.gguf", GGUF, 10).overlay is None


def test_one_over_the_other() -> None:
    small = Overlay(base="c", system="be brief", defaults={"temperature": 1.0}, stop_ids=(4,))
    both = small.over(FULL)
    assert (both.base, both.model, both.system) == ("c", "", "be brief")
    assert (both.template, both.messages, both.license) == (FULL.template, FULL.messages, "MIT")
    assert both.defaults == {"temperature": 1.0, "max_tokens": 7}
    assert both.stop_ids == (3, 4)
    assert small.over(None) == small
    assert not Overlay(base="c", model="x").says_something
    assert small.says_something


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[]", "pagemill.json: Expected `object`"),
        (b"{}", "missing required field `base`"),
        (b'{"base":"b","sytem":"x"}', "unknown field `sytem`"),
        (b'{"base":"b","defaults":{"temprature":1}}', "defaults: 'temprature' is no parameter"),
        (b'{"base":"b","defaults":{"top_p":2}}', "2 is not within 0 to 1"),
        (b'{"base":"b","defaults":{"max_tokens":1.5}}', "1.5 is no whole number"),
        (b'{"base":"b","messages":[{"role":"tool","content":"x"}]}', "Invalid enum value 'tool'"),
        (b'{"base":"b","stop_ids":[-1]}', "stop_ids must be at most 128 ids"),
        (b'{"base":"b","system":"\xff"}', "pagemill.json: "),
        (b'{"base":"b","stop_ids":[' + b"1," * 200 + b"1]}", "stop_ids must be at most 128"),
        (b'{"base":"' + b"x" * (1 << 20) + b'"}', "is longer than 1048576 bytes"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / FILE).write_bytes(raw)
    with pytest.raises(BadModelFile) as caught:
        read_overlay(tmp_path)
    assert message in caught.value.message


def test_ids_that_the_vocabulary_lacks(tmp_path: Path) -> None:
    with pytest.raises(BadModelFile, match="stop_ids: 3, of 3 tokens"):
        read_model_text(put(tmp_path, FULL), GGUF, 3)
