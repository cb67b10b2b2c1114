"""run: prompts from arguments and pipes, exit codes, and who is asked."""

import io
from dataclasses import replace
from pathlib import Path

import pytest

from pagemill.cli import run as run_module
from pagemill.cli.remote import ServerTalker
from pagemill.cli.run import RunOrder, answer_once, open_talker, run, with_piped
from pagemill.cli.talk import Ending, Knobs
from pagemill.config import HttpConfig, HubConfig, Settings, TextConfig
from pagemill.errors import ConfigError, InvalidRequest, Unavailable, UnknownModel

from .fakes import FakeTalker
from .test_remote import MODEL, ScriptServer, script

__all__ = ["script"]  # the fixture


def settings(tmp_path: Path, port: int = 1) -> Settings:
    return Settings(http=HttpConfig(port=port), hub=HubConfig(home=tmp_path))


def order(prompt: str = "hi", url: str = "", verbose: bool = False) -> RunOrder:
    return RunOrder("tiny", prompt, Knobs(), "be brief", verbose, True, url)


def test_piped_text_follows_the_prompt_after_a_blank_line() -> None:
    assert with_piped("summarise", io.StringIO("a\nb\n")) == "summarise\n\na\nb"
    assert with_piped("", io.StringIO("question\n")) == "question"
    assert with_piped("question", io.StringIO("")) == "question"
    assert with_piped("question", None) == "question"


def test_nothing_asked_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="nothing was asked"):
        run(order(""), settings(tmp_path), io.StringIO("\n"))


def test_prints_the_answer_and_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talker = FakeTalker()
    monkeypatch.setattr(run_module, "open_talker", lambda name, url, settings: talker)
    assert run(order(verbose=True), settings(tmp_path), None) == 0
    printed = capsys.readouterr()
    assert printed.out == "Hello there.\n"
    assert "prompt eval count:    12 token(s)" in printed.err
    assert "total duration:       2.75s" in printed.err
    assert [turn.role for turn in talker.asked[0]] == ["system", "user"]
    assert talker.closed and talker.stopped == 1


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer_once(FakeTalker("Once", KeyboardInterrupt()), "tell", order()) == 130
    assert capsys.readouterr().out == "Once\n"


def test_an_answer_cut_by_the_context_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    answer_once(FakeTalker("Hi", Ending("length", 60, 4, 1, 1)), "tell", order())
    assert "the context is full" in capsys.readouterr().err


def test_a_running_server_that_has_the_model_answers(script: ScriptServer, tmp_path: Path) -> None:
    talker = open_talker("tiny", "", settings(tmp_path, script.server_port))
    assert isinstance(talker, ServerTalker) and talker.name == "tiny"


def test_short_and_full_names_are_the_same_model(
    script: ScriptServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODEL, "id", "smollm2:135m")
    talker = open_talker("smollm2", "", settings(tmp_path, script.server_port))
    assert talker.name == "smollm2:135m"


def test_a_stranger_on_our_port_is_not_asked(
    script: ScriptServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODEL, "owned_by", "somebody")
    own = FakeTalker()
    monkeypatch.setattr(run_module, "_own_engine", lambda name, settings: own)
    assert open_talker("tiny", "", settings(tmp_path, script.server_port)) is own
    url = f"127.0.0.1:{script.server_port}"  # unless it is named
    assert isinstance(open_talker("tiny", url, settings(tmp_path)), ServerTalker)


def test_a_file_is_run_by_an_engine_of_our_own(
    script: ScriptServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = FakeTalker()
    monkeypatch.setattr(run_module, "_own_engine", lambda name, settings: own)
    assert open_talker("./x.gguf", "", settings(tmp_path, script.server_port)) is own


def test_a_named_server_answers_or_nobody_does(script: ScriptServer, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="does not serve 'other'; it serves tiny"):
        open_talker("other", f"127.0.0.1:{script.server_port}", settings(tmp_path))
    with pytest.raises(Unavailable, match="no answer from the server at"):
        open_talker("tiny", "127.0.0.1:1", settings(tmp_path))


@pytest.mark.parametrize(
    "text", [TextConfig(chat_template="{{ messages }}"), TextConfig(generation_config="none")]
)
def test_another_template_or_other_defaults_mean_an_engine_of_our_own(
    script: ScriptServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: TextConfig
) -> None:
    own = FakeTalker()
    monkeypatch.setattr(run_module, "_own_engine", lambda name, settings: own)
    asked = replace(settings(tmp_path, script.server_port), text=text)
    assert open_talker("tiny", "", asked) is own


def test_a_wrong_template_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    asked = replace(settings(tmp_path), text=TextConfig(chat_template=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"--chat-template .*No such file"):
        open_talker("smollm2", "", asked)
