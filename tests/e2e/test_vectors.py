"""Chat, embeddings and reranking on one port at the same time, each model an engine of its own."""

import concurrent.futures
import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.e2e.serving import PATIENCE_S, Serving

GOLDEN = Path(__file__).parents[1] / "golden" / "encoders"
WORDS = ("a sea", "tea or rain", "sun", "the rest is a ruse", "no one saw it")


@pytest.fixture(scope="module")
def server(long_llama_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("vectors")
    files = []
    for name in ("bert", "reranker", "bert_classifier"):
        files.append(folder / f"{name}.gguf")
        files[-1].write_bytes((GOLDEN / name / "model.gguf").read_bytes())
    files.append(folder / "sentences")
    shutil.copytree(GOLDEN / "bert", files[-1])
    with Serving(
        folder, long_llama_path, *files, "--preload", "--kv-cache-memory", "16M"
    ) as running:
        yield running


@pytest.fixture
def client(server: Serving) -> Iterator[OpenAI]:
    url = f"http://127.0.0.1:{server.port}/v1"
    with OpenAI(base_url=url, api_key="any", max_retries=0, timeout=PATIENCE_S) as opened:
        yield opened


def post(server: Serving, path: str, **body: Any) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def test_every_model_does_what_it_can_and_says_so(server: Serving, client: OpenAI) -> None:
    models = {model.id: model.model_dump()["capabilities"] for model in client.models.list()}
    assert models == {
        "long": ["completion"],
        "bert": ["embedding"],
        "reranker": ["rerank"],
        "bert_classifier": ["rerank"],
        "sentences": ["embedding"],
    }
    assert len(server.engines()) == 5
    with pytest.raises(BadRequestError, match="writes text"):
        client.embeddings.create(model="long", input="a")
    with pytest.raises(BadRequestError, match="/v1/embeddings"):
        client.chat.completions.create(model="bert", messages=[{"role": "user", "content": "a"}])


def test_a_vector_does_not_depend_on_who_shares_the_step(client: OpenAI) -> None:
    def embed(*texts: str) -> list[list[float]]:
        answer = client.embeddings.create(model="bert", input=list(texts))
        return [item.embedding for item in answer.data]

    alone = {text: embed(text)[0] for text in WORDS}
    many = [WORDS[n % len(WORDS)] for n in range(300)]
    assert embed(*many) == [alone[text] for text in many]
    assert sum(value * value for value in alone[WORDS[0]]) == pytest.approx(1)


def test_a_folder_gives_the_vectors_of_its_gguf_twin(client: OpenAI) -> None:
    texts = [*WORDS, "Tea, SEA; a\tsun!", "[SEP] typed"]
    answers = [client.embeddings.create(model=name, input=texts) for name in ("bert", "sentences")]
    file, folder = ([item.embedding for item in answer.data] for answer in answers)
    assert answers[0].usage == answers[1].usage
    for one, other in zip(file, folder, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_all_at_once(server: Serving, client: OpenAI) -> None:
    """Vectors and scores come while others are talking, and nobody waits for the other's end."""
    enough = threading.Event()

    def talk() -> int:
        """Answers until it is enough, at least one."""
        answers = 0
        while not answers or not enough.is_set():
            answer = client.completions.create(
                model="long", prompt="Once", max_tokens=50, extra_body={"ignore_eos": True}
            )
            assert answer.usage is not None and answer.usage.completion_tokens == 50
            answers += 1
        return answers

    with concurrent.futures.ThreadPoolExecutor() as pool:
        talks = [pool.submit(talk) for _ in range(2)]
        try:
            embedded = [
                pool.submit(client.embeddings.create, model="bert", input=list(WORDS) * 20)
                for _ in range(4)
            ]
            ranked = pool.submit(
                post, server, "/v2/rerank", model="reranker", query="tea", documents=list(WORDS)
            )
            for call in embedded:
                assert len(call.result(PATIENCE_S).data) == 100
            results = ranked.result(PATIENCE_S)["results"]
        finally:
            enough.set()
        assert all(call.result(PATIENCE_S) >= 1 for call in talks)
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(WORDS)


def test_classes(server: Serving) -> None:
    [item] = post(server, "/classify", model="bert_classifier", input="sun")["data"]
    assert item["label"] in ("bad", "so so", "good") and sum(item["probs"]) == pytest.approx(1)


def test_counters_of_vectors(server: Serving, client: OpenAI) -> None:
    before = server.metric("vllm:request_success_total")
    client.embeddings.create(model="bert", input=list(WORDS))
    after = server.metric("vllm:request_success_total")
    assert after - before == len(WORDS)
