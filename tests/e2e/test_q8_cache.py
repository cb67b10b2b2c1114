"""A server that keeps keys and values as q8: from the flag to an answer."""

import re
from pathlib import Path

import pytest
from openai import OpenAI

from pagemill import models
from pagemill.footprint import footprint_of
from pagemill.weights.load import open_model
from tests.e2e.serving import PATIENCE_S, Serving

MEMORY = 4 << 20


def test_a_server_keeps_q8(tiny_llama_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("pagemill._native", reason="the native kernels are not built")
    flags = ["--kv-cache-dtype", "q8_0", "--kv-cache-memory", str(MEMORY), "--backend", "cpu"]
    with Serving(tmp_path, tiny_llama_path, *flags) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        with OpenAI(base_url=url, api_key="any", max_retries=0, timeout=PATIENCE_S) as client:
            name = client.models.list().data[0].id
            answer = client.completions.create(
                model=name, prompt="a sea", max_tokens=20, temperature=0
            )
        pages = re.search(r'num_gpu_blocks="(\d+)"', server.get("/metrics")[1])
    assert answer.usage is not None and answer.usage.completion_tokens == 20
    footprint = footprint_of(open_model(tiny_llama_path, models), "cpu", "q8")
    assert footprint is not None and pages is not None
    assert int(pages[1]) == MEMORY // (16 * footprint.kv_token_bytes)
