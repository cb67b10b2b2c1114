"""A plan in plain words."""

from dataclasses import replace

from pagemill.cli.plan_lines import plan_lines
from tests.samples import SMOLLM2_CARD, engine_plan

PLAN = replace(
    engine_plan(num_pages=1024, page_size=16, max_num_seqs=64, max_queued=512, max_model_len=4096),
    backend="cpu",
    threads=2,
    kv_bytes=377_487_360,
    weights_bytes=97_000_000,
    workspace_bytes=22_000_000,
    process_bytes=100_000_000,
)


def test_says_what_states_take_and_that_prefixes_are_not_shared() -> None:
    card = replace(SMOLLM2_CARD, architecture="granitehybrid", state_elements=1_000_000)
    lines = plan_lines("granite", card, replace(PLAN, state_bytes=256_000_000))
    assert lines[-2:] == [
        "  memory    97 MB weights + 377 MB for keys and values (16384 tokens) "
        "+ 256 MB for states of 64 requests "
        "+ 22 MB workspace + 100 MB processes = 852 MB at most",
        "  prefixes  are computed by every request: a state cannot be shared as pages can",
    ]


def test_says_model_context_threads_and_memory() -> None:
    assert plan_lines("smollm2", SMOLLM2_CARD, PLAN) == [
        "smollm2: llama, 135M parameters, Q4_1",
        "  context   4096 tokens (the model could take 8192; --max-model-len)",
        "  compute   cpu backend, 2 threads, 64 requests at once, 512 more may wait",
        "  memory    97 MB weights + 377 MB for keys and values (16384 tokens) "
        "+ 22 MB workspace + 100 MB processes = 596 MB at most",
    ]


def test_says_when_weights_take_more_than_their_file() -> None:
    card = replace(SMOLLM2_CARD, weights_bytes=60_000_000)
    assert "97 MB weights (60 MB in the file) +" in plan_lines("smollm2", card, PLAN)[-1]


def test_of_an_encoder_it_says_what_it_gives() -> None:
    card = replace(SMOLLM2_CARD, pooling="mean", kv_elements=0, context_length=4096)
    lines = plan_lines("embedder", card, replace(PLAN, kv_bytes=0))
    assert lines[1] == "  gives     embeddings of 576 numbers, from the mean of all tokens"
    assert lines[-1] == (
        "  memory    97 MB weights + nothing for texts "
        "+ 22 MB workspace + 100 MB processes = 219 MB at most"
    )


def test_says_which_layers_come_from_the_host() -> None:
    card = replace(SMOLLM2_CARD, layers=32)
    lines = plan_lines("big", card, replace(PLAN, gpu_layers=20))
    assert "  layers    20 on the card; weights of 12 come from the host" in lines
    assert not any("layers" in line for line in plan_lines("big", card, PLAN)[1:])
