"""What a conversation needs, whoever answers: turns, knobs, and the talker that streams an answer.

`local.EngineTalker` runs a model in this program, `remote.ServerTalker` asks a running server. Both
give the same answers, because both send the same fields through the server's readers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from pagemill.errors import InvalidRequest

# Names from Ollama's Modelfile that people type out of habit.
ALIASES: Mapping[str, str] = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}

# For talking to small models: little noise, cut tails, and no loops.
TALKING: Mapping[str, float] = {"temperature": 0.3, "top_p": 0.95, "repetition_penalty": 1.1}


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Knobs:
    """How answers are generated; None leaves a choice to the model, then to `TALKING`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()

    def given(self) -> dict[str, Any]:
        """The knobs that are set."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["stop"] = list(self.stop) or None
        return {name: value for name, value in values.items() if value is not None}

    def body(self, *, ours: bool = True) -> dict[str, Any]:
        """The fields of a chat request, as its JSON has them; of one to a server of ours or not.

        Only ours knows of defaults that give way to the model's.
        """
        if ours:
            return {**self.given(), "sampling_defaults": dict(TALKING)}
        return {**TALKING, **self.given()}

    def checked(self) -> "Knobs":
        """These knobs, or InvalidRequest naming the first wrong one, its value and its limits."""
        from pagemill.server.fields import Fields
        from pagemill.server.orders import read_order

        read_order(Fields(self.body()), logprobs=None, default_max_tokens=None)
        return self

    def with_text(self, name: str, text: str) -> "Knobs":
        """A copy with one knob set from what a person typed."""
        name = ALIASES.get(name, name)
        known = [field.name for field in fields(self)]
        if name not in known:
            choices = ", ".join(known)
            raise InvalidRequest(f"no parameter {name!r}; there are {choices}", param=name)
        value: Any = (*self.stop, text) if name == "stop" else _number(name, text)
        return replace(self, **{name: value}).checked()


def _number(name: str, text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise InvalidRequest(f"{name} must be a number, not {text!r}", param=name) from None


@dataclass(frozen=True, slots=True)
class Ending:
    """The last event of an answer. Times are seconds; `prompt_s` ends at the first token."""

    finish: str
    prompt_tokens: int
    answer_tokens: int
    prompt_s: float
    answer_s: float
    cached_tokens: int = 0


Event = str | Ending


class Talker(Protocol):
    """A model that can be talked to."""

    @property
    def name(self) -> str: ...
    @property
    def load_s(self) -> float: ...

    def info(self) -> list[tuple[str, str]]:
        """What /show info prints: (label, value) lines."""
        ...

    def template(self) -> str:
        """The chat template's source; empty when there is none or it is not known."""
        ...

    def answer(self, turns: list[Turn], knobs: Knobs) -> Iterator[Event]:
        """Stream text, then one Ending. Closing the iterator stops the answer."""
        ...

    def close(self) -> None: ...
