"""What a model's own tokenizer puts around a text, and around and between two texts.

Owns begin, end and separator tokens of prompts that no template made. It must not know how text
becomes ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens that stand together, and the type of segment that they count as."""

    ids: tuple[int, ...] = ()
    types: tuple[int, ...] = ()


NOTHING = Part()


def part(*ids: int | None, type_id: int = 0) -> Part:
    """Those tokens that there are, all of one type."""
    known = tuple(token_id for token_id in ids if token_id is not None)
    return Part(known, (type_id,) * len(known))


@dataclass(frozen=True, slots=True)
class Frame:
    """`before` and `after` a single text; `pair` is what stands before, between and after two.
    `types` are those of the first and the second text.
    """

    before: Part = NOTHING
    after: Part = NOTHING
    pair: tuple[Part, Part, Part] = (NOTHING, NOTHING, NOTHING)
    types: tuple[int, int] = (0, 0)

    def around(self, ids: Sequence[int]) -> list[int]:
        """A single text."""
        return [*self.before.ids, *ids, *self.after.ids]

    def around_both(self, first: Sequence[int], second: Sequence[int]) -> list[int]:
        """Two texts."""
        before, between, after = self.pair
        return [*before.ids, *first, *between.ids, *second, *after.ids]

    def types_of(self, ids: Sequence[int]) -> list[int]:
        """The type of each id that one of the other two made. The first place that looks like what
        stands between texts is taken for it: its tokens are special, so no text holds them.
        """
        before, between, after = self.pair
        start, end, size = len(before.ids), len(ids) - len(after.ids), len(between.ids)
        cut = next(
            (n for n in range(start, end - size + 1) if tuple(ids[n : n + size]) == between.ids),
            None,
        )
        if not size or cut is None:
            inner = len(ids) - len(self.before.ids) - len(self.after.ids)
            return [*self.before.types, *([self.types[0]] * inner), *self.after.types]
        first, second = ([self.types[0]] * (cut - start), [self.types[1]] * (end - cut - size))
        return [*before.types, *first, *between.types, *second, *after.types]


def begin_and_end(
    bos_id: int | None, eos_id: int | None, *separators: int | None, second_type: int = 0
) -> Frame:
    """The usual frame: a begin token, an end token after each text, separators before the second.
    None stands for a token that is not added.
    """
    before, after = part(bos_id), part(eos_id)
    last = part(eos_id, type_id=second_type)
    first_end, second_begin = part(eos_id), part(*separators, type_id=second_type)
    between = Part(first_end.ids + second_begin.ids, first_end.types + second_begin.types)
    return Frame(before, after, (before, between, last), (0, second_type))
