"""Steps that name ids which rank 0 has chosen and nobody has seen yet (`Step.token_ids`).

The ranks that look ids up, those of the first stage, get them from rank 0 before the step; all see
in the step itself how many there are, so no word is needed. On GPUs nobody waits for them but the
device. Must not know: how ids are chosen, which network it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pagemill.ops.interface import Array, Step
from pagemill.parallel.group import Group


class Choices(Protocol):
    """What a backend keeps of the ids that were chosen last."""

    def first(self, count: int) -> Array:
        """The ids of the first rows, to read and to write."""
        ...


@dataclass(frozen=True, slots=True)
class Ahead:
    """A rank's part of a network, for steps with ids in flight, too."""

    run: Callable[[Step, Array], Array]
    group: Group
    choices: Choices

    def __call__(self, step: Step, kv: Array) -> Array:
        in_flight = -int(step.token_ids.min(initial=0))
        if in_flight and self.group.seat.is_first:
            self.group.share(self.choices.first(in_flight))
        return self.run(step, kv)
