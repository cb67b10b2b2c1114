"""One request to one server, timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise
from time import perf_counter
from typing import Any

import msgspec

from pagemill.bench.dialects import Answer, Dialect, refusal
from pagemill.bench.prompts import Order, Scale
from pagemill.bench.samples import Sample
from pagemill.bench.wire import Broken, Wire


@dataclass(frozen=True, slots=True)
class Target:
    """A server that has answered: what to send it and how it counts."""

    name: str
    software: str  # "Pagemill 0.1.0", as far as the server says
    model: str
    wire: Wire
    dialect: Dialect
    fields: Mapping[str, Any]  # that it accepts beside those of its dialect, such as stream_options
    equal_lengths: bool  # whether it can be told to make answers as long as asked for
    scale: Scale = field(default_factory=Scale)

    def body(self, order: Order, knobs: Mapping[str, Any]) -> bytes:
        """The request, as JSON."""
        body = self.dialect.body(self.model, order.prompt, order.max_tokens) | dict(self.fields)
        if self.equal_lengths:
            body |= self.dialect.equal(order.max_tokens)
        return msgspec.json.encode(self.dialect.with_knobs(body, knobs))


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came; times on the clock of `perf_counter`."""

    answer: Answer
    status: int  # 0: there was none
    sent: float
    end: float


async def ask(target: Target, body: bytes, timeout: float) -> Reply:
    """Send a request and read its stream. What goes wrong stands in the answer's `error`."""
    answer = Answer()
    read = target.dialect.read

    def on_line(line: bytes, now: float) -> None:
        read(line, now, answer)

    sent, status, refused = perf_counter(), 0, b""
    try:
        status, refused = await target.wire.post(target.dialect.path, body, on_line, timeout)
    except ConnectionRefusedError:
        answer.error = "connection refused"
    except msgspec.MsgspecError as error:
        answer.error = f"a record of the stream is not as it should be: {error}"
    except (Broken, OSError) as error:
        answer.error = answer.error or str(error) or type(error).__name__
    if status not in (0, HTTPStatus.OK):
        answer.error = f"HTTP {status}: {refusal(refused)}"
    return Reply(answer, status, sent, perf_counter())


async def sample(
    target: Target, order: Order, body: bytes, timeout: float, clock: Callable[[float], float]
) -> Sample:
    """Ask, and note the times as `clock` gives them: seconds since the request was due."""
    reply = await ask(target, body, timeout)
    answer, at = reply.answer, [clock(arrival) for arrival in reply.answer.arrivals]
    error = answer.error
    if not error and not answer.complete:
        error = "the stream ended early"
    tokens = answer.output_tokens if answer.output_tokens is not None else len(at)
    if not error and not at:
        error = "an answer without text"
    return Sample(
        asked=0.0,
        late=clock(reply.sent),
        first=at[0] if at else 0.0,
        last=at[-1] if at else 0.0,
        end=clock(reply.end),
        gaps=tuple(later - earlier for earlier, later in pairwise(at)),
        wanted=order.max_tokens,
        tokens=tokens,
        counted="pieces" if answer.output_tokens is None else "usage",
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=answer.cached_tokens,
        finish=answer.finish,
        error=error,
    )
