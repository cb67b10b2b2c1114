"""The terminal chat: what is remembered, what the / commands do, what Ctrl-C and Ctrl-D leave."""

import io

import pytest

from pagemill.cli.chat import Chat, Options
from pagemill.cli.chat_commands import HELP
from pagemill.cli.talk import Ending, Knobs, Talker, Turn
from pagemill.errors import ContextTooLong, EngineFailure, UnknownModel

from .fakes import ENDING, FakeTalker


class Keyboard:
    """Types `lines`; exceptions among them are keys (Ctrl-C, Ctrl-D)."""

    def __init__(self, *lines: str | BaseException) -> None:
        self.lines = [*lines, EOFError()]
        self.prompts: list[str] = []

    def read(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line


def chat(*lines: str | BaseException, talker: FakeTalker | None = None) -> tuple[Chat, str]:
    out = io.StringIO()

    def open_model(name: str) -> Talker:
        if name == "nobody":
            raise UnknownModel("model 'nobody' is not there")
        return FakeTalker(name=name)

    session = Chat(
        talker=talker or FakeTalker(),
        knobs=Knobs(),
        options=Options(),
        read=Keyboard(*lines).read,
        out=out,
        open_model=open_model,
        width=lambda: 40,
        set_history=lambda on: None,
    )
    session.run()
    return session, out.getvalue()


def test_remembers_the_conversation() -> None:
    talker = FakeTalker()
    _, printed = chat("hi", "again", talker=talker)
    assert talker.asked[1] == [
        Turn("user", "hi"),
        Turn("assistant", "Hello there."),
        Turn("user", "again"),
    ]
    assert printed.count("Hello there.\n") == 2


def test_blocks_of_several_lines() -> None:
    talker = FakeTalker()
    chat('"""one', "  two", 'three"""', '"""x"""', 'say """ aloud', talker=talker)
    assert [turns[-1].content for turns in talker.asked] == [
        "one\n  two\nthree",
        "x",
        'say """ aloud',
    ]


def test_system_message_from_a_block() -> None:
    talker = FakeTalker()
    chat('/set system """be', 'brief"""', "hi", talker=talker)
    assert talker.asked[0] == [Turn("system", "be\nbrief"), Turn("user", "hi")]


def test_parameters_are_set_shown_and_sent() -> None:
    talker = FakeTalker()
    _, printed = chat(
        "/set parameter seed 7", "/set parameter top_p 2", "/show parameters", "x", talker=talker
    )
    assert talker.knobs[0].seed == 7
    assert "error: top_p must be a number from 0 to 1, not 2." in printed
    assert "  seed                7\n" in printed


def test_ctrl_c_stops_the_answer_only_and_keeps_what_was_said() -> None:
    talker = FakeTalker("Once upon", KeyboardInterrupt())
    session, printed = chat("tell", talker=talker)
    assert session.turns == [Turn("user", "tell"), Turn("assistant", "Once upon")]
    assert "[stopped]" in printed


def test_ctrl_c_twice_at_the_prompt_leaves() -> None:
    talker = FakeTalker()
    _, printed = chat(KeyboardInterrupt(), "hi", KeyboardInterrupt(), KeyboardInterrupt(), "never")
    assert printed.count("Ctrl-C again") == 2
    assert not talker.asked


def test_a_conversation_that_is_too_long_is_refused_and_says_what_to_do() -> None:
    talker = FakeTalker(ContextTooLong("the conversation has 99 tokens, the context 64."))
    session, printed = chat("long", talker=talker)
    assert "has 99 tokens, the context 64. Nothing was cut; /clear starts a new" in printed
    assert session.turns == []


def test_a_full_context_is_said() -> None:
    _, printed = chat("hi", talker=FakeTalker("Hello", Ending("length", 60, 4, 1, 1)))
    assert "[the context is full; /clear starts a new conversation]" in printed


def test_a_failed_answer_does_not_end_the_chat() -> None:
    session, printed = chat("hi", "hi", talker=FakeTalker("Par", EngineFailure("it died")))
    assert printed.count("Par\nerror: it died\n") == 2
    assert session.turns == []


def test_load_swaps_the_model_and_keeps_the_old_one_on_failure() -> None:
    first = FakeTalker()
    session, printed = chat("hi", "/load nobody", talker=first)
    assert session.talker is first and session.turns and not first.closed
    assert "error: model 'nobody' is not there" in printed
    session, printed = chat("hi", "/load other", talker=first)
    assert session.talker.name == "other" and session.turns == [] and first.closed


def test_clear_show_verbose_and_bye() -> None:
    session, printed = chat(
        "/set verbose", "hi", "/clear", "/show info", "/show template", "/show system", "/bye", "no"
    )
    assert session.turns == []
    assert "eval rate:            2.00 tokens/s" in printed
    assert "  context         64 tokens\n" in printed
    assert "{{ messages }}" in printed
    assert "There is no system message." in printed


@pytest.mark.parametrize("line", ["/sett", "/set", "/set parameter seed", "/show", "/load", "/?"])
def test_an_incomplete_or_unknown_command_gets_the_list(line: str) -> None:
    _, printed = chat(line)
    assert HELP in printed


def test_a_path_at_the_beginning_is_a_message() -> None:
    talker = FakeTalker("ok", ENDING)
    chat("/etc/hosts holds what?", talker=talker)
    assert talker.asked[0][0].content == "/etc/hosts holds what?"
