"""Cards and plans that tests start from; `dataclasses.replace` makes the others. Imports no array
library, so that a fake process starts at once."""

from pagemill.types import EnginePlan, ModelCard

TINY_CARD = ModelCard(
    name="tiny",
    architecture="llama",
    quantization="F32",
    parameters=0,
    weights_bytes=0,
    context_length=256,
    vocab_size=48,
    layers=2,
    hidden_size=16,
    ffn_size=24,
    heads=4,
    kv_heads=2,
    head_dim=4,
    rope_dim=4,
    rope_theta=10000.0,
    norm_eps=1e-5,
    tied_embeddings=True,
    kv_elements=2 * 2 * 2 * 4,
)
SMOLLM2_CARD = ModelCard(
    name="SmolLM2",
    architecture="llama",
    quantization="Q4_1",
    parameters=134_515_008,
    weights_bytes=96_576_768,
    context_length=8192,
    vocab_size=49152,
    layers=30,
    hidden_size=576,
    ffn_size=1536,
    heads=9,
    kv_heads=3,
    head_dim=64,
    rope_dim=64,
    rope_theta=100000.0,
    norm_eps=1e-5,
    tied_embeddings=True,
    kv_elements=30 * 2 * 3 * 64,
)


def engine_plan(
    *,
    num_pages: int = 64,
    page_size: int = 4,
    budget: int = 16,
    max_num_seqs: int = 8,
    max_queued: int = 100,
    max_model_len: int = 0,
    prefix_caching: bool = True,
) -> EnginePlan:
    """A plan for tests; max_model_len 0 is whatever the pages hold."""
    return EnginePlan(
        model_path="",
        backend="reference",
        threads=1,
        max_model_len=max_model_len or num_pages * page_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        max_queued=max_queued,
        page_size=page_size,
        num_pages=num_pages,
        kv_bytes=0,
        prefix_caching=prefix_caching,
    )
