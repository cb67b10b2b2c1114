"""Frames between the two sides of the engine's door: what is asked of it, what it reports.

A frame is four bytes of length, little-endian, and one msgpack array whose first element says
which class of this module it is. Lengths above the limit, truncated and ill-typed frames raise
`FrameError` before anything of that size is allocated. Requests are known here by small integers,
which whoever sends `Add` chose and wrote as the request's id.

Must not know: who reads and writes, and when.
"""

import struct
from collections.abc import Iterable

import msgspec

from pagemill.errors import EngineFailure
from pagemill.types import (
    Delta,
    EngineInfo,
    EnginePlan,
    EngineStats,
    FinishReason,
    Request,
    TokenLogprobs,
)

FRAME_LIMIT = 8 << 20  # a prompt of a million tokens fits

_VECTORS_LIMIT = 4 << 20  # bytes of vectors in one frame; the rest of it is far smaller
_PREFIX = struct.Struct("<I")


class FrameError(EngineFailure):
    """Bytes that are no frame of ours: nothing after them can be trusted."""


class Start(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """The first order: load this."""

    plan: EnginePlan


class Add(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """Run a request; its id is its handle in decimal digits."""

    request: Request


class Abort(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """End a request. Unknown and finished ones are no error."""

    handle: int


class Ask(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """Report your counters: proof that the loop is alive."""


class Ready(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """The model is loaded."""

    info: EngineInfo


class Failed(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """The model could not be loaded; the process ends. `kind` is the error's class."""

    kind: str
    message: str
    param: str | None = None


class Refused(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """A request was not accepted."""

    handle: int
    kind: str
    message: str
    param: str | None = None


class Counted(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """The answer to `Ask`."""

    stats: EngineStats


class Logprobs(msgspec.Struct, array_like=True, frozen=True):
    """`TokenLogprobs`, without its field names."""

    chosen: float
    top_ids: tuple[int, ...]
    top: tuple[float, ...]


class Change(msgspec.Struct, array_like=True, frozen=True):
    """A `Delta` that is more than one token."""

    handle: int
    token_ids: tuple[int, ...]
    logprobs: list[Logprobs]
    finish: FinishReason | None
    stop_id: int | None
    error: str | None
    cached_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    preemptions: int
    vector: bytes

    def delta(self, request_id: str) -> Delta:
        """The same for those outside."""
        return Delta(
            request_id,
            self.token_ids,
            tuple(TokenLogprobs(entry.chosen, entry.top_ids, entry.top) for entry in self.logprobs),
            self.finish,
            self.stop_id,
            self.error,
            self.cached_tokens,
            self.queue_s,
            self.prefill_s,
            self.decode_s,
            self.preemptions,
            self.vector,
        )


class Progress(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """What came out of one step: ids[i] is the next token of handles[i]; all else in `changes`."""

    handles: list[int]
    ids: list[int]
    changes: list[Change]
    stats: EngineStats | None


Order = Start | Add | Abort | Ask
Report = Ready | Failed | Refused | Counted | Progress


class FrameReader:
    """Cuts a stream of bytes into frames; holds at most one incomplete frame."""

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes. FrameError for a length above the limit."""
        buffer: bytes | bytearray = data
        if self._rest:
            self._rest += data
            buffer = self._rest
        frames = []
        at, size = 0, len(buffer)
        while size - at >= _PREFIX.size:
            (length,) = _PREFIX.unpack_from(buffer, at)
            if length > self._limit:
                raise FrameError(f"a frame of {length} bytes; the limit is {self._limit}")
            end = at + _PREFIX.size + length
            if end > size:
                break
            frames.append(bytes(buffer[at + _PREFIX.size : end]))
            at = end
        if buffer is self._rest:
            del self._rest[:at]
        elif at < size:
            self._rest += data[at:]
        return frames


_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.msgpack.Encoder()
_order_decoder = msgspec.msgpack.Decoder(Order)
_report_decoder = msgspec.msgpack.Decoder(Report)


def encode(message: Order | Report) -> bytes:
    """One frame, with its length. FrameError when it would exceed the limit."""
    body = _encoder.encode(message)
    if len(body) > FRAME_LIMIT:
        raise FrameError(f"a message of {len(body)} bytes; the limit is {FRAME_LIMIT}")
    return _PREFIX.pack(len(body)) + body


def decode_order(frame: bytes) -> Order:
    """What is asked of an engine."""
    try:
        order: Order = _order_decoder.decode(frame)
    except _MALFORMED as error:
        raise FrameError(f"a frame that is no order: {error}") from error
    return order


def decode_report(frame: bytes) -> Report:
    """What an engine reports."""
    try:
        report: Report = _report_decoder.decode(frame)
    except _MALFORMED as error:
        raise FrameError(f"a frame that is no report: {error}") from error
    if isinstance(report, Progress) and len(report.handles) != len(report.ids):
        raise FrameError(f"{len(report.handles)} handles for {len(report.ids)} tokens")
    return report


def progress(deltas: Iterable[Delta], stats: EngineStats | None) -> Progress:
    """One frame for all deltas of a step. Request ids are handles in decimal digits."""
    handles: list[int] = []
    ids: list[int] = []
    changes: list[Change] = []
    for delta in deltas:
        handle = int(delta.request_id)
        if delta.finish is None and not delta.logprobs and len(delta.token_ids) == 1:
            handles.append(handle)
            ids.append(delta.token_ids[0])
        else:
            changes.append(_change(handle, delta))
    return Progress(handles, ids, changes, stats)


def encode_step(deltas: Iterable[Delta], stats: EngineStats | None) -> bytes:
    """All that a step reports: one frame, or more when its vectors are too many for one."""
    done = b""
    part: list[Delta] = []
    size = 0
    for delta in deltas:
        size += len(delta.vector)
        if part and size > _VECTORS_LIMIT:
            done += encode(progress(part, None))
            part, size = [], len(delta.vector)
        part.append(delta)
    return done + encode(progress(part, stats))


def _change(handle: int, delta: Delta) -> Change:
    return Change(
        handle,
        delta.token_ids,
        [Logprobs(entry.chosen, entry.top_ids, entry.top) for entry in delta.logprobs],
        delta.finish,
        delta.stop_id,
        delta.error,
        delta.cached_tokens,
        delta.queue_s,
        delta.prefill_s,
        delta.decode_s,
        delta.preemptions,
        delta.vector,
    )
