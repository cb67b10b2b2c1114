"""Pairs of tokens that join to a third, for the library's byte-pair encoding.

Owns their check, and finding them for vocabularies that only rank their tokens.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

from tokenizers import models

Pair = tuple[str, ...]  # of two; the library says so if it is not


def byte_pairs(
    ids: dict[str, int], pairs: list[Pair], added: frozenset[str], **options: Any
) -> models.BPE:
    """The library's model. Pairs that make one of `added`, tokens which text must not become, are
    left out. ValueError tells what the first wrong pair is.
    """
    given = {key: value for key, value in options.items() if value is not None}
    build: Any = partial(models.BPE, **given)
    # The library checks that a pair's tokens are there. A loop of ours would be a third of a start.
    with suppress(Exception):
        return cast(models.BPE, build(vocab=ids, merges=pairs))
    for number, pair in enumerate(pairs):
        known = all(token in ids or token in added for token in (*pair, "".join(pair)))
        if len(pair) != 2 or not known:
            shown = " ".join(pair)[:64]
            raise ValueError(f"item {number}, {shown!a}, does not join two tokens to a third")
    kept = [pair for pair in pairs if added.isdisjoint((*pair, "".join(pair)))]
    return cast(models.BPE, build(vocab=ids, merges=kept))


def pairs_by_rank(tokens: Sequence[str], ranks: Mapping[str, int]) -> list[Pair]:
    """Every way in which a token is two others, for `tokens` in order of their rank, the best one
    first. Of several ways for one token, the one whose parts have the lower `ranks` is first.
    """
    pairs: list[Pair] = []
    for token in tokens:
        found = [
            (left, right)
            for n in range(1, len(token))
            if (right := token[n:]) in ranks and (left := token[:n]) in ranks
        ]
        if len(found) > 1:
            found.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        pairs += found
    return pairs
