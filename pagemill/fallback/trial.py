"""A network's first tokens, with and without our pages: the two must agree before it may serve.

What a class says of itself does not prove that it needs nothing but keys, values and positions. So
two texts go through the pages in three steps, together and in chunks, and once through transformers
alone.

Must not know: what a network is made of.
"""

from __future__ import annotations

import numpy as np

from pagemill.errors import Unsupported
from pagemill.fallback.network import Network, explained
from pagemill.ops.interface import Float32, Int32, Step

_PAGE_SIZE = 4
_LONG, _SHORT = 12, 5  # tokens of the two texts
_CHUNKS = ((7, 0), (4, 2), (1, 3))  # tokens of each in a step
# How far logits may be apart, by the length of their difference: rounding only.
_TOLERANCES = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.15}


def try_out(network: Network, vocab_size: int, dtype: str) -> None:
    """Unsupported if pages, chunks or company change what the network says."""
    spread = max(1, vocab_size // (_LONG + _SHORT))
    ids = np.arange(_LONG + _SHORT, dtype=np.int32) * spread % vocab_size
    texts = [ids[:_LONG], ids[_LONG:]]
    with explained(network.name):
        paged = run_together(network, texts, _CHUNKS)
        alone = [network.plain(text.tolist()) for text in texts]
    for ours, theirs in zip(paged, alone, strict=True):
        apart = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
        # The middle, not the worst: an expert chosen otherwise for one token is rounding, too.
        if not np.median(apart) <= _TOLERANCES[dtype]:
            raise Unsupported(
                f"{network.name} gives other logits with pages than without (apart by "
                f"{np.median(apart):.2g} of their length, the limit is {_TOLERANCES[dtype]}), so "
                "it keeps more of a text than keys and values"
            )


def run_together(
    network: Network, texts: list[Int32], chunks: tuple[tuple[int, ...], ...]
) -> list[Float32]:
    """(T, V) logits of every text, all in the same steps: in each, so many tokens of each."""
    pages = [-(-len(text) // _PAGE_SIZE) for text in texts]
    kv = network.new_kv(sum(pages), _PAGE_SIZE)
    # Dealt out from the end, so that no page lies where its number would suggest.
    tables = np.split(np.arange(sum(pages), dtype=np.int32)[::-1], np.cumsum(pages)[:-1])
    done = [0] * len(texts)
    logits: list[list[Float32]] = [[] for _ in texts]
    for chunk in chunks:
        rows = [row for row, take in enumerate(chunk) if take]
        step = _step(texts, tables, [(row, done[row], done[row] + chunk[row]) for row in rows])
        parts = np.split(network(step, kv), step.row_starts[1:-1])
        for row, part in zip(rows, parts, strict=True):
            logits[row].append(part)
            done[row] += chunk[row]
    return [np.concatenate(parts) for parts in logits]


def _step(texts: list[Int32], tables: list[Int32], spans: list[tuple[int, int, int]]) -> Step:
    """Tokens start..end of some texts; every one of them is sampled."""
    where = [np.arange(start, end, dtype=np.int32) for _, start, end in spans]
    slots = [
        tables[row][at // _PAGE_SIZE] * _PAGE_SIZE + at % _PAGE_SIZE
        for (row, *_), at in zip(spans, where, strict=True)
    ]
    table = np.zeros((len(spans), max(len(table) for table in tables)), np.int32)
    for row, (text, *_) in enumerate(spans):
        table[row, : len(tables[text])] = tables[text]
    starts = np.cumsum([0, *(len(at) for at in where)], dtype=np.int32)
    return Step(
        token_ids=np.concatenate([texts[row][start:end] for row, start, end in spans]),
        positions=np.concatenate(where),
        slots=np.concatenate(slots),
        row_starts=starts,
        kv_lens=np.array([end for _, _, end in spans], np.int32),
        page_table=table,
        out_rows=np.arange(starts[-1], dtype=np.int32),
        page_size=_PAGE_SIZE,
    )
