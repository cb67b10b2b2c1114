"""How this process loads: what it makes until a model answers stays, and engines do the sums."""

import atexit
import gc
import os


def begin() -> None:
    """Call it before libraries are imported. The collector rests: it would find nothing."""
    gc.disable()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # engines have theirs


def end() -> None:
    """All that is there now is not looked at again, until the process ends: native objects that
    then are left over would be reported."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)
