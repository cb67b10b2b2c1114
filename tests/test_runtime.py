"""The composition root: names to models, one load for all, and nothing left behind."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from pagemill import runtime as runtime_module
from pagemill.config import EngineConfig, HubConfig, Settings, TextConfig
from pagemill.engine.client import ProcessClient
from pagemill.engine.local import LocalClient
from pagemill.engine.spawn import EngineProcess
from pagemill.errors import BadModelFile, ConfigError, PagemillError, Unavailable, UnknownModel
from pagemill.hub.names import Name
from pagemill.hub.store import Store, file_sha256
from pagemill.runtime import (
    LoadedModel,
    Runtime,
    build_engine,
    counting,
    open_as_asked,
    plan_for,
)
from pagemill.text.messages import Message
from pagemill.types import EngineClient, GenerationDefaults, Request, SamplingParams
from pagemill.weights.load import Checkpoint
from tests.engine.test_process import wait_for

FAKE = "tests.engine.fake_engine"  # a worker that answers without a model
SLOW = "tests.slow_worker"

Open = Callable[..., Runtime]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(EngineConfig(backend="reference", threads=1), hub=HubConfig(home=tmp_path))


@pytest.fixture
async def open_runtime(settings: Settings) -> AsyncIterator[Open]:
    made: list[Runtime] = []

    def make(*names: str, worker: str = FAKE) -> Runtime:
        made.append(Runtime(settings, names, worker=worker))
        return made[-1]

    yield make
    for runtime in made:
        await runtime.close()


def store_model(home: Path, name: str, file: Path) -> None:
    store = Store(home)
    store.prepare()
    digest = f"sha256:{file_sha256(file)}"
    with store.lock(digest):
        copy = store.partial_path(digest)
        shutil.copy(file, copy)
        store.publish(digest, copy)
        store.add(Name.parse(name), digest, "test")


async def ids(client: EngineClient, prompt: tuple[int, ...]) -> list[int]:
    request = Request("r", prompt, 8, SamplingParams(temperature=0.0))
    return [token async for delta in client.generate(request) for token in delta.token_ids]


def ended(model: LoadedModel) -> bool:
    assert model.client.info is not None
    return not Path(f"/proc/{model.client.info.pid}").exists()


async def test_the_process_answers_as_the_engine_in_this_process_does(
    open_runtime: Open, settings: Settings, tiny_llama_path: Path
) -> None:
    runtime = open_runtime(str(tiny_llama_path), worker="pagemill.worker")
    model = await runtime.model("tiny_llama")
    assert model.client.info is not None
    assert model.client.info.backend == "reference"
    checkpoint = open_as_asked(settings.engine, tiny_llama_path)
    plan = plan_for(settings.engine, checkpoint, str(tiny_llama_path))
    assert plan.backend == model.plan.backend
    local = LocalClient(build_engine(plan), plan)
    prompt = tuple(model.tokenizer.encode("Hello, you!"))
    expected = await ids(local, prompt)
    assert len(expected) == 8
    assert await ids(model.client, prompt) == expected
    await local.close()


async def test_all_callers_share_one_load(open_runtime: Open, tiny_llama_path: Path) -> None:
    runtime = open_runtime(str(tiny_llama_path))
    models = await asyncio.gather(*(runtime.model("tiny_llama") for _ in range(5)))
    assert all(model is models[0] for model in models)
    assert await runtime.model(str(tiny_llama_path)) is models[0]
    assert runtime.loaded() == [models[0]]


async def test_a_caller_that_leaves_does_not_take_the_load_along(
    open_runtime: Open, tiny_llama_path: Path
) -> None:
    runtime = open_runtime(str(tiny_llama_path))
    first, second = (asyncio.create_task(runtime.model("tiny_llama")) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).name == "tiny_llama"


async def test_names_of_the_store(
    open_runtime: Open, settings: Settings, tiny_llama_path: Path
) -> None:
    store_model(settings.hub.home, "tiny:a", tiny_llama_path)
    store_model(settings.hub.home, "hf.co/org/Repo:F32", tiny_llama_path)
    runtime = open_runtime()
    assert [(entry.name, entry.loaded) for entry in runtime.names()] == [
        ("hf.co/org/Repo:F32", False),
        ("tiny:a", False),
    ]
    model = await runtime.model("org/Repo:f32")
    assert model.name == "hf.co/org/Repo:F32"
    assert model.created > 1_700_000_000
    [loaded] = [entry for entry in runtime.names() if entry.loaded]
    assert (loaded.name, loaded.max_model_len) == (model.name, model.plan.max_model_len)


async def test_only_the_given_names_are_served(
    open_runtime: Open, settings: Settings, tiny_llama_path: Path
) -> None:
    store_model(settings.hub.home, "tiny:a", tiny_llama_path)
    store_model(settings.hub.home, "tiny:b", tiny_llama_path)
    runtime = open_runtime("tiny:b")
    assert [entry.name for entry in runtime.names()] == ["tiny:b"]
    for name in ("tiny:a", "tiny", "../tiny", "", "x" * 10_000, str(tiny_llama_path), "a\x00b"):
        with pytest.raises(UnknownModel, match="there are: tiny:b") as caught:
            await runtime.model(name)
        assert caught.value.param == "model"
        assert len(caught.value.message) < 400
        assert "\x00" not in caught.value.message
    assert (await runtime.model("TINY:B")).name == "tiny:b"


def test_without_native_kernels_models_run_on_the_reference_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    Runtime(Settings(hub=HubConfig(home=tmp_path)))
    assert [record.message for record in caplog.records] == [
        "no native kernels here, so models run slowly: `pagemill doctor` says why"
    ]


async def test_an_empty_store_says_what_to_do(open_runtime: Open) -> None:
    runtime = open_runtime()
    assert runtime.names() == []
    with pytest.raises(UnknownModel, match="pagemill pull"):
        await runtime.model("tiny")


async def test_two_files_of_one_name(
    open_runtime: Open, tmp_path: Path, tiny_llama_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(tiny_llama_path, tmp_path / folder / "m.gguf")
    with pytest.raises(ConfigError, match="'m'"):
        open_runtime(str(tmp_path / "a/m.gguf"), str(tmp_path / "b/m.gguf"))


async def test_a_link_is_served_by_its_own_name(
    open_runtime: Open, tmp_path: Path, tiny_llama_path: Path
) -> None:
    digest, link = tmp_path / "0123abcd", tmp_path / "readable.gguf"
    shutil.copy(tiny_llama_path, digest)
    link.symlink_to(digest)
    assert [entry.name for entry in open_runtime(str(link)).names()] == ["readable"]


async def test_a_failure_is_forgotten(
    open_runtime: Open, tmp_path: Path, tiny_llama_path: Path
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF nonsense")
    runtime = open_runtime(str(file))
    results = await asyncio.gather(runtime.model("m"), runtime.model("m"), return_exceptions=True)
    assert [type(result) for result in results] == [BadModelFile, BadModelFile]
    assert runtime.loaded() == []
    shutil.copy(tiny_llama_path, file)
    assert (await runtime.model("m")).name == "m"


async def test_a_failure_of_the_engine_process(open_runtime: Open, tiny_llama_path: Path) -> None:
    runtime = open_runtime(str(tiny_llama_path), worker="tests.no_such_worker")
    with pytest.raises(PagemillError, match="stopped while it loaded the model"):
        await runtime.model("tiny_llama")
    assert runtime.loaded() == []


async def test_unload_and_load_again(open_runtime: Open, tiny_llama_path: Path) -> None:
    runtime = open_runtime(str(tiny_llama_path))
    model = await runtime.model("tiny_llama")
    await runtime.unload("tiny_llama")
    assert runtime.loaded() == []
    wait_for(lambda: ended(model))
    again = await runtime.model("tiny_llama")
    assert again is not model
    await runtime.unload("nobody")


async def test_closing_ends_everything(open_runtime: Open, tiny_llama_path: Path) -> None:
    runtime = open_runtime(str(tiny_llama_path))
    model = await runtime.model("tiny_llama")
    await runtime.close(drain_s=1)
    await runtime.close()
    wait_for(lambda: ended(model))
    with pytest.raises(Unavailable, match="shutting down"):
        await runtime.model("tiny_llama")


async def test_closing_in_the_middle_of_a_load(open_runtime: Open, tiny_llama_path: Path) -> None:
    runtime = open_runtime(str(tiny_llama_path), worker=SLOW)
    loading = asyncio.create_task(runtime.model("tiny_llama"))
    await asyncio.sleep(0.3)
    await asyncio.wait_for(runtime.close(), 3)
    with pytest.raises(Unavailable, match="while it was loading"):
        await loading


def opened_early(runtime: Runtime) -> ProcessClient:
    card, plan = runtime.prestart()
    [hosted] = runtime._by_name.values()
    assert hosted.opened is not None and hosted.opened.card is card
    assert hosted.opened.client.plan is plan
    return hosted.opened.client


async def test_a_process_started_early_is_the_one_that_is_used(
    open_runtime: Open, tiny_llama_path: Path
) -> None:
    runtime = open_runtime(str(tiny_llama_path))
    client = opened_early(runtime)
    assert (await runtime.model("tiny_llama")).client is client
    assert runtime.loaded()[0].client is client
    assert client.info is not None


async def test_a_process_started_early_and_never_used_is_ended(
    open_runtime: Open, tiny_llama_path: Path
) -> None:
    runtime = open_runtime(str(tiny_llama_path))
    process = opened_early(runtime)._process
    await runtime.close()
    assert process is not None
    assert process.ended()


async def test_what_cannot_be_loaded_leaves_no_process(
    settings: Settings, tiny_llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Settings(EngineConfig(backend="reference", max_model_len=1 << 30), hub=settings.hub)
    runtime = Runtime(asked, [str(tiny_llama_path)], worker=FAKE)
    made: list[EngineProcess] = []
    spawn = runtime._spawn

    def spawn_and_tell() -> EngineProcess:
        made.append(spawn())
        return made[-1]

    monkeypatch.setattr(runtime, "_spawn", spawn_and_tell)
    with pytest.raises(ConfigError, match="max_model_len"):
        runtime.prestart()
    with pytest.raises(ConfigError, match="max_model_len"):
        await runtime.model("tiny_llama")
    assert [process.ended() for process in made] == [True, True]
    await runtime.close()


def test_the_engine_process_loads_nothing_of_the_http_side() -> None:
    """What it imports is time before the first token, and memory for good."""
    script = "import sys, pagemill.worker; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    unwanted = {"asyncio", "ssl", "multiprocessing", "starlette", "uvicorn", "tokenizers", "jinja2"}
    assert not unwanted & set(loaded)


HELLO = [Message("user", "hello")]


async def with_text(
    settings: Settings,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keys: Mapping[str, object] = MappingProxyType({"general.sampling.temp": 0.5}),
    **text: str,
) -> LoadedModel:
    """The tiny model, whose file also has these keys, loaded with settings of text."""
    read = runtime_module.open_as_asked

    def read_more(config: EngineConfig, path: str) -> Checkpoint:
        checkpoint = read(config, path)
        return replace(checkpoint, metadata={**checkpoint.metadata, **keys})

    monkeypatch.setattr(runtime_module, "open_as_asked", read_more)
    runtime = Runtime(replace(settings, text=TextConfig(**text)), [str(path)], worker=FAKE)
    try:
        return await runtime.model("tiny_llama")
    finally:
        await runtime.close()


async def test_template_and_defaults_are_the_models_own(
    settings: Settings, tiny_llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await with_text(settings, tiny_llama_path, monkeypatch)
    assert model.template.render(HELLO).startswith("<|im_start|>system\nYou are a helpful")
    assert model.defaults == GenerationDefaults(temperature=0.5)


async def test_settings_replace_template_and_defaults(
    settings: Settings, tiny_llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {"chat_template": "{{ eos_token }}!", "generation_config": "none"}
    model = await with_text(settings, tiny_llama_path, monkeypatch, **text)
    assert model.template.render(HELLO) == "<|im_end|>!"
    assert model.defaults == GenerationDefaults()


async def test_a_model_without_a_template_gets_one_and_a_word_in_the_log(
    settings: Settings,
    tiny_llama_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("WARNING"):
        keys = {"tokenizer.chat_template": ""}
        model = await with_text(settings, tiny_llama_path, monkeypatch, keys)
    assert model.template.render(HELLO).startswith("<|im_start|>user\nhello<|im_end|>")
    assert "tiny_llama brings no chat template; --chat-template sets one" in caplog.messages


def test_a_broken_template_is_refused_at_once(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="--chat-template: line 1"):
        Runtime(replace(settings, text=TextConfig(chat_template="{{ x }")))


def test_ids_that_end_answers_count_whatever_is_set() -> None:
    defaults = GenerationDefaults(temperature=0.5, stop_ids=(7,))
    assert counting(TextConfig(), defaults) == defaults
    none = counting(TextConfig(generation_config="none"), defaults)
    assert none == GenerationDefaults(stop_ids=(7,))
