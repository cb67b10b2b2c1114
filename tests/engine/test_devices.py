"""Plans for devices: a card's memory is what there is, and what does not go together is refused."""

from dataclasses import replace

import pytest

from pagemill.engine.kv_types import kv_bytes_per_token
from pagemill.engine.plan import estimate, plan
from pagemill.errors import ConfigError
from pagemill.types import EnginePlan, Gpu, Machine
from tests.engine.test_plan import CARD, GIB, MACHINE, Asked

CARDS = (Gpu("A", 80 * GIB, 79 * GIB, (9, 0)), Gpu("B", 24 * GIB, 8 * GIB, (8, 9)))
WITH_GPUS = replace(MACHINE, gpus=CARDS)
LLAMA_8B = replace(
    CARD,
    quantization="BF16",
    parameters=8_030_000_000,
    weights_bytes=16_060_000_000,
    context_length=131072,
    layers=32,
    hidden_size=4096,
    ffn_size=14336,
    kv_elements=32 * 2 * 8 * 128,
)


def planned(asked: Asked, machine: Machine = WITH_GPUS) -> EnginePlan:
    return plan(asked, LLAMA_8B, machine, "model")


def test_a_card_is_filled() -> None:
    made = planned(Asked("cuda"))
    assert (made.backend, made.device) == ("cuda", "cuda")
    assert (made.max_num_seqs, made.max_num_batched_tokens) == (256, 2048)
    assert made.max_model_len == LLAMA_8B.context_length
    assert 70 * GIB < made.total_bytes <= 72 * GIB  # nine tenths of it
    assert made.kv_bytes == made.num_pages * 16 * LLAMA_8B.kv_elements * 2


def test_what_others_use_of_a_card_is_theirs() -> None:
    asked = Asked("cuda", "cuda:1", max_model_len=1024)
    with pytest.raises(ConfigError, match="choose a smaller model"):
        planned(replace(asked, gpu_layers=32))
    small = plan(asked, CARD, WITH_GPUS, "model")
    assert small.device == "cuda:1" and small.total_bytes <= 8 * GIB


def test_layers_that_do_not_fit_stay_on_the_host() -> None:
    made = planned(Asked("cuda", "cuda:1"))
    assert 0 < made.gpu_layers < 30 and made.total_bytes <= 8 * GIB
    assert made.max_model_len >= 4096
    fewer = planned(Asked("cuda", "cuda:1", gpu_layers=made.gpu_layers - 3))
    assert fewer.weights_bytes < made.weights_bytes
    assert fewer.num_pages > made.num_pages
    assert (
        planned(Asked("cuda")).gpu_layers == planned(Asked("cuda", gpu_layers=99)).gpu_layers == -1
    )


@pytest.mark.parametrize(
    ("asked", "machine", "words"),
    [
        (Asked("cpu", gpu_layers=3), WITH_GPUS, "gpu_layers is 3; it is for networks on a GPU"),
        (
            Asked("cuda", gpu_layers=0),
            replace(WITH_GPUS, available_bytes=GIB),
            "stay on the host need",
        ),
        (Asked("cuda", gpu_layers=3, pipeline_parallel_size=2), WITH_GPUS, "is for one rank"),
    ],
)
def test_layers_that_cannot_be_divided_are_refused(
    asked: Asked, machine: Machine, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        planned(asked, machine)
    assert refused.value.param == "gpu_layers"


def test_the_share_of_a_card_is_what_was_asked_for() -> None:
    most, least = planned(Asked("cuda")), planned(Asked("cuda", gpu_memory_utilization=0.5))
    assert 38 * GIB < least.total_bytes <= 40 * GIB < most.total_bytes
    assert (most.gpu_memory_utilization, least.gpu_memory_utilization) == (0.9, 0.5)
    assert planned(Asked("cpu"), replace(WITH_GPUS, available_bytes=64 * GIB)).gpu_layers == -1
    on_cpu = planned(Asked("cpu"), replace(WITH_GPUS, available_bytes=64 * GIB))
    assert on_cpu.gpu_memory_utilization == 0, "there is nothing to measure"


@pytest.mark.parametrize(
    ("kind", "bytes_"),
    [("f32", 4), ("f16", 2), ("bf16", 2), ("q8", 1 + 4 / 64), ("fp8", 1 + 4 / 64)],
)
def test_caches_on_devices_are_counted_with_their_scales(kind: str, bytes_: float) -> None:
    half = planned(Asked("cuda"))
    made = planned(Asked("cuda", kv_cache_dtype=kind))
    assert (half.kv_cache_dtype, made.kv_cache_dtype) == ("auto", kind)
    assert made.kv_bytes == made.num_pages * 16 * LLAMA_8B.kv_elements * bytes_
    assert made.num_pages == pytest.approx(half.num_pages * 2 / bytes_, rel=1e-3)


def test_a_device_without_floats_of_eight_bits_says_so() -> None:
    with pytest.raises(ConfigError, match=r"fp8; the torch backend on mps has auto.*f32, q8$"):
        plan(Asked("torch", "mps", kv_cache_dtype="fp8"), CARD, MACHINE, "model")
    assert (
        plan(Asked("torch", "mps", kv_cache_dtype="q8"), CARD, MACHINE, "").kv_cache_dtype == "q8"
    )


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked("cuda", "cuda:2"), "cuda:2; GPUs that can be seen here: A, B"),
        (Asked("auto", "gpu0"), "device is 'gpu0'; it must be auto, cuda"),
        (Asked("cuda", "cpu"), "the cuda backend takes cuda"),
        (Asked("cpu", "cuda"), "--backend cuda takes a device"),
        (Asked("reference", "mps"), "--backend torch takes a device"),
    ],
)
def test_what_does_not_go_together_is_refused(asked: Asked, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        planned(asked)
    assert error.value.param == "device"


def test_without_a_card_there_is_no_plan_for_one() -> None:
    with pytest.raises(ConfigError, match="can be seen here: none"):
        planned(Asked("cuda"), MACHINE)


def test_torch_on_the_host_is_planned_as_the_cpu_is() -> None:
    made = plan(Asked("torch"), CARD, MACHINE, "model")
    assert (made.device, made.max_num_seqs, made.max_num_batched_tokens) == ("cpu", 64, 256)
    assert made.kv_bytes == made.num_pages * 16 * CARD.kv_elements * 4
    assert plan(Asked("torch", "mps"), CARD, MACHINE, "model").device == "mps"


@pytest.mark.parametrize(
    ("backend", "dtype", "kept", "element"),
    [
        ("cuda", "auto", "Q4_1", 2),
        ("cuda", "float32", "Q4_1", 4),
        ("torch", "auto", "F32", 4),
        ("torch", "bfloat16", "BF16", 2),
        ("cpu", "bfloat16", "Q4_1", 2),
    ],
)
def test_footprints_count_what_is_computed_in(
    backend: str, dtype: str, kept: str, element: int
) -> None:
    footprint = estimate(CARD, backend, dtype)
    assert footprint.weights[0].kept_as == kept
    assert kv_bytes_per_token(CARD, backend, dtype) == CARD.kv_elements * element
    if backend == "torch":
        assert footprint.weights_bytes == CARD.parameters * element
    else:
        assert CARD.weights_bytes <= footprint.weights_bytes <= 1.2 * CARD.weights_bytes
