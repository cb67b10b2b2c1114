"""`pagemill run`: one answer, or a chat in the terminal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from pagemill.cli.answer import print_answer, timing_lines
from pagemill.cli.boundary import INTERRUPTED, print_note
from pagemill.cli.talk import Knobs, Talker, Turn
from pagemill.errors import InvalidRequest, PagemillError, UnknownModel

if TYPE_CHECKING:
    from pathlib import Path

    from pagemill.config import Settings

MAX_PIPED = 64 << 20  # characters; more than any context takes


@dataclass(frozen=True, slots=True)
class RunOrder:
    """What was typed after `pagemill run`."""

    model: str
    prompt: str
    knobs: Knobs
    system: str = ""
    verbose: bool = False
    wrap: bool = True
    url: str = ""


def run(order: RunOrder, settings: Settings, piped: TextIO | None) -> int:
    """Answer the prompt, or chat when there is none; `piped` is stdin when it is no terminal."""
    order.knobs.checked()
    prompt = with_piped(order.prompt, piped)
    if not prompt and piped is not None:
        raise InvalidRequest("nothing was asked: the prompt and the piped text are empty")

    def open_model(name: str) -> Talker:
        return open_talker(name, order.url, settings)

    talker = open_model(order.model)
    if prompt:
        try:
            return answer_once(talker, prompt, order)
        finally:
            talker.close()
    return chat(talker, order, open_model, settings.hub.home)


def with_piped(prompt: str, piped: TextIO | None) -> str:
    """The prompt, a blank line, and what was piped in."""
    if piped is None:
        return prompt
    text = piped.read(MAX_PIPED + 1)
    if len(text) > MAX_PIPED:
        raise InvalidRequest(f"more than {MAX_PIPED} characters were piped in")
    return "\n\n".join(part for part in (prompt, text.rstrip("\n")) if part.strip())


def answer_once(talker: Talker, prompt: str, order: RunOrder) -> int:
    """Print one answer and return the exit code."""
    turns = [Turn("system", order.system)] if order.system else []
    events = talker.answer([*turns, Turn("user", prompt)], order.knobs)
    width = (terminal_width() if order.wrap else 0) if sys.stdout.isatty() else None
    said = print_answer(events, sys.stdout, width)
    if said.ending is None:
        return INTERRUPTED
    if said.ending.finish == "length" and order.knobs.max_tokens is None:
        print_note(
            "the answer ends here: the context is full, or the model sets a limit "
            "(--max-model-len, --max-tokens)"
        )
    if order.verbose:
        print("\n" + timing_lines(said.ending, talker.load_s), file=sys.stderr)
    return 0


def chat(talker: Talker, order: RunOrder, open_model: Callable[[str], Talker], home: Path) -> int:
    """The terminal chat, with typed lines remembered in a file of the user's."""
    from pagemill.cli.chat import Chat, Options
    from pagemill.cli.history import History

    history = History(home / "history", on=not os.environ.get("PAGEMILL_NOHISTORY"))
    session = Chat(
        talker=talker,
        knobs=order.knobs,
        options=Options(order.system, order.verbose, order.wrap),
        read=history.read,
        out=sys.stdout,
        open_model=open_model,
        width=terminal_width,
        set_history=history.switch,
    )
    session.say(f"{talker.name} is ready. /? lists the commands, /bye leaves.")
    try:
        session.run()
    finally:
        history.save()
        session.talker.close()
    return 0


def terminal_width() -> int:
    """Columns of the terminal now; it may have been resized."""
    return shutil.get_terminal_size().columns


def open_talker(name: str, url: str, settings: Settings) -> Talker:
    """The model from a running server if one serves it, else from an engine of our own.

    A `url` is an order: that server answers, or nobody does. Without one, only a Pagemill is asked:
    a stranger on our port must not get the user's text because its model has the same name. And
    nobody is asked if the user wants another template or other defaults than a server has.
    """
    from pagemill.cli.models import is_file, matching
    from pagemill.config import TextConfig

    if url:
        from pagemill.cli.remote import Server, ServerTalker

        server = Server.chosen(settings.http, url)
        served = server.models()
        found = matching(name, served)
        if found is None:
            names = ", ".join(model.name for model in served) or "none"
            raise UnknownModel(f"{server.url} does not serve {name!r}; it serves {names}")
        return ServerTalker(server, found)
    as_served = not is_file(name) and settings.text == TextConfig()
    if as_served and (talker := _running(name, settings)) is not None:
        return talker
    return _own_engine(name, settings)


def _running(name: str, settings: Settings) -> Talker | None:
    """A talker to the server at the configured address, if it is ours and has the model."""
    from pagemill.cli.models import matching
    from pagemill.cli.remote import OWNER, Server, ServerTalker

    server = Server.chosen(settings.http)
    if not server.listens():
        return None
    try:
        ours = [model for model in server.models() if model.owner == OWNER]
    except PagemillError as error:
        print_note(f"not asking the program at {server.url}: {error.message}")
        return None
    found = matching(name, ours)
    return None if found is None else ServerTalker(server, found)


def _own_engine(name: str, settings: Settings) -> Talker:
    from pagemill.cli import loading
    from pagemill.cli.models import ensure
    from pagemill.runtime import given_template

    given_template(settings.text)  # wrong ones are refused before anything is fetched
    model = ensure(name, settings)
    loading.begin()
    try:
        from pagemill.cli.local import EngineTalker, Loader
        from pagemill.runtime import Runtime

        def runtime() -> Loader:
            return Runtime(settings, [name])

        return EngineTalker(runtime, name, lambda: print_note(f"loading {model.name} ..."))
    finally:
        loading.end()
