from pagemill.cli.plan_lines import plan_lines
from pagemill.types import EnginePlan, ModelCard

CARD = ModelCard(
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
    rope_theta=1e5,
    rms_eps=1e-5,
    tied_embeddings=True,
)
PLAN = EnginePlan(
    model_path="/models/x.gguf",
    backend="cpu",
    threads=2,
    max_model_len=4096,
    max_num_seqs=64,
    max_num_batched_tokens=512,
    max_queued=512,
    page_size=16,
    num_pages=1024,
    kv_bytes=377_487_360,
    prefix_caching=True,
)


def test_says_model_context_threads_and_memory() -> None:
    assert plan_lines("smollm2", CARD, PLAN) == [
        "smollm2: llama, 135M parameters, Q4_1",
        "  context   4096 tokens (the model could take 8192; --max-model-len)",
        "  compute   cpu backend, 2 threads, 64 requests at once, 512 more may wait",
        "  memory    97 MB weights + 377 MB for keys and values (16384 tokens) = 474 MB",
    ]
