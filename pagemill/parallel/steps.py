"""A `Step` as bytes: what ranks are told of the engine.

Sizes, then all arrays as int32, one after another. Of the page table only pages that are in use go
along. Must not know: who sends and who reads.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagemill.engine.wire import FrameError
from pagemill.ops.interface import Int32, Step

_HEAD: Final = 6  # tokens, rows, sampled, page size, token types?, states?
_WIDTH: Final = 4


def pack(step: Step) -> bytes:
    """The step of a model whose arrays are numpy's."""
    rows, width = step.page_table.shape
    head = np.array(
        [
            *(step.token_ids.size, rows, step.out_rows.size, step.page_size),
            *(step.token_types is not None, step.state_slots is not None),
        ],
        np.int32,
    )
    used = _used(step.kv_lens, step.page_size, width)
    arrays: list[Int32 | None] = [
        *(head, step.token_ids, step.positions, step.slots, step.row_starts, step.kv_lens),
        *(step.out_rows, step.token_types, step.state_slots, step.page_table[used]),
    ]
    flat = [array.reshape(-1) for array in arrays if array is not None]
    return np.concatenate(flat, dtype=np.int32, casting="same_kind").tobytes()


def unpack(data: bytes) -> Step:
    """FrameError for bytes that are no step."""
    if len(data) % _WIDTH or len(data) < _HEAD * _WIDTH:
        raise FrameError(f"a step of {len(data)} bytes")
    numbers = np.frombuffer(data, np.int32).copy()  # one that may be written
    tokens, rows, sampled, page_size, types, states = numbers[:_HEAD].tolist()
    left = numbers[_HEAD:]
    sizes = [tokens, tokens, tokens, rows + 1, rows, sampled]
    sizes += [tokens if types else 0, 2 * rows if states else 0]
    ends = np.cumsum(sizes)
    if min(tokens, rows, sampled, page_size - 1) < 0 or ends[-1] > left.size:
        raise FrameError(f"a step of {len(data)} bytes for {tokens} tokens in {rows} rows")
    ids, positions, slots, starts, kv_lens, out, texts, slots_of_states, pages = np.split(
        left, ends
    )
    needed = -(-kv_lens.astype(np.int64) // page_size)
    if pages.size != needed.sum() or kv_lens.min(initial=0) < 0:
        raise FrameError(f"a step with {pages.size} pages for {needed.sum()}")
    width = int(needed.max(initial=0))
    table = np.zeros((rows, width), np.int32)
    table[_used(kv_lens, page_size, width)] = pages
    return Step(
        token_ids=ids,
        positions=positions,
        slots=slots,
        row_starts=starts,
        kv_lens=kv_lens,
        page_table=table,
        out_rows=out,
        page_size=page_size,
        token_types=texts if types else None,
        state_slots=slots_of_states.reshape(rows, 2) if states else None,
    )


def _used(kv_lens: Int32, page_size: int, width: int) -> NDArray[np.bool_]:
    """Of a page table: the pages that hold tokens."""
    return np.arange(width) * page_size < kv_lens[:, None]
