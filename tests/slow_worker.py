"""The entry of an engine process whose model takes a minute to load."""

import time

from pagemill.engine import process
from pagemill.types import EngineInfo, EnginePlan
from tests.engine.fake_engine import FakeEngine, info


def main(handle: int) -> None:
    def build(plan: EnginePlan, _: process.GiveUp | None = None) -> tuple[FakeEngine, EngineInfo]:
        time.sleep(60)
        return FakeEngine(plan), info(plan)

    process.main(handle, build)
