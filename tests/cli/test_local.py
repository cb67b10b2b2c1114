"""A model run by this program: text, one ending, and nothing left behind."""

import asyncio
import threading
import time

import pytest

from pagemill.cli.local import EngineTalker, Loader
from pagemill.cli.talk import Ending, Knobs, Turn
from pagemill.errors import ContextTooLong, EngineFailure, InvalidRequest, UnknownModel
from tests.server.fakes import FakeEngine, FakeModel, FakeRuntime, embedder


def never() -> None:
    pytest.fail("nothing here is slow")


def talker(engine: FakeEngine) -> tuple[EngineTalker, FakeRuntime]:
    runtime = FakeRuntime(FakeModel(engine, template=None))

    def make() -> Loader:
        return runtime  # type: ignore[return-value] # the fake lists what the real one lists

    return EngineTalker(make, "tiny", never), runtime


def test_streams_text_and_one_ending() -> None:
    engine = FakeEngine(cached=2)
    local, runtime = talker(engine)
    *texts, ending = local.answer([Turn("user", "hi")], Knobs(seed=7, temperature=0))
    assert "".join(str(text) for text in texts) == "Paris is the capital of France."
    assert isinstance(ending, Ending)
    assert (ending.finish, ending.cached_tokens) == ("stop", 2)
    [request] = engine.requests
    assert (request.sampling.seed, request.sampling.temperature) == (7, 0.0)
    assert ending.prompt_tokens == len(request.prompt)
    local.close()
    local.close()
    assert runtime.closed


def test_a_model_that_writes_no_text_is_refused_and_closed() -> None:
    runtime = FakeRuntime(embedder())
    with pytest.raises(InvalidRequest, match="/v1/embeddings"):
        EngineTalker(lambda: runtime, "tiny", never)  # type: ignore[arg-type,return-value]
    assert runtime.closed


def test_a_stop_string_ends_the_answer() -> None:
    local, _ = talker(FakeEngine())
    *texts, ending = local.answer([Turn("user", "hi")], Knobs(stop=(" the",)))
    assert "".join(str(text) for text in texts) == "Paris is"
    assert isinstance(ending, Ending) and ending.finish == "stop"
    local.close()


def test_closing_the_answer_aborts_the_request() -> None:
    engine = FakeEngine(delay=0.005, ends=False)
    local, _ = talker(engine)
    answer = local.answer([Turn("user", "hi")], Knobs())
    next(answer)
    answer.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 5
    while not engine.aborted and time.monotonic() < deadline:
        time.sleep(0.005)
    assert engine.aborted == [engine.requests[0].id]
    local.close()


def test_a_failed_engine_and_a_prompt_that_does_not_fit() -> None:
    local, _ = talker(FakeEngine(error_after=3))
    with pytest.raises(EngineFailure, match=r"The step failed\."):
        list(local.answer([Turn("user", "hi")], Knobs()))
    with pytest.raises(ContextTooLong, match=r"the conversation has 1000\d\d tokens"):
        list(local.answer([Turn("user", "x" * 100_000)], Knobs()))
    local.close()


def test_a_failed_load_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    runtime = FakeRuntime()
    with pytest.raises(UnknownModel):
        EngineTalker(lambda: runtime, "tiny", never)  # type: ignore[arg-type, return-value]
    assert runtime.closed and threading.active_count() == before


def test_a_slow_load_is_mentioned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagemill.cli.local.SLOW_S", 0.01)

    class Slow(FakeRuntime):
        async def model(self, name: str) -> FakeModel:
            await asyncio.sleep(0.05)
            return await super().model(name)

    words: list[str] = []
    runtime = Slow(FakeModel())
    local = EngineTalker(lambda: runtime, "tiny", lambda: words.append("slow"))  # type: ignore[arg-type, return-value]
    assert words == ["slow"] and local.load_s >= 0.05
    local.close()
