"""What a model will take of this machine's memory, from its header alone.

Composes weights, models and the outlines of backends. `engine/plan.py` makes a plan of it; where
nothing can be outlined it guesses from the card itself.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pagemill.engine.devices import TORCH_BACKENDS, device_of, dtype_of
from pagemill.engine.kv_types import kv_type
from pagemill.engine.plan import estimate
from pagemill.types import Footprint

if TYPE_CHECKING:
    from pagemill.fallback.folder import Foreign
    from pagemill.weights.load import Checkpoint


def footprint_of(
    checkpoint: Checkpoint | Foreign,
    backend: str,
    kv_dtype: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
) -> Footprint | None:
    """None for a backend that is not outlined. Raises what building the network would: BadModelFile
    for a tensor that is missing, Unsupported for one without a kernel."""
    # Imported here: they are not needed before a model is.
    from pagemill.fallback.folder import Foreign

    if isinstance(checkpoint, Foreign):
        return checkpoint.footprint()
    if backend in TORCH_BACKENDS:
        kind = kv_type(kv_dtype, backend, device)
        return _on_tensors(checkpoint, backend, kind, dtype_of(device_of(backend, device), dtype))
    if backend != "cpu":
        return None
    from pagemill import models
    from pagemill.ops.outline import OutlineOps

    ops = OutlineOps(kv_type(kv_dtype, backend))
    model = models.build(checkpoint.card, ops, checkpoint.source.outline())
    return ops.footprint(model, checkpoint.card.vocab_size)


def _on_tensors(checkpoint: Checkpoint, backend: str, kv_dtype: str, dtype: str) -> Footprint:
    """Weights, cache and states as they are kept; what a step takes besides is estimated."""
    from pagemill import models
    from pagemill.ops.tensor_outline import TensorOutline

    outline = TensorOutline(dtype, kv_dtype, backend == "cuda" and _has_kernels())
    ops: Any = outline
    models.build(checkpoint.card, ops, checkpoint.source.outline()).new_kv(1, 1, 1)
    return replace(
        estimate(checkpoint.card, backend, dtype, kv_dtype),
        weights=outline.weights(),
        vector_bytes=outline.vector_bytes,
        kv_token_bytes=outline.kv_token_bytes,
        state_bytes=outline.state_bytes,
    )


def _has_kernels() -> bool:
    """Whether products of codes are there. Where torch is missing it will come with them."""
    return find_spec("triton") is not None or find_spec("torch") is None
