"""Plans of several ranks: what divides, what does not, and what they take together."""

from dataclasses import replace

import pytest

from pagemill.engine.plan import plan
from pagemill.engine.ranks import RANK_BYTES
from pagemill.errors import ConfigError
from pagemill.types import EnginePlan, Machine, ModelCard
from tests.engine.test_plan import Asked
from tests.samples import SMOLLM2_CARD

LLAMA = replace(SMOLLM2_CARD, heads=32, kv_heads=8, hidden_size=2048)
MACHINE = Machine(cores=8, memory_bytes=64 << 30, available_bytes=32 << 30)


def planned(
    tensor: int = 1, pipeline: int = 1, card: ModelCard = LLAMA, backend: str = "reference"
) -> EnginePlan:
    asked = Asked(backend, tensor_parallel_size=tensor, pipeline_parallel_size=pipeline)
    return plan(asked, card, MACHINE, "model.gguf")


def test_one_rank_is_the_default() -> None:
    made = planned()
    assert (made.tensor_parallel, made.pipeline_parallel, made.ranks) == (1, 1, 1)
    assert made.async_scheduling


def test_ranks_are_multiplied() -> None:
    made = planned(4, 3)
    assert (made.tensor_parallel, made.pipeline_parallel, made.ranks) == (4, 3, 12)
    assert made.async_scheduling
    assert made.process_bytes == planned().process_bytes + 12 * RANK_BYTES


def test_keys_and_values_that_several_have_count_for_each() -> None:
    one, four, sixteen = (planned(size) for size in (1, 4, 16))
    of_token = [made.kv_bytes / made.num_pages for made in (one, four, sixteen)]
    assert of_token[1] == of_token[0]
    assert of_token[2] == 2 * of_token[0]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"tensor": 3}, "tensor_parallel_size is 3; the model's 32 heads do not divide so"),
        (
            {"tensor": 16, "card": replace(LLAMA, ffn_size=1544)},
            "tensor_parallel_size is 16; the model's 1544 elements of a layer's inner width",
        ),
        (
            {"tensor": 4, "card": replace(LLAMA, kv_heads=6)},
            "tensor_parallel_size is 4; the model's 6 heads of keys and values neither",
        ),
        ({"pipeline": 31}, "pipeline_parallel_size is 31; the model has 30 layers"),
        ({"tensor": 8, "pipeline": 16}, "pipeline_parallel_size is 16; 128 ranks are too many"),
        ({"tensor": 65}, "tensor_parallel_size is 65; it must be in 1..64"),
        ({"tensor": 0}, "tensor_parallel_size is 0; it must be in 1..64"),
        (
            {"tensor": 2, "backend": "cpu"},
            "tensor_parallel_size is 2; the cpu backend computes in one process, only reference",
        ),
        (
            {"pipeline": 2, "backend": "transformers"},
            "pipeline_parallel_size is 2; the transformers backend computes in one process",
        ),
    ],
)
def test_what_does_not_divide_is_refused(asked: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        planned(**asked)  # type: ignore[arg-type]
    assert refused.value.message.startswith(words)
    assert refused.value.param in ("tensor_parallel_size", "pipeline_parallel_size")


def test_pages_of_several_ranks_stay() -> None:
    asked = replace(Asked("reference", tensor_parallel_size=2), kv_offload_bytes=1 << 30)
    with pytest.raises(ConfigError, match="kv_offload_gib is set; ranks are told steps only"):
        plan(asked, LLAMA, MACHINE, "model.gguf")
