"""How this process loads: what it makes until a model answers stays, and engines do the sums."""

import gc
import os


def begin() -> None:
    """Call it before libraries are imported. The collector rests: it would find nothing."""
    gc.disable()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # engines have theirs


def end() -> None:
    """All that is there now is not looked at again."""
    gc.freeze()
    gc.enable()
