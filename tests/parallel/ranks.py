"""Networks in several processes, this one among them, for tests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from pagemill import worker
from pagemill.engine.spawn import EngineProcess
from pagemill.errors import PagemillError
from pagemill.ops.interface import Array, Float32, Ops, Step
from pagemill.parallel.crew import Crew
from pagemill.parallel.leader import gather
from pagemill.types import EnginePlan
from pagemill.weights.load import Checkpoint
from tests.models.test_golden import NUM_PAGES, PAGE_SIZE, step_of
from tests.samples import engine_plan

MOST = 4
Network = Callable[..., Float32]

torch.set_num_threads(1)


def plan_of(path: Path, tensor: int = 1, pipeline: int = 1, **changes: object) -> EnginePlan:
    plan = engine_plan(num_pages=NUM_PAGES, page_size=PAGE_SIZE, max_num_seqs=3)
    plan = replace(plan, model_path=str(path), backend="reference", threads=1)
    return replace(plan, tensor_parallel=tensor, pipeline_parallel=pipeline, **changes)  # type: ignore[arg-type]


class Loaded:
    """A network that several processes have loaded."""

    def __init__(self, model: Callable[[Step, Array], Array], kv: Array, ops: Ops) -> None:
        self.model, self.kv, self.ops = model, kv, ops

    def logits(self, *rows: tuple[list[int], int]) -> Float32:
        """As `tests.models.test_golden.logits`, on memory that stays."""
        return torch.as_tensor(self.model(step_of(*rows), self.kv)).numpy()

    def greedy(self, prompt: list[int], count: int) -> tuple[list[int], Float32]:
        """Token by token, and the logits of each."""
        ids, start, answer, rows = prompt, 0, [], []
        for _ in range(count):
            last = self.logits((ids, start))[-1]
            start += len(ids)
            ids = [int(last.argmax())]
            answer += ids
            rows.append(last)
        return answer, np.array(rows)


class Ranks:
    """Processes that join one network after another."""

    def __init__(self) -> None:
        self.processes = [EngineProcess("tests.parallel.lasting_rank") for _ in range(1, MOST)]
        self.failures: list[PagemillError] = []

    @contextmanager
    def load(self, plan: EnginePlan) -> Iterator[Loaded]:
        """This process is rank 0."""
        checkpoint = worker.open_checkpoint(plan)
        assert isinstance(checkpoint, Checkpoint)
        crew = Crew(self.processes[: plan.ranks - 1], self.failures.append)
        model, kv, ops = gather(plan, checkpoint, worker.new_ops, crew)
        yield Loaded(model, kv, ops)
        crew.dismiss()
        dist.destroy_process_group()
        assert not self.failures

    def close(self) -> None:
        for process in self.processes:
            process.discard()


@contextmanager
def alone(plan: EnginePlan) -> Iterator[Loaded]:
    """The same network in one process."""
    checkpoint = worker.open_checkpoint(plan)
    ops = worker.new_ops(plan)
    model = worker.models.build(checkpoint.card, ops, checkpoint.source)
    kv = model.new_kv(plan.num_pages, plan.page_size, plan.max_num_seqs)
    yield Loaded(ops.compile(model), kv, ops)
