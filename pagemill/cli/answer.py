"""Printing an answer while it streams: wrapped on a terminal, raw into a pipe; timings if asked."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from pagemill.cli.talk import Ending, Event
from pagemill.cli.text import duration
from pagemill.cli.wrap import Wrapper, printable
from pagemill.errors import PagemillError


@dataclass(frozen=True, slots=True)
class Said:
    """What was printed of an answer. No ending: it was interrupted."""

    text: str
    ending: Ending | None


def print_answer(events: Iterator[Event], out: TextIO, width: int | None) -> Said:
    """Print an answer as it comes; Ctrl-C ends it and keeps what was said so far.

    `width` None prints the text as it is (a pipe), 0 filters it for a terminal, else it is wrapped.
    """
    wrapper = Wrapper(width) if width else None
    parts: list[str] = []
    ending: Ending | None = None
    try:
        for event in events:
            if isinstance(event, Ending):
                ending = event
                continue
            parts.append(event)
            text = event if width is None else printable(event)
            out.write(wrapper.push(text) if wrapper else text)
            out.flush()
    except KeyboardInterrupt:
        ending = None
    except PagemillError:
        out.write(wrapper.finish() if wrapper else "")
        out.write("\n" if parts else "")
        raise
    finally:
        with contextlib.suppress(KeyboardInterrupt):  # a second one while the answer is stopped
            close = getattr(events, "close", None)
            if close is not None:
                close()
    if wrapper:
        out.write(wrapper.finish())
    if not "".join(parts[-1:]).endswith("\n"):
        out.write("\n")
    out.flush()
    return Said("".join(parts), ending)


def timing_lines(ending: Ending, load_s: float) -> str:
    """The lines of --verbose, in the words and the order that users of Ollama know."""
    rows = [
        ("total duration", duration(load_s + ending.prompt_s + ending.answer_s)),
        ("load duration", duration(load_s)),
        ("prompt eval count", f"{ending.prompt_tokens} token(s)"),
    ]
    if ending.cached_tokens:
        rows.append(("prompt cached count", f"{ending.cached_tokens} token(s)"))
    computed = ending.prompt_tokens - ending.cached_tokens
    # The first token belongs to the prompt's time; the others are what the rate is about.
    following = max(0, ending.answer_tokens - 1)
    rows += [
        ("prompt eval duration", duration(ending.prompt_s)),
        ("prompt eval rate", _rate(computed, ending.prompt_s)),
        ("eval count", f"{ending.answer_tokens} token(s)"),
        ("eval duration", duration(ending.answer_s)),
        ("eval rate", _rate(following, ending.answer_s)),
    ]
    return "\n".join(f"{label + ':':<22}{value}" for label, value in rows)


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:.2f} tokens/s" if seconds > 0 else "-"
