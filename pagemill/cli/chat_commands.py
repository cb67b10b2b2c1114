"""The commands of the terminal chat, one function each. An unknown one gets the list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemill.cli.talk import TALKING

if TYPE_CHECKING:
    from pagemill.cli.chat import Chat

HELP = """\
  /set parameter NAME VALUE   change how answers are generated (temperature, top_p, seed, ...)
  /set system TEXT            set the system message
  /set verbose | quiet        show timings after each answer, or not
  /set wordwrap | nowordwrap  wrap lines at the terminal's width, or not
  /set history | nohistory    remember typed lines for the arrow keys, or not
  /show info                  the model and where it runs
  /show parameters            how answers are generated
  /show system                the system message
  /show template              the chat template
  /load NAME                  talk to another model (starts a new conversation)
  /clear                      forget the conversation
  /bye                        leave (Ctrl-D does as well)
  /?                          this text

  Begin and end with \"\"\" to type more than one line. Ctrl-C stops an answer."""


def obey(chat: Chat, text: str) -> None:
    """Run one `/` command."""
    word, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    match word:
        case "/set":
            _set(chat, rest)
        case "/show":
            _show(chat, rest)
        case "/clear":
            chat.turns = []
            chat.say("The conversation is forgotten.")
        case "/load" if rest:
            chat.load(rest)
            chat.say(f"Now talking to {chat.talker.name}.")
        case "/bye" | "/exit" | "/quit":
            chat.leaving = True
        case "/?" | "/help":
            chat.say(HELP)
        case _:
            missing = "/load needs a name." if word == "/load" else f"There is no {word}."
            chat.say(f"{missing} Commands:\n{HELP}")


def _set(chat: Chat, text: str) -> None:
    what, _, rest = text.partition(" ")
    rest = rest.strip()
    match what:
        case "parameter" if len(rest.split(maxsplit=1)) == 2:
            name, value = rest.split(maxsplit=1)
            chat.knobs = chat.knobs.with_text(name, value)
            chat.say(f"{name} is {value} now.")
        case "system":
            chat.options.system = rest
            chat.say("The system message is set." if rest else "There is no system message now.")
        case "verbose" | "quiet":
            chat.options.verbose = what == "verbose"
            chat.say(f"Timings are {'shown' if chat.options.verbose else 'hidden'}.")
        case "wordwrap" | "nowordwrap":
            chat.options.wrap = what == "wordwrap"
            chat.say(f"Lines are {'' if chat.options.wrap else 'not '}wrapped.")
        case "history" | "nohistory":
            chat.set_history(what == "history")
            chat.say(f"Typed lines are {'' if what == 'history' else 'not '}remembered.")
        case _:
            chat.say(f"/set what? Commands:\n{HELP}")


def _show(chat: Chat, what: str) -> None:
    match what:
        case "info":
            for label, value in chat.talker.info():
                chat.say(f"  {label:<16}{value}")
        case "parameters":
            for label, value in chat.knobs.given().items():
                chat.say(f"  {label:<20}{value}")
            ours = ", ".join(f"{name} {value}" for name, value in TALKING.items())
            chat.say(f"  What is not set is as the model has it, else {ours}.")
        case "system":
            chat.say(chat.options.system or "There is no system message.")
        case "template":
            chat.say(chat.talker.template() or "There is no template to show.")
        case _:
            chat.say(f"/show what? Commands:\n{HELP}")
