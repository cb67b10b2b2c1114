"""A long prompt among running answers, on real weights: they go on, in smaller steps."""

import asyncio
import itertools
from pathlib import Path

from tests.e2e.serving import PATIENCE_S, Serving, Stream

PROMPT_LEN = 4000
GAP_S = 5.0  # one step of the token budget, on a busy machine; the whole prompt takes far longer


async def test_a_long_prompt_does_not_stop_the_others(smollm2_path: Path, tmp_path: Path) -> None:
    model = tmp_path / "smollm2.gguf"  # a model in the store is a blob without this ending
    model.symlink_to(smollm2_path)
    with Serving(tmp_path, model) as server:
        body = {"prompt": "Once upon a time", "max_tokens": 3000, "ignore_eos": True}
        others = [await Stream.open(server, body | {"seed": seed}) for seed in range(4)]
        await asyncio.gather(*(stream.begin() for stream in others))
        reading = [asyncio.create_task(stream.rest()) for stream in others]
        prompt = [1000 + i * 7 % 40_000 for i in range(PROMPT_LEN)]
        late = await Stream.open(server, {"prompt": prompt, "max_tokens": 1})
        asked = asyncio.get_running_loop().time()
        await asyncio.wait_for(late.rest(), PATIENCE_S)
        took = asyncio.get_running_loop().time() - asked
        assert late.ended == 1
        gaps = []
        for stream, task in zip(others, reading, strict=True):
            during = [at for at in stream.arrivals if asked - 1 < at]
            gaps.append(max(b - a for a, b in itertools.pairwise(during)))
            assert stream.error is None
            task.cancel()
            stream.drop()
        assert max(gaps) < min(GAP_S, took / 2), f"prefill of {took:.1f} s stopped others: {gaps}"
