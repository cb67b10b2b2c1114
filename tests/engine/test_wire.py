"""Frames: what goes in comes out; what nobody sent is refused before it costs anything."""

import random
import struct
import tracemalloc
from dataclasses import replace

import pytest

from pagemill.engine import wire
from pagemill.types import (
    Delta,
    EngineInfo,
    EngineStats,
    Request,
    SamplingParams,
    TokenLogprobs,
)
from tests.engine.fake_engine import PLAN

REQUEST = Request(
    "17",
    (1, 2, 70_000),
    5,
    SamplingParams(
        temperature=0.5, seed=2**64 - 1, logit_bias=((3, -1.5),), logprobs=2, repetition_penalty=1.1
    ),
    stop_ids=(0, 2),
    cache_salt="key",
    priority=-(2**31),
)
INFO = EngineInfo("/m.gguf", "reference", 1, 100, 64, 8, 16, 4, 16, 1000, 2000, 0.5, 4711)
FINAL = Delta("5", (9,), (), "stop", 9, None, 16, 0.25, 0.5, 1.5, 2)
POOLED = Delta("8", finish="stop", vector=b"\x00\x00\x80?" * 384)
SPOKEN = Delta("6", (1, 2), (TokenLogprobs(-0.5, (1, 4), (-0.5, -1.0)), TokenLogprobs(-1.0)))

PAIR = Request("9", (1, 2, 3), 0, pooled=True, token_types=(0, 0, 1))

ORDERS = [wire.Start(PLAN), wire.Add(REQUEST), wire.Add(PAIR), wire.Abort(3), wire.Ask()]
REPORTS = [
    wire.Ready(INFO),
    wire.Failed("BadModelFile", "no", None),
    wire.Refused(4, "Busy", "full", "x"),
    wire.Counted(EngineStats(running=3, step_seconds=0.5)),
    wire.progress([Delta("4", (7,)), FINAL, SPOKEN], EngineStats(waiting=1)),
    wire.progress([], None),
    wire.progress([POOLED], None),
]


def frames_of(data: bytes) -> list[bytes]:
    return wire.FrameReader().feed(data)


@pytest.mark.parametrize("order", ORDERS)
def test_orders_survive(order: wire.Order) -> None:
    [frame] = frames_of(wire.encode(order))
    assert wire.decode_order(frame) == order


@pytest.mark.parametrize("report", REPORTS)
def test_reports_survive(report: wire.Report) -> None:
    [frame] = frames_of(wire.encode(report))
    assert wire.decode_report(frame) == report


def test_deltas_survive() -> None:
    report = wire.decode_report(frames_of(wire.encode(REPORTS[4]))[0])
    assert isinstance(report, wire.Progress)
    assert (report.handles, report.ids) == ([4], [7])
    assert [change.delta("6") for change in report.changes] == [
        replace(FINAL, request_id="6"),
        SPOKEN,
    ]


def test_a_token_costs_few_bytes() -> None:
    handles = range(1000, 1050)
    plain = wire.encode(wire.progress([Delta(str(h), (h * 17,)) for h in handles], None))
    assert len(plain) <= 6 * len(handles) + 16


def test_vectors_of_a_step_take_as_many_frames_as_they_need() -> None:
    deltas = [Delta(str(h), finish="stop", vector=bytes(40_000)) for h in range(500)]
    stats = EngineStats(steps=3)
    frames = frames_of(wire.encode_step(deltas, stats))
    reports = [wire.decode_report(frame) for frame in frames]
    assert len(frames) > 1 and max(map(len, frames)) < wire.FRAME_LIMIT
    got = [change for r in reports if isinstance(r, wire.Progress) for change in r.changes]
    assert [change.delta(str(change.handle)) for change in got] == deltas
    assert [r.stats for r in reports if isinstance(r, wire.Progress)][-1] == stats
    assert len(frames_of(wire.encode_step([POOLED, FINAL, SPOKEN], None))) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 1000])
def test_frames_arrive_in_any_pieces(size: int) -> None:
    data = b"".join(map(wire.encode, REPORTS)) * 3
    reader = wire.FrameReader()
    frames = [f for at in range(0, len(data), size) for f in reader.feed(data[at : at + size])]
    assert [wire.decode_report(frame) for frame in frames] == REPORTS * 3


def test_a_length_above_the_limit_is_refused_at_once() -> None:
    reader = wire.FrameReader(limit=100)
    assert reader.feed(struct.pack("<I", 100)) == []
    with pytest.raises(wire.FrameError, match="101 bytes; the limit is 100"):
        wire.FrameReader(limit=100).feed(struct.pack("<I", 101))
    with pytest.raises(wire.FrameError, match="the limit is"):
        wire.encode(wire.Failed("x", "y" * wire.FRAME_LIMIT))


def hostile_frame(rng: random.Random) -> bytes:
    """Random bytes; or a good frame cut, changed in places, or followed by huge counts."""
    good = bytearray(rng.choice([wire.encode(m) for m in (*ORDERS, *REPORTS)])[4:])
    match rng.randrange(5):
        case 0:
            return rng.randbytes(rng.randrange(200))
        case 1:
            return bytes(good[: rng.randrange(len(good))])
        case 2:
            for _ in range(rng.randrange(1, 4)):
                good[rng.randrange(len(good))] = rng.randrange(256)
            return bytes(good)
        case 3:  # arrays, maps, strings and bytes that claim 2**32 - 1 elements
            at = rng.randrange(len(good))
            return bytes(good[:at]) + rng.choice([b"\xdd", b"\xdf", b"\xdb", b"\xc6"]) + b"\xff" * 4
        case _:  # nested far deeper than any stack
            return bytes([0x92, rng.randrange(1, 6)]) + b"\x91" * rng.randrange(100_000)


def test_ten_thousand_hostile_frames_cost_nothing() -> None:
    rng = random.Random(7)
    frames = [hostile_frame(rng) for _ in range(10_000)]
    refused = 0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for frame in frames:
            for decode in (wire.decode_order, wire.decode_report):
                try:
                    decode(frame)
                except wire.FrameError:
                    refused += 1
        assert tracemalloc.get_traced_memory()[1] - before < 1 << 20
    finally:
        tracemalloc.stop()
    assert refused > 15_000


def test_a_hostile_stream_holds_no_more_than_a_frame() -> None:
    rng = random.Random(8)
    for _ in range(300):
        reader = wire.FrameReader(limit=1000)
        try:
            for _ in range(20):
                for frame in reader.feed(rng.choice([b"\x10\0\0\0", b""]) + rng.randbytes(300)):
                    assert len(frame) <= 1000
        except wire.FrameError:
            continue
