"""The terminal chat: a loop of read, answer, remember, and the `/` commands.

It knows a `Talker`, a function that reads a line and a place to print; no model, no engine, no
HTTP, no terminal. An answer that was stopped stays in the conversation as far as it was said.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO

from pagemill.cli.answer import print_answer, timing_lines
from pagemill.cli.chat_commands import obey
from pagemill.cli.talk import Knobs, Talker, Turn
from pagemill.errors import ContextTooLong, PagemillError

PROMPT, CONTINUED = ">>> ", "... "
BLOCK = '"""'


@dataclass
class Options:
    """What /set changes, besides the knobs."""

    system: str = ""
    verbose: bool = False
    wrap: bool = True


@dataclass
class Chat:
    """One conversation in a terminal.

    `read(prompt)` returns a line and raises EOFError or KeyboardInterrupt as `input` does;
    `open_model(name)` makes the talker of /load; `width()` is the terminal's width now;
    `set_history(on)` switches the memory of typed lines.
    """

    talker: Talker
    knobs: Knobs
    options: Options
    read: Callable[[str], str]
    out: TextIO
    open_model: Callable[[str], Talker]
    width: Callable[[], int]
    set_history: Callable[[bool], None]
    turns: list[Turn] = field(default_factory=list)
    leaving: bool = False
    waited_s: float = field(init=False)  # for a load that no answer has reported yet

    def __post_init__(self) -> None:
        self.waited_s = self.talker.load_s

    def run(self) -> None:
        """Talk until /bye, Ctrl-D, or Ctrl-C twice at the prompt."""
        interrupted = False
        while not self.leaving:
            try:
                text = self.read_message()
            except EOFError:
                self.say("")
                return
            except KeyboardInterrupt:
                self.say("" if interrupted else "\nCtrl-C again, Ctrl-D or /bye leaves.")
                if interrupted:
                    return
                interrupted = True
                continue
            interrupted = False
            try:
                self.take(text)
            except PagemillError as error:
                self.say(f"error: {error.message}")

    def read_message(self) -> str:
        """One line, or a block between triple quotes."""
        text = self.read(PROMPT)
        before, quotes, block = text.partition(BLOCK)
        if not quotes or before.strip() not in ("", "/set system"):
            return text.strip()
        while BLOCK not in block:
            block += "\n" + self.read(CONTINUED)
        block = block.partition(BLOCK)[0].strip("\n")
        return f"{before}{block}" if before.strip() else block

    def take(self, text: str) -> None:
        """Act on what was typed."""
        if not text.strip():
            return
        # "/etc/hosts says ..." is a message; "/sett" is a mistyped command.
        word = text.split(maxsplit=1)[0]
        if word.startswith("/") and "/" not in word[1:]:
            obey(self, text)
        else:
            self.ask(text)

    def ask(self, text: str) -> None:
        """Send a message and print the answer; a refused message leaves the conversation alone."""
        system = [Turn("system", self.options.system)] if self.options.system else []
        turns = [*self.turns, Turn("user", text)]
        width = self.width() if self.options.wrap else 0
        try:
            events = self.talker.answer(system + turns, self.knobs)
            said = print_answer(events, self.out, width)
        except ContextTooLong as error:
            raise ContextTooLong(
                f"{error.message} Nothing was cut; /clear starts a new conversation."
            ) from None
        self.turns = [*turns, Turn("assistant", said.text)]
        if said.ending is None:
            self.say("[stopped]")
        elif said.ending.finish == "length" and self.knobs.max_tokens is None:
            self.say("[the context is full; /clear starts a new conversation]")
        if said.ending and self.options.verbose:
            self.say("\n" + timing_lines(said.ending, self.waited_s))
        self.waited_s = 0.0
        self.say("")

    def load(self, name: str) -> None:
        """Talk to another model; the old one stays if the new one cannot be had."""
        talker = self.open_model(name)
        self.talker.close()
        self.talker = talker
        self.waited_s = talker.load_s
        self.turns = []

    def say(self, line: str) -> None:
        """Print a line of our own."""
        self.out.write(line + "\n")
        self.out.flush()
