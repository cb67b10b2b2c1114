"""From a plan to a `Step`: one forward pass as flat int32 arrays.

Must not know: why these rows were planned, and what is done with the result.
"""

import numpy as np

from pagemill.engine.scheduler import Plan
from pagemill.ops.interface import Int32, Step


def build_step(plan: Plan, page_size: int, types: bool = False) -> Step:
    """Lay the planned rows out one after another. Rows that reach their last token are sampled.

    `types`: also say which text of a pair a token belongs to; rows must then be whole. The arrays
    are new in every step, so whoever keeps a Step keeps it unchanged.
    """
    num_rows, num_tokens = len(plan), sum(take for _, take in plan)
    token_ids, positions, slots = np.empty((3, num_tokens), np.int32)
    row_starts, kv_lens = np.empty(num_rows + 1, np.int32), np.empty(num_rows, np.int32)
    state_slots = np.empty((num_rows, 2), np.int32)
    most_pages = max(seq.pages.size for seq, _ in plan)
    page_table = np.zeros((num_rows, most_pages), np.int32)
    out_rows: list[int] = []
    row_starts[0] = at = 0
    for row, (seq, take) in enumerate(plan):
        start = seq.computed_len
        end = start + take
        pages = seq.pages.data[: seq.pages.size]
        page_table[row, : seq.pages.size] = pages
        if take == 1:  # most rows of most steps: no arrays for one token
            token_ids[at] = seq.tokens.data[start]
            positions[at] = start
            slots[at] = int(pages[start // page_size]) * page_size + start % page_size
        else:
            where = np.arange(start, end, dtype=np.int32)
            token_ids[at : at + take] = seq.tokens.data[start:end]
            positions[at : at + take] = where
            slots[at : at + take] = pages[where // page_size] * page_size + where % page_size
        at += take
        row_starts[row + 1] = at
        kv_lens[row] = end
        state_slots[row] = seq.state_slot if start else -1, seq.state_slot
        if take == seq.behind:
            out_rows.append(at - 1)
    return Step(
        token_ids=token_ids,
        positions=positions,
        slots=slots,
        row_starts=row_starts,
        kv_lens=kv_lens,
        page_table=page_table,
        out_rows=np.array(out_rows, np.int32),
        page_size=page_size,
        token_types=_token_types(plan) if types else None,
        state_slots=state_slots,
    )


def _token_types(plan: Plan) -> Int32:
    texts = np.zeros(sum(take for _, take in plan), np.int32)
    at = 0
    for seq, take in plan:
        if seq.request.token_types:
            texts[at : at + take] = seq.request.token_types
        at += take
    return texts
