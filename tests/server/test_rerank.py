"""/rerank, /score, /classify and /pooling: pairs, scores, classes, and what is refused."""

import base64
import math
import struct

import pytest

from tests.server.conftest import Live, Start
from tests.server.fakes import BOS, EOS, embedder, ranker
from tests.server.test_bodies import HOSTILE

DOCUMENTS = ["xyz", "parisian", "pal", "paris is far"]
RANKED = [3, 1, 2, 0]  # by how many letters of "paris" are in them


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


@pytest.fixture
async def live(start: Start) -> Live:
    return await start(ranker())


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_documents_come_back_best_first(live: Live, path: str) -> None:
    answer = await live.post(path, model="tiny", query="paris", documents=DOCUMENTS)
    body = answer.json()
    assert set(body) == {"id", "model", "usage", "results"} and body["model"] == "tiny"
    assert body["id"].startswith("rerank-")
    results = body["results"]
    assert [result["index"] for result in results] in (RANKED, [1, 3, 2, 0])
    assert [result["document"]["text"] for result in results] == [
        DOCUMENTS[result["index"]] for result in results
    ]
    scores = [result["relevance_score"] for result in results]
    assert scores == pytest.approx([sigmoid(2), sigmoid(2), sigmoid(-0.4), sigmoid(-2)])
    size = sum(3 + len("paris") + len(text) for text in DOCUMENTS)
    assert body["usage"] == {"prompt_tokens": size, "total_tokens": size}


async def test_pairs_are_framed_and_typed(live: Live) -> None:
    await live.post("/rerank", query="ab", documents=["c"])
    [request] = live.engine.requests
    assert request.prompt == (BOS, *b"ab", EOS, *b"c", EOS)
    assert request.token_types == (0, 0, 0, 0, 1, 1)
    assert (request.max_tokens, request.pooled) == (0, True)


async def test_equal_scores_keep_the_documents_order(live: Live) -> None:
    answer = await live.post("/rerank", query="a", documents=["b", "a", "c", "a"])
    assert [r["index"] for r in answer.json()["results"]] == [1, 3, 0, 2]


async def test_top_n_objects_and_no_documents(live: Live) -> None:
    documents = [{"text": text} for text in DOCUMENTS]
    answer = await live.post(
        "/rerank", query="paris", documents=documents, top_n=3, return_documents=False
    )
    results = answer.json()["results"]
    assert len(results) == 3 and all(set(r) == {"index", "relevance_score"} for r in results)
    more = await live.post("/rerank", query="paris", documents=DOCUMENTS, top_n=99)
    assert len(more.json()["results"]) == 4


async def test_raw_scores(live: Live) -> None:
    for wish in ({"raw_scores": True}, {"use_activation": False}):
        answer = await live.post("/rerank", query="paris", documents=["xyz", "paris"], **wish)
        assert [r["relevance_score"] for r in answer.json()["results"]] == [2, -2]


async def test_an_embedding_model_reranks_by_likeness(start: Start) -> None:
    live = await start(embedder())
    documents = ["hhhh", "paris", "paris", "prais"]
    body = (await live.post("/rerank", query="paris", documents=documents)).json()
    assert [r["index"] for r in body["results"]] == [1, 2, 3, 0]  # it counts letters
    assert body["results"][0]["relevance_score"] == pytest.approx(1, abs=1e-6)
    assert len(live.engine.requests) == 3  # each text once
    assert body["usage"]["total_tokens"] == 7 + 7 + 6


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")]
)
async def test_scores_of_pairs(live: Live, path: str, names: tuple[str, str]) -> None:
    many = await live.post(path, **{names[0]: "paris", names[1]: ["paris", "xyz"]})
    body = many.json()
    assert set(body) == {"id", "object", "created", "model", "data", "usage"}
    assert [set(item) for item in body["data"]] == [{"index", "object", "score"}] * 2
    assert [item["score"] for item in body["data"]] == pytest.approx([sigmoid(2), sigmoid(-2)])
    both = await live.post(path, **{names[0]: ["ab", "cd"], names[1]: ["ab", "xx"]})
    scores = [item["score"] for item in both.json()["data"]]
    assert scores == pytest.approx([sigmoid(2), sigmoid(-2)])


