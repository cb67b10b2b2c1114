"""Rank 0's side of a network in several processes: it starts the others and leads every step.

Must not know: requests, how ranks are watched, how a share is computed.
"""

from collections.abc import Callable
from typing import Final

from pagemill.engine.process import GiveUp
from pagemill.engine.spawn import EngineProcess
from pagemill.ops.interface import Array, Ops, Step
from pagemill.parallel import network
from pagemill.parallel.crew import Crew
from pagemill.parallel.group import RankLost
from pagemill.parallel.steps import pack
from pagemill.types import EnginePlan
from pagemill.weights.load import Checkpoint

RANK: Final = "pagemill.parallel.rank"

Made = tuple[network.Network, Array, Ops]  # the network, its memory, and what samples


def lead(
    plan: EnginePlan,
    checkpoint: Checkpoint,
    new_ops: Callable[[EnginePlan], Ops],
    give_up: GiveUp,
    entry: str = RANK,
) -> Made:
    """Start the other ranks and load the model with them. Call it on a thread that stays."""
    threads = max(1, plan.threads // plan.ranks)
    processes = [EngineProcess(entry, threads) for _ in range(1, plan.ranks)]
    return gather(plan, checkpoint, new_ops, Crew(processes, give_up))


def gather(
    plan: EnginePlan, checkpoint: Checkpoint, new_ops: Callable[[EnginePlan], Ops], crew: Crew
) -> Made:
    """Load a model with ranks that are running."""
    meeting = crew.join(plan)
    try:
        ops = new_ops(network.plan_of(plan, 0))
        group = network.meet(network.seat_of(plan, 0), meeting, ops)
        model, kv = network.build(plan, checkpoint, ops, group)
        crew.wait_ready()
    except RankLost as error:
        crew.fail(error)
        raise
    finally:
        crew.have_met()
    return Led(model, crew), kv, ops


class Led:
    """The network. Every rank hears of a step before rank 0 runs it."""

    def __init__(self, model: network.Network, crew: Crew) -> None:
        self._model, self._crew = model, crew

    def __call__(self, step: Step, kv: Array) -> Array:
        try:
            self._crew.tell(pack(step))
            return self._model(step, kv)
        except Exception as error:  # a boundary: the others must learn of it, whatever it is
            self._crew.fail(error)
            raise
