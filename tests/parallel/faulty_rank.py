"""The program of a rank that PAGEMILL_TEST_FAULT breaks: "step" (its third raises), "hang" (it
never loads) or "load" (that raises)."""

import os
import time
from typing import Any

from pagemill.parallel import network, rank

_load = network.build


def load(*args: Any) -> tuple[network.Network, Any]:
    fault = os.environ["PAGEMILL_TEST_FAULT"]
    if fault == "load":
        raise RuntimeError("a secret path")
    if fault == "hang":
        time.sleep(600)
    model, kv = _load(*args)
    steps = iter(range(2, -1, -1))

    def run(step: Any, kv: Any) -> Any:
        if not next(steps):
            raise ValueError("a secret number")
        return model(step, kv)

    return run, kv


def main(handle: int) -> None:
    network.build = load  # type: ignore[assignment]
    rank.main(handle)
