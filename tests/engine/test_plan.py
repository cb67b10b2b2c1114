"""Planning: every auto resolved, what was asked honoured or refused with both numbers."""

from dataclasses import dataclass, replace

import pytest

from pagemill.engine.kv_types import kv_bytes_per_token
from pagemill.engine.plan import plan, workspace_bytes
from pagemill.errors import ConfigError
from pagemill.types import EnginePlan, Footprint, Machine, ModelCard
from tests.samples import SMOLLM2_CARD

GIB = 1 << 30
MACHINE = Machine(cores=8, memory_bytes=16 * GIB, available_bytes=12 * GIB)
CARD = replace(SMOLLM2_CARD, weights_bytes=100_000_000)


@dataclass(frozen=True)
class Asked:
    backend: str = "auto"
    device: str = "auto"
    threads: int = 0
    max_model_len: int = 0
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0
    max_queued: int = 0
    kv_cache_memory: int = 0
    page_size: int = 16
    prefix_caching: bool = True
    async_scheduling: bool = True
    enforce_eager: bool = False
    gpu_memory_utilization: float = 0.9
    gpu_layers: int = -1
    kv_offload_bytes: int = 0
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    dtype: str = "auto"
    quantization: str = "none"
    kv_cache_dtype: str = "auto"


def planned(asked: Asked, card: ModelCard = CARD, available: int = 12 * GIB) -> EnginePlan:
    machine = replace(MACHINE, available_bytes=available)
    made = plan(asked, card, machine, "model.gguf")
    assert made.num_pages * made.page_size >= made.max_model_len
    page_bytes = made.page_size * kv_bytes_per_token(
        card, made.backend, kv_dtype=made.kv_cache_dtype
    )
    assert made.kv_bytes == made.num_pages * page_bytes
    return made


FIXED = 250 << 20  # a little more than everything takes beside the cache


def test_defaults() -> None:
    made = planned(Asked())
    assert (made.backend, made.threads, made.max_model_len) == ("cpu", 8, 8192)
    assert (made.max_num_seqs, made.max_num_batched_tokens, made.max_queued) == (64, 256, 512)
    assert made.model_path == "model.gguf" and made.prefix_caching
    assert made.num_pages * made.page_size >= 64 * 300
    assert made.kv_bytes < 600 << 20


def test_what_is_asked_is_what_is_planned() -> None:
    asked = Asked("reference", "auto", 3, 1000, 7, 33, 5, 1 << 28, 4, False)
    made = planned(asked)
    assert (made.backend, made.threads, made.max_model_len) == ("reference", 3, 1000)
    assert (made.max_num_seqs, made.max_num_batched_tokens, made.max_queued) == (7, 33, 5)
    assert (made.page_size, made.prefix_caching) == (4, False)
    assert (1 << 28) - made.kv_bytes < 4 * kv_bytes_per_token(CARD, "reference")


def test_a_q8_cache_holds_nearly_twice_the_tokens() -> None:
    asked = {"kv_cache_memory": 1 << 28}
    half, quarter = planned(Asked(**asked)), planned(Asked(**asked, kv_cache_dtype="q8"))
    assert (half.kv_cache_dtype, quarter.kv_cache_dtype) == ("f16", "q8")
    assert quarter.num_pages == pytest.approx(half.num_pages * 32 / 17, abs=1)
    full = planned(Asked(**asked, kv_cache_dtype="f32"))
    assert full.num_pages == pytest.approx(half.num_pages / 2, abs=1)


@pytest.mark.parametrize(
    ("backend", "asked", "have"),
    [
        ("reference", "q8", "auto, f32"),
        ("transformers", "q8", "auto"),
        ("cpu", "fp8", "auto, f16, f32, q8"),
        ("cpu", "bf16", "auto, f16, f32, q8"),
    ],
)
def test_a_cache_that_a_backend_does_not_have_is_refused(
    backend: str, asked: str, have: str
) -> None:
    words = f"kv_cache_dtype is {asked}; the {backend} backend has {have}$"
    with pytest.raises(ConfigError, match=words) as refused:
        planned(Asked(backend=backend, kv_cache_dtype=asked))
    assert refused.value.param == "kv_cache_dtype"
    assert planned(Asked(backend="reference", kv_cache_dtype="f32")).kv_cache_dtype == "f32"


