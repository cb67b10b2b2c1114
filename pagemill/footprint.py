"""What a model will take of this machine's memory, from its header alone.

Composes weights, models and the outline of the CPU backend. `engine/plan.py` makes a plan of it;
where nothing can be outlined it guesses from the card itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagemill.engine.kv_types import kv_type
from pagemill.types import Footprint

if TYPE_CHECKING:
    from pagemill.fallback.folder import Foreign
    from pagemill.weights.load import Checkpoint


def footprint_of(
    checkpoint: Checkpoint | Foreign, backend: str, kv_dtype: str = "auto"
) -> Footprint | None:
    """None for a backend that is not outlined. Raises what building the network would: BadModelFile
    for a tensor that is missing, Unsupported for one without a kernel."""
    # Imported here: they are not needed before a model is.
    from pagemill.fallback.folder import Foreign

    if isinstance(checkpoint, Foreign):
        return checkpoint.footprint()
    if backend != "cpu":
        return None
    from pagemill import models
    from pagemill.ops.outline import OutlineOps

    ops = OutlineOps(kv_type(kv_dtype, backend))
    model = models.build(checkpoint.card, ops, checkpoint.source.outline())
    return ops.footprint(model, checkpoint.card.vocab_size)
