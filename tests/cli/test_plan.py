"""`pagemill plan`: what a model would take, and the ways out where that is too much."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pagemill.cli.plan import look_up, plan
from pagemill.config import Settings
from pagemill.errors import ConfigError, UnknownModel
from pagemill.types import Gpu, Machine
from tests.hub.fake import Fake, serving
from tests.hub.hf import offer

Enough = Callable[[int], None]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({"home": str(tmp_path), "threads": "2"}, {}, {})


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> Enough:
    """Sets what the machine has, in bytes."""

    def has(size: int) -> None:
        machine = Machine(cores=2, memory_bytes=1 << 40, available_bytes=size)
        monkeypatch.setattr("pagemill.machine.this_machine", lambda: machine)

    return has


def total(name: str, settings: Settings, context: int, users: int) -> int:
    return look_up(name, settings, context, users).needed(context, users)


def test_what_fits_comes_with_the_command(
    tiny_llama_path: Path, settings: Settings, available: Enough
) -> None:
    available(1 << 34)
    report, fits = plan(str(tiny_llama_path), settings, 64, 3)
    assert fits
    for label in ("weights", "cache", "workspace", "processes", "total", "available"):
        assert f"\n  {label} " in report
    assert "192 tokens" in report and "12 pages of 16" in report and "F32" in report
    assert "--max-model-len 64 --max-num-seqs 3 --kv-cache-memory" in report


@pytest.mark.parametrize(
    "asked",
    [
        {"backend": "torch", "device": "cpu", "dtype": "bfloat16"},
        {"page_size": 32, "quantization": "int8", "kv_cache_dtype": "q8", "backend": "torch"},
        {"prefix_caching": False, "enforce_eager": True, "max_num_batched_tokens": 300},
        {"backend": "torch", "tensor_parallel_size": 2, "gpu_memory_utilization": 0.75},
        {"backend": "reference", "kv_offload_bytes": 3 << 28},
    ],
)
@pytest.mark.parametrize("context", [0, 64])
def test_the_command_does_what_was_planned(
    tiny_llama_path: Path,
    settings: Settings,
    available: Enough,
    asked: dict[str, Any],
    context: int,
) -> None:
    available(1 << 34)
    engine = replace(settings.engine, **asked)
    report, fits = plan(str(tiny_llama_path), replace(settings, engine=engine), context, 0)
    words = shlex.split(report.rpartition("It fits: ")[2])
    assert fits and words[:3] == ["pagemill", "serve", str(tiny_llama_path)]
    flags: dict[str, Any] = {}
    for at, word in enumerate(words[3:], 3):
        if word.startswith("--no-"):
            flags[word[5:]] = False
        elif word.startswith("--"):
            alone = words[at + 1 : at + 2] in ([], *([w] for w in words if w.startswith("--")))
            flags[word[2:]] = True if alone else words[at + 1]
    served = Settings.load(flags, {}, {}).engine
    if context:
        assert (served.max_model_len, served.max_num_seqs) == (64, 1) and served.kv_cache_memory
        served = replace(served, max_model_len=0, max_num_seqs=0, kv_cache_memory=0)
    assert served == engine


@pytest.mark.parametrize("context", [0, 64])
def test_what_is_for_a_card_is_compared_with_its_memory(
    tiny_llama_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    context: int,
) -> None:
    """Which may be more than the host has, or less."""
    engine = replace(settings.engine, backend="cuda", device="cuda:1")
    asked = replace(settings, engine=engine)

    def on(host: int, card: int) -> tuple[str, bool]:
        gpus = (Gpu("first", 1 << 30, 1 << 30), Gpu("second", 2 * card, card))
        machine = Machine(cores=2, memory_bytes=2 * host, available_bytes=host, gpus=gpus)
        monkeypatch.setattr("pagemill.machine.this_machine", lambda: machine)
        return plan(str(tiny_llama_path), asked, context, 0)

    report, fits = on(host=1 << 28, card=1 << 34)
    assert fits and "  of 34 GB on cuda:1\n" in report
    assert " --backend cuda --device cuda:1 " in report
    if context:
        report, fits = on(host=1 << 40, card=1 << 20)
        assert not fits and "It does not fit" in report


def test_a_q8_cache_is_counted(
    tiny_llama_path: Path, settings: Settings, available: Enough
) -> None:
    available(1 << 34)
    engine = replace(settings.engine, backend="cpu", kv_cache_dtype="q8")
    report, _ = plan(str(tiny_llama_path), replace(settings, engine=engine), 64, 3)
    assert " as q8, 12 pages" in report and report.endswith(" --kv-cache-dtype q8")


def test_an_fp8_cache_of_a_device_is_counted(
    tiny_llama_path: Path, settings: Settings, available: Enough
) -> None:
    available(1 << 34)
    asked = replace(settings.engine, backend="torch")
    engine = replace(asked, kv_cache_dtype="fp8")
    report, _ = plan(str(tiny_llama_path), replace(settings, engine=engine), 64, 3)
    assert " as fp8, 12 pages" in report and report.endswith(" --kv-cache-dtype fp8")
    whole = look_up(str(tiny_llama_path), replace(settings, engine=asked), 64, 3)
    small = look_up(str(tiny_llama_path), replace(settings, engine=engine), 64, 3)
    vectors = whole.card.kv_elements // whole.card.head_dim
    assert whole.footprint.kv_token_bytes == 4 * whole.card.kv_elements
    assert small.footprint.kv_token_bytes == whole.card.kv_elements + 4 * vectors


def test_a_cache_that_the_backend_does_not_have_is_refused(
    tiny_llama_path: Path, settings: Settings
) -> None:
    engine = replace(settings.engine, backend="cpu", kv_cache_dtype="fp8")
    with pytest.raises(ConfigError, match="kv_cache_dtype is fp8; the cpu backend has auto, f16"):
        plan(str(tiny_llama_path), replace(settings, engine=engine), 64, 3)


def test_what_does_not_fit_comes_with_what_would(
    tiny_llama_path: Path, settings: Settings, available: Enough
) -> None:
    name = str(tiny_llama_path)
    context = look_up(name, settings, 0, 0).card.context_length
    available(total(name, settings, context, 40))
    assert plan(name, settings, context, 40)[1]
    report, fits = plan(name, settings, context, 41)
    assert not fits and "does not fit" in report
    assert f"--users 40: the most at once with {context} tokens" in report


def test_a_shorter_context_is_offered(
    tiny_llama_path: Path, settings: Settings, available: Enough
) -> None:
    name = str(tiny_llama_path)
    limit = look_up(name, settings, 0, 0).card.context_length
    available(total(name, settings, limit, 1000) - 1)
    report, fits = plan(name, settings, limit, 1000)
    assert not fits
    offered = [line for line in report.splitlines() if "--users" in line]
    assert len(offered) == 1 and int(offered[0].split()[1].rstrip(":")) < 1000


def test_nothing_fits_on_nothing(
    tiny_llama_path: Path, settings: Settings, available: Enough
) -> None:
    available(1000)
    report, fits = plan(str(tiny_llama_path), settings, 16, 1)
    assert not fits and "smaller model" in report


def test_without_users_it_is_what_serving_chooses(
    tiny_llama_path: Path, settings: Settings, available: Enough
) -> None:
    from pagemill.runtime import open_as_asked, plan_for

    available(1 << 34)
    report, fits = plan(str(tiny_llama_path), settings, 0, 0)
    chosen = plan_for(
        settings.engine, open_as_asked(settings.engine, tiny_llama_path), str(tiny_llama_path)
    )
    assert fits and f"{chosen.num_pages:,} pages" in report
    assert f"steps of {chosen.max_num_batched_tokens} tokens" in report


@pytest.mark.parametrize(
    ("context", "users", "words"),
    [(1 << 20, 1, "--ctx is 1048576"), (16, 2000, "--users is 2000; it must be in 1..1024")],
)
def test_what_cannot_be_asked_is_refused(
    tiny_llama_path: Path, settings: Settings, context: int, users: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(str(tiny_llama_path), settings, context, users)


def test_a_path_with_nothing_there(settings: Settings) -> None:
    with pytest.raises(UnknownModel, match=r"no file or folder \./nowhere\.gguf"):
        plan("./nowhere.gguf", settings, 0, 0)


def test_a_repository_is_planned_before_it_is_pulled(
    settings: Settings, available: Enough, tiny_llama_path: Path
) -> None:
    available(1 << 34)
    with serving(Fake()) as hub:
        offer(hub, {"model-F32.gguf": tiny_llama_path.read_bytes()})
        asked = replace(settings, hub=replace(settings.hub, hf_endpoint=hub.url))
        report, fits = plan("org/repo:F32", asked, 64, 3)
    here, _ = plan(str(tiny_llama_path), settings, 64, 3)
    assert fits
    assert [line for line in report.splitlines() if line.startswith("  ")] == [
        line for line in here.splitlines() if line.startswith("  ")
    ]


def test_a_catalogue_entry_without_a_header_is_estimated(
    settings: Settings, available: Enough
) -> None:
    available(1 << 34)
    report, fits = plan("smollm2", settings, 0, 0)
    assert fits and "98 MB  estimated" in report and "pagemill pull smollm2" in report
    available(100_000_000)
    assert not plan("smollm2", settings, 0, 0)[1]
