"""What is found out by asking: dialect, model, fields, how words are counted; clear refusals."""

import pytest

from pagemill.bench.servers import Place, examine
from pagemill.errors import ConfigError, InvalidRequest, Unavailable, UnknownModel, Unsupported
from tests.bench.fake import Script, fake


async def test_a_server_that_knows_everything() -> None:
    async with fake(Script(tokens_per_word=2)) as server:
        target = await server.target()
    assert target.dialect.name == "OpenAI completions" and target.model == "fake"
    assert target.equal_lengths and "stream_options" in target.fields
    assert target.software == "vLLM 9.9"
    assert (target.scale.fixed, target.scale.each) == (3, 2)
    assert target.scale.words(103) == 50


async def test_chat_where_there_is_nothing_else() -> None:
    async with fake(Script(endpoints=("/v1/chat/completions",))) as server:
        assert (await server.target()).dialect.name == "OpenAI chat completions"


@pytest.mark.parametrize("chat", [False, True])
async def test_ollama(chat: bool) -> None:
    async with fake(Script(endpoints=("/api/generate", "/api/chat"))) as server:
        target = await server.target(**({"api": "ollama-chat"} if chat else {}))
    assert target.dialect.name == ("Ollama chat" if chat else "Ollama generate")
    assert not target.equal_lengths and target.scale.fixed == 3


async def test_fields_that_are_refused_are_left_out() -> None:
    async with fake(Script(unknown_fields=("ignore_eos", "min_tokens"))) as server:
        target = await server.target()
        assert not target.equal_lengths and "stream_options" in target.fields
    async with fake(Script(unknown_fields=("stream_options",))) as server:
        target = await server.target()
        assert target.equal_lengths and not target.fields
        assert (target.scale.fixed, target.scale.each) == (0, 1)  # it does not say


async def test_a_model_must_be_chosen_and_be_there() -> None:
    async with fake(Script(models=("a", "b"))) as server:
        assert (await server.target(model="b")).model == "b"
        with pytest.raises(InvalidRequest, match=r"several models.*: a, b"):
            await server.target()
        with pytest.raises(UnknownModel, match="no model 'c'; it has: a, b"):
            await server.target(model="c")


async def test_a_key_is_asked_for() -> None:
    async with fake(Script(key="secret")) as server:
        with pytest.raises(ConfigError, match="--api-key"):
            await server.target()
        assert (await server.target(key="secret")).model == "fake"


async def test_nobody_there() -> None:
    async with fake() as server:
        url = server.url
    with pytest.raises(Unavailable, match="nothing answers at http://127"):
        await examine(Place(url))


async def test_another_kind_of_server() -> None:
    async with fake(Script(endpoints=("/else",))) as server:
        with pytest.raises(Unsupported, match="neither OpenAI's nor Ollama's"):
            await server.target()


async def test_a_server_that_fails_from_the_start() -> None:
    async with fake(Script(refuse=lambda number: 503)) as server:
        with pytest.raises(Exception, match="HTTP 503: told to refuse"):
            await server.target()


@pytest.mark.parametrize(
    ("text", "name", "url", "model"),
    [
        ("http://h:1", "", "http://h:1", "given"),
        ("one=http://h:1/v1#m", "one", "http://h:1/v1", "m"),
        ("http://h:1/?a=b", "", "http://h:1/?a=b", "given"),
    ],
)
def test_how_a_place_is_written(text: str, name: str, url: str, model: str) -> None:
    place = Place.parse(text, model="given", api="auto")
    assert (place.name, place.url, place.model) == (name, url, model)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:99999"])
async def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError):
        await examine(Place(url))
