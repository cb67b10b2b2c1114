"""Frames between rank 0 and the other ranks, over the socket pair that each was started with.

A rank hears one `Join`, then steps (see `steps`), then perhaps an empty frame: it is no longer
needed. It answers with a `Word` when something happened. Must not know: who reads and writes, when.
"""

import struct
from typing import Final

import msgspec

from pagemill.engine.wire import FrameError
from pagemill.types import EnginePlan

STEP_LIMIT: Final = 1 << 30
WORD_LIMIT: Final = 1 << 16
END: Final = b""

_PREFIX: Final = struct.Struct("<I")


class Join(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """Load your share of this model; the others are met through the file `meeting`."""

    plan: EnginePlan
    rank: int
    meeting: str


class Ready(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """The share is loaded."""


class Left(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """The share is gone, as asked."""


class Failed(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """The rank leaves. `kind` is the error's class."""

    kind: str
    message: str
    param: str | None = None


Word = Ready | Left | Failed

_encoder = msgspec.msgpack.Encoder()
_join_decoder = msgspec.msgpack.Decoder(Join)
_word_decoder = msgspec.msgpack.Decoder(Word)


def frame(body: bytes) -> bytes:
    """With its length in front, as `engine.wire.FrameReader` reads it."""
    return _PREFIX.pack(len(body)) + body


def encode(message: Join | Word) -> bytes:
    return frame(_encoder.encode(message))


def decode_join(body: bytes) -> Join:
    try:
        join: Join = _join_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameError(f"a frame that is no Join: {error}") from error
    return join


def decode_word(body: bytes) -> Word:
    try:
        word: Word = _word_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FrameError(f"a frame that is no word of a rank: {error}") from error
    return word
