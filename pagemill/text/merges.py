"""Pairs of tokens that join to a third, for the library's byte-pair encoding.

Owns their check, and finding them for vocabularies that only rank their tokens.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import models

from pagemill.text.encoder import is_panic

Pair = tuple[str, ...]  # of two; the library says so if it is not

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
_INVERSE = pow(_BASE, -1, 1 << 64)


def byte_pairs(
    ids: dict[str, int], pairs: list[Pair], added: frozenset[str], **options: Any
) -> models.BPE:
    """The library's model. Pairs that make one of `added`, tokens which text must not become, are
    left out. ValueError tells what the first wrong pair is.
    """
    given = {key: value for key, value in options.items() if value is not None}
    build: Any = partial(models.BPE, **given)
    prefix = given.get("continuing_subword_prefix", "")
    if not prefix:
        # The library finds wrong pairs itself, by an error or a panic (so not with a prefix: it
        # would cut inside of characters). A loop of ours would be a third of a start.
        try:
            return cast(models.BPE, build(vocab=ids, merges=pairs))
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
    kept = []
    for number, pair in enumerate(pairs):
        if len(pair) == 2 and pair[1].startswith(prefix):
            parts = (*pair, pair[0] + pair[1].removeprefix(prefix))
            if all(part in ids for part in parts):
                kept.append(pair)
                continue
            if all(part in ids or part in added for part in parts):
                continue
        shown = " ".join(pair)[:64]
        raise ValueError(f"item {number}, {shown!a}, does not join two tokens to a third")
    return cast(models.BPE, build(vocab=ids, merges=kept))


def pairs_by_rank(tokens: Sequence[str], ids: Sequence[int]) -> list[Pair]:
    """Every way in which a token is two others, for `tokens` in order of their rank, the best one
    first. Of several ways for one token, that with the lower id on its left is first.
    """
    if not tokens:
        return []
    sizes = np.fromiter(map(len, tokens), np.int64, len(tokens))
    ends = np.cumsum(sizes)
    starts = ends - sizes
    hashes = _hashes("".join(tokens))
    whole = hashes(starts, ends)
    order = np.argsort(whole)
    known = whole[order]

    def find(wanted: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Numbers of the tokens with these hashes, and whether there are such tokens."""
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return order[places], known[places] == wanted

    # Every place inside of a token: `owner` is the token, `cut` the place in all texts joined.
    inside = sizes - 1
    owner = np.repeat(np.arange(len(tokens)), inside)
    cut = np.arange(len(owner)) - (np.cumsum(inside) - inside)[owner] + starts[owner] + 1
    right, found = find(hashes(cut, ends[owner]))
    owner, cut, right = owner[found], cut[found], right[found]
    left, found = find(hashes(starts[owner], cut))
    found &= sizes[left] + sizes[right] == sizes[owner]
    owner, left, right = owner[found], left[found], right[found]
    ranked = np.lexsort((np.asarray(ids)[left], owner))
    text_of = tokens.__getitem__
    return list(zip(*(map(text_of, side[ranked].tolist()) for side in (left, right)), strict=True))


def _hashes(text: str) -> Callable[..., NDArray[np.uint64]]:
    """A function that gives the hashes of parts of a text, by their places: polynomials modulo
    2**64. Parts that are different have the same hash once in a blue moon; a file that is made for
    it gets other pairs, all of them of its own tokens.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    powers, inverses = (
        np.cumprod(np.full(len(codes), number, np.uint64)) for number in (_BASE, _INVERSE)
    )
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((codes + np.uint64(1)) * powers)])

    def hashes(first: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.uint64]:
        found: NDArray[np.uint64] = (sums[end] - sums[first]) * inverses[first]
        return found

    return hashes
