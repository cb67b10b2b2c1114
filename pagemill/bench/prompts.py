"""Prompts of common words. Most vocabularies have each of them as one token; how many a server
really counts is asked first, and what it counted for each request is what is reported.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from pagemill.bench.load import Level, Load

_TEXT = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government number
night point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member law
car city community name president team minute idea body information back parent face level
office door health person art war history party result change morning reason research girl
moment air teacher force education foot boy age policy music market sense nation plan college
interest death course experience effect use class control field development role effort rate
heart drug show leader light voice wife police mind price report decision son view town road arm
difference value building action season society tax director position player record paper space
ground form event matter center site project activity star table need court oil situation cost
industry figure street image phone data
"""
WORDS = tuple(_TEXT.split())
FRESH_WORDS = 4  # that begin a prompt and were never sent before


@dataclass(frozen=True, slots=True)
class Scale:
    """How a server counts: tokens of a prompt = fixed + each * words."""

    fixed: float = 0.0
    each: float = 1.0

    @classmethod
    def of(cls, small: tuple[int, int], large: tuple[int, int]) -> Scale:
        """From two prompts, each as words and tokens."""
        each = max(0.1, (large[1] - small[1]) / (large[0] - small[0]))
        return cls(max(0.0, small[1] - each * small[0]), each)

    def words(self, tokens: int) -> int:
        """Words whose prompt is about so many tokens."""
        return max(1, round((tokens - self.fixed) / self.each))


@dataclass(frozen=True, slots=True)
class Order:
    """One request to send."""

    prompt: str
    max_tokens: int


def orders(load: Load, level: Level, round_: int, scale: Scale, fresh: str) -> Iterator[Order]:
    """The requests of a level, without end. Lengths are the same for the same seed and round.

    `fresh` is new with each command: its words begin the prompts, so that no server answers from
    what it kept of an earlier measurement. With a shared prefix they begin that.
    """
    place = f"{load.seed}/{level}/{round_}"
    lengths, text = random.Random(place), random.Random(f"text/{place}")  # noqa: S311
    shared = scale.words(load.shared_prefix) if load.shared_prefix else 0
    start = words(random.Random(f"{fresh}/{place}"), shared)  # noqa: S311
    number = 0
    while True:
        total = scale.words(load.prompt.draw(lengths))
        opening = start
        if not shared:
            new = random.Random(f"{fresh}/{place}/{number}")  # noqa: S311
            opening = words(new, min(FRESH_WORDS, total))
        rest = words(text, max(1 if shared else 0, total - len(opening)))
        yield Order(" ".join([*opening, *rest]), load.output.draw(lengths))
        number += 1


def words(rng: random.Random, count: int) -> list[str]:
    """So many of them."""
    return rng.choices(WORDS, k=count)
