"""An engine without a model, and the process that runs it: fakes for the doors.

Token i of an answer is `prompt[-1] + i`. The first prompt id orders mischief: see the constants.
"""

import sys
import time
from dataclasses import replace

from pagemill.engine import process
from pagemill.errors import BadModelFile, Busy, InvalidRequest
from pagemill.types import Delta, EngineInfo, EnginePlan, EngineStats, Request
from tests.samples import engine_plan

NORMAL, REFUSE, EXPLODE, SLEEP, SPIN = range(5)

NUM_PREPARED = 5  # calls of `prepare` until there is nothing left

PLAN = engine_plan(num_pages=16, budget=64, max_num_seqs=4, max_model_len=1_000_000)


def order(name: str, tokens: int = 3, mischief: int = NORMAL, first: int = 100) -> Request:
    return Request(name, (mischief, first), tokens)


class FakeEngine:
    """Every request advances by one token in every step."""

    def __init__(self, plan: EnginePlan, step_s: float = 0.0) -> None:
        self.plan = plan
        self.num_prepared = sys.maxsize if plan.model_path == "never ready" else NUM_PREPARED
        self.step_s = step_s
        self.requests: dict[str, tuple[Request, int]] = {}
        self.ended: list[Delta] = []
        self.steps = self.aborts = self.prepared = 0

    def add(self, request: Request) -> None:
        if request.prompt[0] == REFUSE:
            raise InvalidRequest("refused", param="prompt")
        if len(self.requests) >= self.plan.max_queued:
            raise Busy("full")
        self.requests[request.id] = (request, 0)

    def abort(self, request_id: str) -> None:
        self.aborts += 1
        if self.requests.pop(request_id, None) is not None:
            self.ended.append(Delta(request_id, finish="abort"))

    def has_work(self) -> bool:
        return bool(self.requests or self.ended)

    def prepare(self) -> bool:
        if self.prepared >= self.num_prepared:
            return False
        self.prepared += 1
        return True

    def step(self) -> list[Delta]:
        self.steps += 1
        deltas, self.ended = self.ended, []
        if self.step_s:
            time.sleep(self.step_s)
        for request, done in list(self.requests.values()):
            match request.prompt[0]:
                case 2:
                    raise RuntimeError("boom")
                case 3:
                    time.sleep(request.prompt[1] / 1000)
                case 4:
                    until = time.monotonic() + request.prompt[1] / 1000
                    while time.monotonic() < until:
                        pass
            token = request.prompt[1] + done
            if done + 1 == request.max_tokens:
                del self.requests[request.id]
                deltas.append(Delta(request.id, (token,), finish="length", decode_s=0.5))
            else:
                self.requests[request.id] = (request, done + 1)
                deltas.append(Delta(request.id, (token,)))
        return deltas

    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self.requests),
            steps=self.steps,
            finished_abort=self.aborts,
            memory_bytes=self.prepared,
        )


def build(plan: EnginePlan, _: process.GiveUp | None = None) -> tuple[FakeEngine, EngineInfo]:
    """model_path: "fake", "fake:<seconds a step>", "never ready", "slow to load", "bad", "broken"
    or "dies"."""
    kind, _, step_s = plan.model_path.partition(":")
    match kind:
        case "slow to load":
            time.sleep(60)
        case "bad":
            raise BadModelFile("bad: it is no model")
        case "broken":
            raise RuntimeError("a secret path")
        case "dies":
            sys.exit(7)
    return FakeEngine(plan, float(step_s or 0)), info(plan)


def info(plan: EnginePlan) -> EngineInfo:
    return EngineInfo(
        model_path=plan.model_path,
        backend="fake",
        threads=1,
        vocab_size=2000,
        max_model_len=plan.max_model_len,
        max_num_seqs=plan.max_num_seqs,
        max_num_batched_tokens=plan.max_num_batched_tokens,
        page_size=plan.page_size,
        num_pages=plan.num_pages,
        weights_bytes=0,
        kv_bytes=0,
        load_s=0.0,
        pid=0,
    )


def plan_of(model_path: str = "fake", **changes: int) -> EnginePlan:
    return replace(PLAN, model_path=model_path, **changes)  # type: ignore[arg-type]


def main(handle: int) -> None:
    """The entry of a fake engine process."""
    process.main(handle, build)
