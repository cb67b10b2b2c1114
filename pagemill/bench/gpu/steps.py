"""Steps as an engine would build them, of rows that are all alike."""

from __future__ import annotations

import numpy as np

from pagemill.ops.interface import Step


def alike(rows: int, history: int, takes: int, page: int, vocab: int = 1) -> Step:
    """Rows with so much history that bring so many tokens each. Pages lie in no order, as they do
    after an hour."""
    rng = np.random.default_rng(0)
    width = num_pages(1, history + takes, page)
    table = rng.permutation(rows * width).astype(np.int32).reshape(rows, width)
    positions = np.tile(np.arange(history, history + takes, dtype=np.int32), rows)
    of = np.repeat(np.arange(rows), takes)
    starts = np.arange(rows + 1, dtype=np.int32) * takes
    return Step(
        token_ids=rng.integers(0, vocab, rows * takes, dtype=np.int32),
        positions=positions,
        slots=table[of, positions // page] * page + positions % page,
        row_starts=starts,
        kv_lens=np.full(rows, history + takes, np.int32),
        page_table=table,
        out_rows=starts[1:] - 1,
        page_size=page,
        state_slots=np.full((rows, 2), -1, np.int32),
    )


def num_pages(rows: int, length: int, page: int) -> int:
    """That so many rows of that length take."""
    return rows * -(-length // page)