def test_many_sequences_leave_room_for_prompts() -> None:
    assert planned(Asked(max_num_seqs=1000)).max_num_batched_tokens == 2000


def test_steps_of_large_networks_are_shorter_on_a_cpu() -> None:
    large = replace(CARD, parameters=1_000_000_000)
    assert planned(Asked(), large).max_num_batched_tokens == 128
    assert planned(Asked(max_num_seqs=100), large).max_num_batched_tokens == 200
    assert planned(Asked(max_num_batched_tokens=256), large).max_num_batched_tokens == 256


def test_networks_that_pool_get_large_steps_of_many_rows() -> None:
    encoder = replace(CARD, pooling="mean", kv_elements=0, context_length=512)
    made = planned(Asked(), encoder)
    assert (made.max_num_seqs, made.max_num_batched_tokens, made.max_queued) == (1024, 1024, 4096)
    assert (made.max_model_len, made.kv_bytes, made.prefix_caching) == (512, 0, False)
    # Whatever the texts' lengths, pages are not what ends a step.
    assert made.num_pages >= made.max_num_seqs + made.max_num_batched_tokens // made.page_size


def test_the_pages_of_a_pooled_decoder_hold_one_step_and_the_longest_text() -> None:
    made = planned(Asked(), replace(CARD, pooling="last"))
    assert made.max_num_seqs == 64
    assert made.num_pages * 16 == max(8192, 1024 + 64 * 16)
    short = planned(Asked(), replace(CARD, pooling="last"), available=FIXED + (100 << 20))
    assert 256 <= short.max_model_len < 8192
    with pytest.raises(ConfigError, match="max_model_len"):
        planned(
            Asked(max_model_len=8192), replace(CARD, pooling="last"), available=FIXED + (100 << 20)
        )


STATES = replace(CARD, state_elements=15_000_000)  # 57 MiB a sequence


def test_states_are_a_part_of_the_memory_and_limit_who_runs_at_once() -> None:
    made = planned(Asked(), STATES)
    assert made.max_num_seqs == 42  # in a fifth of what weights and processes leave
    assert made.state_bytes == 42 * 60_000_000
    assert not made.prefix_caching and planned(Asked(), CARD).state_bytes == 0
    assert planned(Asked(), replace(STATES, state_elements=1000)).max_num_seqs == 64
    assert planned(Asked(max_num_seqs=64), STATES).state_bytes == 64 * 60_000_000
    # Somebody must run, and pages get what the states leave.
    small = planned(Asked(), STATES, available=FIXED + (100 << 20))
    assert small.max_num_seqs == 1
    assert small.kv_bytes > 0 and small.total_bytes <= FIXED + (100 << 20)


def test_states_that_do_not_fit_are_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"is 300: .* 17,166.1 MiB.* 12,091.8 MiB") as caught:
        planned(Asked(max_num_seqs=300), STATES)
    assert caught.value.param == "max_num_seqs"
    assert planned(Asked(max_num_seqs=200), STATES).state_bytes == 200 * 60_000_000
    with pytest.raises(ConfigError, match="max_num_seqs is 1:"):
        planned(Asked(), STATES, available=CARD.weights_bytes + 1000)
    with pytest.raises(ConfigError, match=r"for weights, states, workspace.* or --max-num-seqs"):
        planned(Asked(max_num_seqs=208, max_model_len=8192), STATES)


def test_a_small_machine_shortens_an_automatic_context() -> None:
    made = planned(Asked(), available=FIXED + (100 << 20))
    assert 256 <= made.max_model_len < 8192
    assert made.kv_bytes <= 0.4 * (100 << 20) + 0.4 * FIXED


def test_little_memory_asked_shortens_an_automatic_context() -> None:
    made = planned(Asked(kv_cache_memory=32 << 20))
    assert made.max_model_len == made.num_pages * 16 < 8192


def test_an_asked_context_may_take_more_than_the_usual_share() -> None:
    available = FIXED + 9000 * kv_bytes_per_token(CARD)
    assert planned(Asked(), available=available).max_model_len < 8192
    assert planned(Asked(max_model_len=8192), available=available).max_model_len == 8192