async def test_long_documents_are_refused_or_cut(live: Live) -> None:
    long = "x" * 300
    answer = await live.post("/rerank", query="ab", documents=["c", long])
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == "documents[1]"
    assert "305 tokens" in error["message"] and "at most 256" in error["message"]
    await live.post("/rerank", query="ab", documents=[long], truncate_prompt_tokens=-1)
    await live.post("/rerank", query="ab", documents=[long], max_tokens_per_doc=4)
    sent = [request.prompt for request in live.engine.requests]
    assert sent == [
        (BOS, *b"ab", EOS, *b"x" * 251, EOS),
        (BOS, *b"ab", EOS, *b"xxxx", EOS),
    ]


async def test_a_reranker_that_answers_in_words_scores_its_yes(start: Start) -> None:
    live = await start(ranker("no", "yes"))  # their scores differ by one
    answer = await live.post("/score", text_1="a", text_2=["a", "b"])
    assert [item["score"] for item in answer.json()["data"]] == pytest.approx([sigmoid(1)] * 2)


async def test_a_reranker_with_a_template_reads_both_texts_in_their_places(start: Start) -> None:
    model = ranker("yes", "no")
    model.pair_template = "<bos>Q {query} D {document}<eos>"
    live = await start(model)
    await live.post("/rerank", query="a {document}", documents=["b<eos>"])
    await live.post("/rerank", query="a", documents=["x" * 300], truncate_prompt_tokens=-1)
    await live.post("/rerank", query="a", documents=["xyz"], max_tokens_per_doc=2)
    sent = [request.prompt for request in live.engine.requests]
    assert sent == [
        (BOS, *b"Q a {document} D b<eos>", EOS),
        (BOS, *b"Q a D ", *b"x" * 248, EOS),
        (BOS, *b"Q a D xy", EOS),
    ]
    assert not any(request.token_types for request in live.engine.requests)


async def test_classes_have_labels_and_probabilities(start: Start) -> None:
    live = await start(ranker("bad", "so so", "good"))
    body = (await live.post("/classify", input=["a", "b"])).json()
    assert set(body) == {"id", "object", "created", "model", "data", "usage"}
    powers = [math.exp(n) for n in range(3)]
    want = [power / sum(powers) for power in powers]
    for index, item in enumerate(body["data"]):
        assert (item["index"], item["label"], item["num_classes"]) == (index, "good", 3)
        assert item["probs"] == pytest.approx(want)
    refused = await live.post("/rerank", query="a", documents=["b"])
    assert refused.status_code == 400 and "/classify" in refused.json()["error"]["message"]


async def test_a_single_class_without_a_name(live: Live) -> None:
    [item] = (await live.post("/classify", input="a")).json()["data"]
    assert (item["label"], item["num_classes"]) == ("LABEL_0", 1)
    [raw] = (await live.post("/classify", input="a", use_activation=False)).json()["data"]
    assert item["probs"] == pytest.approx([sigmoid(raw["probs"][0])])


async def test_pooling_gives_what_the_model_has(start: Start) -> None:
    embeds, scores = await start(embedder()), await start(ranker("no", "yes"))
    [item] = (await embeds.post("/pooling", input="a", task="embed")).json()["data"]
    assert item["object"] == "pooling" and len(item["data"]) == 8
    [packed] = (await embeds.post("/pooling", input="a", encoding_format="base64")).json()["data"]
    numbers = struct.unpack("<8f", base64.b64decode(packed["data"]))
    assert list(numbers) == pytest.approx(item["data"])
    [item] = (await scores.post("/pooling", input="a", task="classify")).json()["data"]
    assert sum(item["data"]) == pytest.approx(1)
    for live, task in ((embeds, "classify"), (scores, "embed"), (embeds, "token_embed")):
        refused = await live.post("/pooling", input="a", task=task)
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "task"


