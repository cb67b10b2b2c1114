"""Failed loads: a clear error each, no file descriptor left or closed twice, others unharmed."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

from tests.e2e.serving import Serving, Stream, answers, until

BODY = {"prompt": "Hello", "max_tokens": 10, "seed": 1, "temperature": 1.0, "ignore_eos": True}


def descriptors(pid: int) -> list[str]:
    """What a process has open, by what it is: numbers may differ, kinds and counts may not."""
    kinds = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kinds.append(str(entry.readlink()).partition(":[")[0])
        except FileNotFoundError:
            continue  # closed meanwhile
    return sorted(kinds)


async def test_failed_loads_leave_nothing_and_harm_nobody(
    long_llama_path: Path, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    shutil.copy(long_llama_path, good)
    shutil.copy(long_llama_path, bad)
    to_good, to_bad = BODY | {"model": "good"}, BODY | {"model": "bad"}
    with Serving(tmp_path, good, bad) as server:
        (alone,) = await answers(server, [to_good | {"max_tokens": 2500}])
        engine = server.engine()
        before = descriptors(server.pid)
        others = [await Stream.open(server, to_good | {"max_tokens": 2500}) for _ in range(8)]
        reading = [asyncio.create_task(stream.rest()) for stream in others]

        for _ in range(3):  # the engine process dies while it loads
            asked = await Stream.open(server, to_bad)
            await until(lambda: len(server.engines()) == 2, "an engine was started")
            (young,) = (pid for pid in server.engines() if pid != engine)
            os.kill(young, signal.SIGKILL)
            await asked.rest()
            assert asked.status == 500
            assert "signal 9" in str(asked.error)

        whole = bad.read_bytes()
        bad.write_bytes(whole[: len(whole) // 2])  # refused before an engine reads it
        for _ in range(3):
            (asked,) = await answers(server, [to_bad])
            assert asked.status >= 400
            assert asked.error is not None
        bad.write_bytes(whole)

        await asyncio.gather(*reading)
        assert {(stream.text, stream.ended) for stream in others} == {(alone.text, 1)}
        await until(lambda: server.engines() == [engine], "only the good engine is left")
        await until(lambda: descriptors(server.pid) == before, "all that was opened is closed")
        assert [stream.ended for stream in await answers(server, [to_bad, to_good])] == [1, 1]
        assert "Bad file descriptor" not in server.log
