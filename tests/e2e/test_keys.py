"""Two holders of API keys share a server and nothing else."""

from pathlib import Path

from openai import OpenAI

from tests.e2e.serving import Serving

PROMPT = "A secret of the first key, long enough to fill several pages of the cache. " * 4


def test_a_prompt_is_cached_for_its_key_only(long_llama_path: Path, tmp_path: Path) -> None:
    with Serving(tmp_path, long_llama_path, "--api-key", "first,second") as server:
        for path in ("/metrics", "/v1/models", "/version", "/load"):
            assert server.get(path)[0] == 401
            assert server.get(path, "third")[0] == 401
            assert server.get(path, "second")[0] == 200

        def cached(key: str, *, chat: bool = False) -> int:
            url = f"http://127.0.0.1:{server.port}/v1"
            with OpenAI(base_url=url, api_key=key, max_retries=0) as client:
                usage = (
                    client.chat.completions.create(
                        model="long", messages=[{"role": "user", "content": PROMPT}], max_tokens=1
                    )
                    if chat
                    else client.completions.create(model="long", prompt=PROMPT, max_tokens=1)
                ).usage
            assert usage is not None
            assert usage.prompt_tokens_details is not None
            return usage.prompt_tokens_details.cached_tokens or 0

        for chat in (False, True):
            assert cached("first", chat=chat) == 0
            assert cached("first", chat=chat) > 100
            assert cached("second", chat=chat) == 0, "one key can tell what another one asked"
            assert cached("second", chat=chat) > 100
