"""A talker without a model: it answers what it was told to and remembers what it was asked."""

from collections.abc import Iterator

from pagemill.cli.talk import Ending, Event, Knobs, Turn
from pagemill.errors import PagemillError

ENDING = Ending("stop", 12, 5, 0.5, 2.0)


class FakeTalker:
    """Answers `events`; an exception among them is raised at its place."""

    load_s = 0.25

    def __init__(self, *events: Event | BaseException, name: str = "tiny") -> None:
        self.name = name
        self.events = events or ("Hello", " there.", ENDING)
        self.asked: list[list[Turn]] = []
        self.knobs: list[Knobs] = []
        self.closed = False
        self.stopped = 0

    def info(self) -> list[tuple[str, str]]:
        return [("model", self.name), ("context", "64 tokens")]

    def template(self) -> str:
        return "{{ messages }}"

    def answer(self, turns: list[Turn], knobs: Knobs) -> Iterator[Event]:
        self.asked.append(turns)
        self.knobs.append(knobs)
        try:
            for event in self.events:
                if isinstance(event, (KeyboardInterrupt, PagemillError)):
                    raise event
                assert not isinstance(event, BaseException)
                yield event
        finally:
            self.stopped += 1

    def close(self) -> None:
        self.closed = True