async def test_models_that_do_something_else_say_so(start: Start) -> None:
    writer, embeds = await start(), await start(embedder())
    for path, body in (
        ("/rerank", {"query": "a", "documents": ["b"]}),
        ("/score", {"text_1": "a", "text_2": "b"}),
        ("/classify", {"input": "a"}),
        ("/pooling", {"input": "a"}),
    ):
        answer = await writer.post(path, **body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "model"
        assert "writes text" in answer.json()["error"]["message"]
    answer = await embeds.post("/classify", input="a")
    assert answer.status_code == 400 and "no classes" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/rerank", {"documents": ["a"]}, "query", "query"),
        ("/rerank", {"query": "", "documents": ["a"]}, "query", "characters"),
        ("/rerank", {"query": 5, "documents": ["a"]}, "query", "string"),
        ("/rerank", {"query": "a"}, "documents", "at least one"),
        ("/rerank", {"query": "a", "documents": []}, "documents", "at least one"),
        ("/rerank", {"query": "a", "documents": "b"}, "documents", "list"),
        ("/rerank", {"query": "a", "documents": ["b", 5]}, "documents[1]", "string"),
        ("/rerank", {"query": "a", "documents": [{"image": "b"}]}, "documents[0]", "text"),
        ("/rerank", {"query": "a", "documents": ["b", ""]}, "documents[1]", "characters"),
        ("/rerank", {"query": "a", "documents": ["b"] * 2049}, "documents", "at most 2048"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n", "integer"),
        ("/rerank", {"query": "a", "documents": ["b"], "instruction": "x"}, "instruction", "not"),
        ("/score", {}, "queries", "string"),
        ("/score", {"text_1": "a"}, "text_2", "string"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["c"]}, "text_1", "2 texts"),
        ("/score", {"text_1": ["a", ""], "text_2": ["c", "d"]}, "text_1[1]", "characters"),
        ("/score", {"text_1": [], "text_2": []}, "text_1", "at least one"),
        ("/classify", {}, "input", "must be a string"),
        ("/pooling", {"input": [""]}, "input", "empty"),
    ],
)
async def test_what_is_wrong_is_refused_by_name(
    live: Live, path: str, body: dict[str, object], param: str, words: str
) -> None:
    answer = await live.post(path, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert error["param"] == param and words in error["message"]
    assert not live.engine.requests


FIELDS = {
    "/v1/embeddings": (
        *("model", "input", "dimensions", "encoding_format", "truncate_prompt_tokens", "priority"),
        *("add_special_tokens", "normalize", "truncation_side", "embed_dtype", "user"),
    ),
    "/pooling": ("input", "task", "encoding_format", "use_activation"),
    "/rerank": (
        *("query", "documents", "top_n", "return_documents", "max_tokens_per_doc", "raw_scores"),
        *("instruction", "truncate_prompt_tokens"),
    ),
    "/score": ("text_1", "text_2", "queries", "documents", "data_1"),
    "/classify": ("input", "use_activation", "add_special_tokens"),
}
GOOD = {
    "/v1/embeddings": '"input":"a"',
    "/pooling": '"input":"a"',
    "/rerank": '"query":"a","documents":["b"]',
    "/score": '"text_1":"a","text_2":["b"]',
    "/classify": '"input":"a"',
}


@pytest.mark.parametrize("path", FIELDS)
async def test_odd_values_are_never_a_failure_of_ours(start: Start, path: str) -> None:
    live = await start(embedder() if path in ("/v1/embeddings", "/pooling") else ranker())
    headers = {"content-type": "application/json"}
    answer = await live.http.post(path, content=f"{{{GOOD[path]}}}", headers=headers)
    assert answer.status_code == 200, answer.text
    for field in FIELDS[path]:
        for value in HOSTILE:
            body = f'{{{GOOD[path]},"{field}":{value}}}'
            answer = await live.http.post(path, content=body, headers=headers)
            assert answer.status_code in (200, 400, 404), f"{body}: {answer.text}"