@pytest.mark.parametrize(
    ("asked", "available", "words"),
    [
        (Asked(max_model_len=8192), FIXED + (100 << 20), ["max_model_len", "180.0 MiB", "8192"]),
        (Asked(max_model_len=4096, kv_cache_memory=32 << 20), 12 * GIB, ["90.0 MiB", "32.0 MiB"]),
        (Asked(), 101_000_000, ["max_model_len", "256"]),
        (Asked(), 0, ["max_model_len", "0.0 MiB"]),
        (Asked(kv_cache_memory=13 * GIB), 12 * GIB, ["kv_cache_memory", "13,312.0 MiB"]),
    ],
)
def test_too_little_memory_is_refused_with_numbers_and_ways_out(
    asked: Asked, available: int, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(asked, available=available)
    for word in [*words, "--max-model-len", "--kv-cache-memory", "smaller model"]:
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("asked", "setting", "limit"),
    [
        (Asked(max_model_len=8193), "max_model_len", "1..8192"),
        (Asked(max_model_len=-1), "max_model_len", "1..8192"),
        (Asked(max_num_seqs=1025), "max_num_seqs", "1..1024"),
        (Asked(max_num_seqs=-1), "max_num_seqs", "1..1024"),
        (Asked(max_num_batched_tokens=-5), "max_num_batched_tokens", "1.."),
        (Asked(page_size=0), "page_size", "1..1024"),
        (Asked(page_size=24), "page_size", "multiples of 16"),
        (Asked(threads=-1), "threads", "1.."),
        (Asked(max_queued=-1), "max_queued", "1.."),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_limit(
    asked: Asked, setting: str, limit: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(asked)
    assert caught.value.param == setting
    assert setting in caught.value.message and limit in caught.value.message


def test_all_memory_is_planned() -> None:
    made = planned(Asked(max_model_len=1000, max_num_seqs=4))
    assert made.weights_bytes == CARD.weights_bytes
    assert made.process_bytes > 50 << 20
    assert made.workspace_bytes > 256 * 4 * CARD.hidden_size + 4 * 4 * CARD.vocab_size
    parts = made.weights_bytes + made.workspace_bytes + made.process_bytes + made.kv_bytes
    assert made.total_bytes == parts
    assert replace(made, state_bytes=1000).total_bytes == parts + 1000
    assert planned(Asked(), available=made.total_bytes).total_bytes <= made.total_bytes


def test_workspace_follows_the_largest_step() -> None:
    sizes = Footprint((), 0, 0, 0, 1000, 500, 100, 7, 3)
    assert workspace_bytes(sizes, 256, 4, 2, 100) == 256_000 + 2_000 + 2 * 800 + 3 * 2048
    assert workspace_bytes(sizes, 2, 4, 1, 5000) == 2_000 + 1_000 + 35_100 + 3 * 8192


def test_on_the_reference_weights_are_float32() -> None:
    made = planned(Asked("reference"))
    assert made.weights_bytes == 4 * CARD.parameters


def test_a_refusal_says_what_would_fit() -> None:
    with pytest.raises(ConfigError, match=r"to \d+, the most that fits") as caught:
        planned(Asked(max_model_len=8192), available=FIXED + (100 << 20))
    fits = int(caught.value.message.split("--max-model-len (to ")[1].split(",")[0])
    assert planned(Asked(max_model_len=fits), available=FIXED + (100 << 20)).max_model_len == fits


def test_pages_on_the_host_are_for_backends_whose_pages_are_elsewhere() -> None:
    assert planned(Asked(backend="reference", kv_offload_bytes=5)).kv_offload_bytes == 5
    with pytest.raises(ConfigError, match="--kv-cache-memory gives it more") as refused:
        planned(Asked(backend="cpu", kv_offload_bytes=5))
    assert refused.value.param == "kv_offload_gib"


def test_what_was_asked_for_is_told_apart_from_what_was_chosen() -> None:
    made = planned(Asked(max_model_len=1000, kv_cache_memory=1 << 30))
    assert (made.asked_model_len, made.asked_kv_bytes) == (1000, 1 << 30)
    made = planned(Asked())
    assert (made.asked_model_len, made.asked_kv_bytes, made.least_model_len) == (0, 0, 256)
