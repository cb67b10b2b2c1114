"""One request's life inside the engine.

Owns the tokens so far, how many of them have keys and values in pages, and the times of the
request. Must not know how pages are found or who runs when: `PagePool` and `Scheduler` write those
fields.

A token may be in flight: a step that samples it was handed to the backend and its id is not known
yet. It counts among the tokens from then on, with a stand-in for its id.
"""

import numpy as np

from pagemill.decoding.sampler import SamplingState
from pagemill.ops.interface import Int32
from pagemill.types import Request


class IntRun:
    """A growing run of int32. `data[:size]` is the content; what follows is room to grow."""

    __slots__ = ("data", "size")

    def __init__(self, values: tuple[int, ...] = ()) -> None:
        self.size = len(values)
        self.data: Int32 = np.empty(self.size + 16, np.int32)
        self.data[: self.size] = values

    def append(self, value: int) -> None:
        """Add one value; amortized constant time."""
        if self.size == len(self.data):
            self.data = np.resize(self.data, 2 * self.size)
        self.data[self.size] = value
        self.size += 1

    def tolist(self) -> list[int]:
        """The content as Python integers."""
        content: list[int] = self.data[: self.size].tolist()
        return content


class Sequence:
    """What a request has become: its tokens, its pages, and how far it has been computed.

    `behind` is the whole scheduling model: a new request is its prompt behind, a decoding one is
    one token behind, a preempted one is everything behind.
    """

    __slots__ = (
        "arrived",
        "cached_tokens",
        "computed_len",
        "ended",
        "first_token",
        "known_len",
        "last_len",
        "links",
        "order",
        "pages",
        "preemptions",
        "priority",
        "published",
        "request",
        "sampling",
        "started",
        "state_slot",
        "stop_ids",
        "tokens",
    )

    def __init__(self, request: Request, number: int, now: float) -> None:
        """`number` counts requests in order of arrival; `now` is on the monotonic clock."""
        self.request = request
        self.priority = request.priority
        self.order = (request.priority, number)
        self.stop_ids = frozenset(request.stop_ids)
        self.sampling = SamplingState(request)
        self.tokens = IntRun(request.prompt)
        self.known_len = self.tokens.size  # tokens whose ids are known; the others are in flight
        self.last_len = self.known_len + max(0, request.max_tokens - 1)  # no more are computed
        self.computed_len = 0  # tokens whose keys and values are in pages, or will be in order
        self.pages = IntRun()
        self.state_slot = -1  # of its recurrent state, while it runs
        self.links: list[bytes] = []  # chain hashes of full pages; as tokens, they never change
        self.published = 0  # pages, from the first, that the pool knows by hash
        self.cached_tokens: int | None = None  # prompt tokens found on first admission
        self.preemptions = 0
        self.arrived = now
        self.started: float | None = None  # left the queue
        self.first_token: float | None = None
        self.ended = False  # its final Delta is written: what is in flight for it is dropped

    @property
    def behind(self) -> int:
        """Tokens to compute before the next one can be sampled; 0 when there is no next one."""
        return min(self.tokens.size, self.last_len) - self.computed_len

    @property
    def num_output(self) -> int:
        """Tokens sampled so far whose ids are known."""
        return self.known_len - len(self.request.prompt)

    def expect(self, row: int) -> None:
        """Count a token that the step just launched samples in this row; see `Step.token_ids`."""
        self.tokens.append(-1 - row)

    def know(self, token: int) -> None:
        """The id of the oldest token in flight."""
        self.tokens.data[self.known_len] = token
        self.known_len += 1
